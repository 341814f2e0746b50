// Our side of prb_power_env: prb_power's Cell stepped with proportional fair and equal power, everything on
// (fresh per-PRB reports, EESM, BLER draws, outer loop, HARQ with combining), 10 users x 51 PRBs, one thread,
// one cell after another in a batch. Worker of bench/harness.py: every "go" steps --slots cell-slots.
// --decision times one full learned-agent decision.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "domain/radio/trace.h"
#include "envs/prb_power/cell.h"

namespace {

using trimtab::Cell;

std::shared_ptr<const Cell> make_cell(const std::string& trace) {
  trimtab::PrbPowerOptions options;
  options.prb = "pf";
  options.power = "equal";
  std::vector<std::shared_ptr<trimtab::radio::TraceSource>> sources;
  if (trace.empty()) {
    options.data = "synthetic";
    sources.push_back(trimtab::radio::synthetic_trace(options.synthetic));
  } else {
    sources.push_back(trimtab::radio::open_trace(trace, options.trace));
  }
  return std::make_shared<const Cell>(options, std::move(sources));
}

class Slots {
 public:
  Slots(std::shared_ptr<const Cell> cell, int64_t batch)
      : cell_(cell),
        env_(cell, batch),
        reward_(batch),
        terms_(batch * cell->spec().reward_terms.size()),
        ended_(2 * batch) {
    std::vector<trimtab::WorldKey> keys(batch);
    for (int64_t i = 0; i < batch; ++i) keys[i] = {.seed = 1, .episode = static_cast<uint64_t>(i) % kDrops};
    env_.reset(
        keys,
        0);  // stride 0: the same few worlds again, so that no channel is drawn or read while the clock runs
    const int64_t users = cell->spec().critic.max_items;
    context_.resize(batch * cell->spec().critic.context_size());
    items_.resize(batch * users * cell->spec().critic.item_size());
    mask_.resize(batch * users);
  }
  // Steps every cell `steps` times; returns the cell-slots taken.
  int64_t run(int64_t steps) {
    const trimtab::OutcomeRows out{.reward = reward_.data(),
                                   .terms = terms_.data(),
                                   .terminated = ended_.data(),
                                   .truncated = ended_.data() + reward_.size(),
                                   .final_critic = {context_.data(), items_.data(), mask_.data()}};
    for (int64_t t = 0; t < steps; ++t) env_.step(out);
    return steps * static_cast<int64_t>(reward_.size());
  }

 private:
  static constexpr uint64_t kDrops = 8;
  std::shared_ptr<const Cell> cell_;
  trimtab::LightBatch<Cell> env_;
  std::vector<float> reward_, terms_;
  std::vector<uint8_t> ended_;
  std::vector<float> context_, items_;
  std::vector<uint8_t> mask_;
};

}  // namespace

int main(int argc, char** argv) {
  int64_t slots = 100000, batch = 64;
  std::string trace;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--slots")) slots = std::atoll(argv[i + 1]);
    if (!std::strcmp(argv[i], "--batch")) batch = std::atoll(argv[i + 1]);
    if (!std::strcmp(argv[i], "--trace")) trace = argv[i + 1];
  }
  Slots side(make_cell(trace), batch);
  side.run(2 * 200);  // past the first episodes, so that outer loop and HARQ are in their usual state
  std::printf("{\"ready\": true}\n");
  std::fflush(stdout);
  char line[64];
  while (std::fgets(line, sizeof line, stdin)) {
    const auto begin = std::chrono::steady_clock::now();
    const int64_t taken = side.run(slots / batch);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::printf("{\"rate\": %.1f}\n", static_cast<double>(taken) / seconds);
    std::fflush(stdout);
  }
}
