#include "trainers/fit/guard.h"

#include <cmath>
#include <cstdio>

#include "core/error.h"

namespace trimtab {
namespace {

constexpr size_t kFewest = 16;   // values before a deviation means anything

}  // namespace

void GuardBlock::describe(Fields& f) {
  f.choice("non_finite", non_finite, {"stop", "skip"}, "a number that is not finite ends the run, or its step is left out; the batch is dumped either way");
  f.number("spike", spike, {.low = 0, .high = 1e6, .doc = "leave out steps whose loss or gradient norm is so many deviations above those before; 0: none"});
  f.integer("window", window, {.low = static_cast<double>(kFewest), .high = 1e6, .unit = "steps", .doc = "that a spike is compared with"});
}

bool StepGuard::Window::is_spike(double value, double threshold, int64_t size) {
  double mean = 0, squares = 0;
  const double n = static_cast<double>(values.size());
  for (const double v : values) mean += v / n;
  for (const double v : values) squares += (v - mean) * (v - mean) / n;
  const bool spike = values.size() >= kFewest && value - mean > threshold * (std::sqrt(squares) + 1e-12);
  values.push_back(value);
  if (static_cast<int64_t>(values.size()) > size) values.pop_front();
  return spike;
}

void StepGuard::refuse(const std::string& explanation) {
  if (options_.non_finite == "stop") throw RunError(explanation + "; trainer.guard.non_finite=skip leaves such steps out");
  ++not_finite_;
  fmt::print(stderr, "trimtab: {}; the step is left out ({} so far)\n", explanation, not_finite_);
}

bool StepGuard::is_spike(double loss, double norm) {
  if (options_.spike <= 0) return false;
  const bool of_loss = loss_.is_spike(loss, options_.spike, options_.window), of_norm = norm_.is_spike(norm, options_.spike, options_.window);
  if (!of_loss && !of_norm) return false;
  ++spikes_;
  fmt::print(stderr, "trimtab: the {} of a step, {:.4g}, is more than {:g} deviations above those before; the step is left out ({} so far)\n", of_loss ? "loss" : "gradient norm",
             of_loss ? loss : norm, options_.spike, spikes_);
  return true;
}

std::vector<std::pair<std::string, double>> StepGuard::metrics() const {
  std::vector<std::pair<std::string, double>> out;
  if (options_.non_finite == "skip") out.push_back({"guard/not_finite", static_cast<double>(not_finite_)});
  if (options_.spike > 0) out.push_back({"guard/spikes", static_cast<double>(spikes_)});
  return out;
}

nlohmann::json StepGuard::to_json() const { return {{"loss", loss_.values}, {"norm", norm_.values}, {"not_finite", not_finite_}, {"spikes", spikes_}}; }

void StepGuard::restore(const nlohmann::json& json) {
  loss_.values = json.at("loss").get<std::deque<double>>();
  norm_.values = json.at("norm").get<std::deque<double>>();
  not_finite_ = json.at("not_finite").get<int64_t>();
  spikes_ = json.at("spikes").get<int64_t>();
}

}  // namespace trimtab
