// Our side of the stepping comparison: CartPole or Pendulum, 1024 instances, random actions drawn beforehand,
// observations, rewards and ends written out, auto-reset, one thread. Worker of bench/harness.py.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/config.h"
#include "envs/environment.h"

int main(int argc, char** argv) {
  std::string name = "cartpole";
  int64_t size = 1024, steps = 20000;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--env")) name = argv[i + 1];
    if (!std::strcmp(argv[i], "--num-envs")) size = std::atoll(argv[i + 1]);
    if (!std::strcmp(argv[i], "--steps")) steps = std::atoll(argv[i + 1]);
  }
  const auto& entry = trimtab::Registry<trimtab::EnvironmentEntry>::instance().get(name, "environment");
  const auto env = entry.make(trimtab::Config::empty("bench"), {}, size);
  std::vector<trimtab::WorldKey> keys(size);
  for (int64_t i = 0; i < size; ++i) keys[i] = {.seed = 1, .episode = static_cast<uint64_t>(i)};
  env->reset(keys, size);

  constexpr int64_t kDraws = 16;
  std::vector<float> actions(kDraws * size);
  uint32_t state = 1;  // a linear congruential generator is enough for actions
  for (float& a : actions) {
    state = state * 1664525u + 1013904223u;
    const float uniform = static_cast<float>(state >> 8) * 0x1p-24f;
    a = name == "cartpole" ? (uniform < 0.5f ? 0.0f : 1.0f) : 4.0f * uniform - 2.0f;
  }
  const int64_t width = env->spec().agents[0].observation.context_size();
  std::vector<float> observations(size * width), last(size * width), reward(size),
      terms(size * env->spec().reward_terms.size());
  std::vector<uint8_t> terminated(size), truncated(size);
  const trimtab::OutcomeRows out{
      reward.data(), terms.data(), terminated.data(), truncated.data(), {last.data(), nullptr, nullptr}};
  const auto run = [&](int64_t count) {
    for (int64_t t = 0; t < count; ++t) {
      env->act(0, actions.data() + (t % kDraws) * size);
      env->step(out);
      env->observe(0, {observations.data(), nullptr, nullptr});
    }
  };
  run(1000);
  std::printf("{\"ready\": true}\n");
  std::fflush(stdout);
  char line[64];
  while (std::fgets(line, sizeof line, stdin)) {
    const auto begin = std::chrono::steady_clock::now();
    run(steps);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::printf("{\"rate\": %.1f, \"checksum\": %.6g}\n", static_cast<double>(steps * size) / seconds,
                static_cast<double>(observations[0] + reward[0]));
    std::fflush(stdout);
  }
}
