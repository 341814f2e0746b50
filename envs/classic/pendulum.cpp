// Pendulum-v1: swing a pendulum up with a torque too weak to lift it at once. Reward -(angle^2 + 0.1
// velocity^2 + 0.001 torque^2); never ends, truncated after 200 steps. Start: angle uniform in [-pi, pi],
// velocity uniform in [-1, 1].
#include "core/config.h"
#include "core/random.h"
#include "envs/classic/classic.h"
#include "envs/classic/classic_simd.h"

namespace trimtab {
namespace {

ObservationSpec observation() {
  return {.context = {{"cosine", "", -1, 1}, {"sine", "", -1, 1}, {"velocity", "rad/s", -8, 8}},
          .item = {},
          .max_items = 0};
}

class Pendulum final : public ClassicBatch {
 public:
  Pendulum(const PendulumOptions& options, int64_t size)
      : ClassicBatch({.name = "pendulum",
                      .agents = {{"torque",
                                  observation(),
                                  {.kind = HeadKind::kGaussian, .size = 1, .low = -2, .high = 2}}},
                      .critic = observation(),
                      .reward_terms = {"cost"},
                      .time_limit = options.time_limit},
                     2, size),
        sine_(padded()),
        cosine_(padded()) {}

 private:
  void advance(const float* actions, double* reward, double* ended) override {
    pendulum_advance({variable(0), variable(1)}, actions, reward, ended, padded());
  }
  void start(int64_t i, WorldKey key) override {
    Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode),
                static_cast<uint32_t>(key.episode >> 32));
    variable(0)[i] = 3.14159265358979323846 * draws.uniform(-1.0f, 1.0f);
    variable(1)[i] = draws.uniform(-1.0f, 1.0f);
  }
  void write_observation(int64_t first, int64_t last, float* out) const override {
    const int64_t begin = first / 8 * 8;  // whole vectors
    sine_cosine(variable(0) + begin, sine_.data() + begin, cosine_.data() + begin,
                (last + 7) / 8 * 8 - begin);
    const double* velocity = variable(1);
    for (int64_t i = first; i < last; ++i, out += 3) {
      out[0] = static_cast<float>(cosine_[i]);
      out[1] = static_cast<float>(sine_[i]);
      out[2] = static_cast<float>(velocity[i]);
    }
  }
  mutable std::vector<double> sine_, cosine_;  // [padded] scratch of write_observation
};

}  // namespace

std::unique_ptr<ClassicBatch> make_pendulum(const PendulumOptions& options, int64_t size) {
  return std::make_unique<Pendulum>(options, size);
}

TT_REGISTER(EnvironmentEntry, pendulum,
            {.name = "pendulum",
             .doc = "swing up a pendulum (Gymnasium's Pendulum-v1)",
             .make = [](const Config& config, const EnvironmentData&,
                        int64_t size) -> std::unique_ptr<BatchEnvironment> {
               PendulumOptions options;
               config.read(options, {"type"});
               return make_pendulum(options, size);
             },
             .help = [] { return help_of<PendulumOptions>(); },
             .resolved =
                 [](const Config& config) {
                   PendulumOptions options;
                   config.read(options, {"type"});
                   return yaml_of(options);
                 },
             .preferred_batch = 8});

}  // namespace trimtab
