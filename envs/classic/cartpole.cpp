// CartPole-v1: balance a pole on a cart by pushing left or right. Reward 1 per step; ends when |x| > 2.4 m or
// |theta| > 12 degrees; truncated after 500 steps. Start: every variable uniform in [-0.05, 0.05].
#include "core/config.h"
#include "core/random.h"
#include "envs/classic/classic.h"
#include "envs/classic/classic_simd.h"

namespace trimtab {
namespace {

constexpr float kUnbounded = 3.4e38f;

ObservationSpec observation() {
  return {.context = {{"cart_position", "m", -4.8f, 4.8f},
                      {"cart_velocity", "m/s", -kUnbounded, kUnbounded},
                      {"pole_angle", "rad", -0.41887903f, 0.41887903f},
                      {"pole_velocity", "rad/s", -kUnbounded, kUnbounded}},
          .item = {},
          .max_items = 0};
}

class CartPole final : public ClassicBatch {
 public:
  CartPole(const CartPoleOptions& options, int64_t size)
      : ClassicBatch({.name = "cartpole",
                      .agents = {{"cart", observation(), {.kind = HeadKind::kCategorical, .size = 2}}},
                      .critic = observation(),
                      .reward_terms = {"alive"},
                      .time_limit = options.time_limit},
                     4, size) {}

 private:
  void advance(const float* actions, double* reward, double* ended) override {
    cartpole_advance({variable(0), variable(1), variable(2), variable(3)}, actions, reward, ended, padded());
  }
  void start(int64_t i, WorldKey key) override {
    Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode),
                static_cast<uint32_t>(key.episode >> 32));
    for (int v = 0; v < 4; ++v) variable(v)[i] = draws.uniform(-0.05f, 0.05f);
  }
  void write_observation(int64_t first, int64_t last, float* out) const override {
    const double *x = variable(0), *x_dot = variable(1), *theta = variable(2), *theta_dot = variable(3);
    for (int64_t i = first; i < last; ++i, out += 4) {
      out[0] = static_cast<float>(x[i]);
      out[1] = static_cast<float>(x_dot[i]);
      out[2] = static_cast<float>(theta[i]);
      out[3] = static_cast<float>(theta_dot[i]);
    }
  }
};

}  // namespace

std::unique_ptr<ClassicBatch> make_cartpole(const CartPoleOptions& options, int64_t size) {
  return std::make_unique<CartPole>(options, size);
}

TT_REGISTER(EnvironmentEntry, cartpole,
            {.name = "cartpole",
             .doc = "balance a pole on a cart (Gymnasium's CartPole-v1)",
             .make = [](const Config& config, const EnvironmentData&,
                        int64_t size) -> std::unique_ptr<BatchEnvironment> {
               CartPoleOptions options;
               config.read(options, {"type"});
               return make_cartpole(options, size);
             },
             .help = [] { return help_of<CartPoleOptions>(); },
             .resolved =
                 [](const Config& config) {
                   CartPoleOptions options;
                   config.read(options, {"type"});
                   return yaml_of(options);
                 },
             .preferred_batch = 8});

}  // namespace trimtab
