#include "envs/adapter_route/requests.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/gamma.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr uint32_t kOfRequest = 0, kOfRanking = 1;

// Of mean 1.
double gap_of(uint64_t world, int64_t request, double cv) {
  Draws draws(world, Stream::kArrival, static_cast<uint32_t>(request));
  return cv == 0 ? 1 : cv * cv * gamma_of(draws, 1 / (cv * cv));
}

// Which task has which rank of popularity.
std::vector<int32_t> ranking(uint64_t world, int64_t period, int64_t tasks) {
  Draws draws(world, Stream::kWorld, static_cast<uint32_t>(period), kOfRanking);
  std::vector<int32_t> out(tasks);
  std::iota(out.begin(), out.end(), 0);
  for (int64_t i = tasks - 1; i > 0; --i) std::swap(out[i], out[draws.below(static_cast<uint32_t>(i + 1))]);
  return out;
}

int32_t between(Draws& draws, int64_t low, int64_t high) { return static_cast<int32_t>(low + draws.below(static_cast<uint32_t>(high - low + 1))); }

}  // namespace

void RequestOptions::describe(Fields& f) {
  f.integer("requests", requests, {.low = 1, .high = 1 << 20, .doc = "of an episode"});
  f.number("rate", rate, {.low = 1e-6, .high = 1e6, .unit = "1/s", .doc = "of arrivals, mean"});
  f.number("cv", cv, {.low = 0, .high = 10, .doc = "coefficient of variation of the gaps between arrivals: 1 is Poisson, above come bursts"});
  f.number("alpha", alpha, {.low = 0.01, .high = 1, .doc = "popularity of tasks: 1 all alike, towards 0 a few take all"});
  f.integer("input_low", input_low, {.low = 1, .high = 1 << 20, .unit = "tokens", .doc = "shortest input"});
  f.integer("input_high", input_high, {.low = 1, .high = 1 << 20, .unit = "tokens", .doc = "longest input"});
  f.integer("output_low", output_low, {.low = 1, .high = 1 << 20, .unit = "tokens", .doc = "shortest output"});
  f.integer("output_high", output_high, {.low = 1, .high = 1 << 20, .unit = "tokens", .doc = "longest output"});
  f.choice("drift", drift, {"none", "abrupt", "slow"}, "how the popularity of tasks changes within an episode");
  f.integer("drift_period", drift_period, {.low = 1, .high = 1 << 20, .unit = "requests", .doc = "drift: until the next ranking of tasks"});
  f.text("log", log, {.doc = "a log of requests, JSONL with time_s, task, input_tokens, output_tokens, in place of drawn ones; an episode is a stretch of it; empty: drawn"});
}
void RequestOptions::validate() const {
  if (input_high < input_low) throw ConfigError(fmt::format("input_high = {} is below input_low = {}", input_high, input_low));
  if (output_high < output_low) throw ConfigError(fmt::format("output_high = {} is below output_low = {}", output_high, output_low));
}

uint64_t world_of(WorldKey key) { return mix64(key.seed ^ mix64(key.episode)); }

void draw_requests(WorldKey key, const RequestOptions& o, int64_t tasks, std::vector<Request>& out) {
  const uint64_t world = world_of(key);
  const bool drifts = o.drift != "none", slowly = o.drift == "slow";
  std::vector<int32_t> now = ranking(world, 0, tasks), next = slowly ? ranking(world, 1, tasks) : now;
  double clock_ms = 0;
  out.resize(o.requests);
  for (int64_t i = 0; i < o.requests; ++i) {
    const int64_t period = drifts ? i / o.drift_period : 0, place = i % o.drift_period;
    if (drifts && place == 0 && i > 0) {
      now = slowly ? std::move(next) : ranking(world, period, tasks);
      if (slowly) next = ranking(world, period + 1, tasks);
    }
    Draws draws(world, Stream::kWorld, static_cast<uint32_t>(i), kOfRequest);
    const double x = std::pow(static_cast<double>(draws.uniform()), 1 / o.alpha);
    const bool ahead = slowly && draws.uniform() * static_cast<float>(o.drift_period) < static_cast<float>(place);
    clock_ms += 1000 / o.rate * gap_of(world, i, o.cv);
    Request& r = out[i];
    r = {.arrival_ms = clock_ms};
    r.task = (ahead ? next : now)[std::min(tasks - 1, static_cast<int64_t>(x * static_cast<double>(tasks)))];
    r.input_tokens = between(draws, o.input_low, o.input_high);
    r.output_tokens = between(draws, o.output_low, o.output_high);
  }
}

}  // namespace trimtab
