// Controllers: small networks with hand-written forward and backward on plain arrays, so that a minibatch of
// 64 costs what its arithmetic costs. LibTorch autograd is the truth they are tested against (tests/oracle).
//
// A network is a list of layers over a set of items that share one context row (a plain vector agent has one
// item and no item features). Layer l maps every item row:
//
//   y_i = act( x_i A + c B + b )        c = [context, mean over present items of the previous layer] of the
//   item's group
//
// so it is permutation equivariant and serves any number of items. The policy head reads item rows (actions over items)
// or the pooled row (categorical, Gaussian); the critic reads the pooled row. With `attention` the items of a set also look
// at one another between hidden layers (attention.h), which keeps both.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/random.h"
#include "core/ranks.h"
#include "core/safetensors.h"
#include "core/spec.h"

namespace trimtab {

struct ControllerOptions {
  std::vector<int64_t> hidden = {64, 64};
  std::string activation = "tanh";        // tanh, relu
  std::string head = "softmax_gaussian";  // simplex heads: softmax_gaussian, dirichlet
  double init_log_std = 0.0;              // Gaussian and softmax-Gaussian heads
  bool normalise_observations = true;  // running mean and variance, kept inside the policy and every export
  std::string residual;                // actions over items: item feature added to the logits with a learned coefficient
                                       // ("log_pf_share"); "" none
  double residual_init = 1.0;
  int64_t attention = 0;               // heads of self-attention over items between hidden layers; 0: none. An agent
                                       // without items has nothing to attend to and ignores it
  double last_layer_gain =
      0.01;  // of the policy's last layer; hidden layers have sqrt(2), the critic's last 1
  void describe(Fields& f);
};

// A parameter's place in the flat buffer, so that state is named and never keyed by address.
struct ParameterInfo {
  std::string name;            // "layer0.item.weight"
  std::vector<int64_t> shape;  // weights are [in, out]
  int64_t offset = 0, size = 0;
};

// Observations of N decisions in one block of memory.
struct ObservationBatch {
  int64_t size = 0;                // N
  const float* context = nullptr;  // [N, C]
  const float* items = nullptr;    // [N, U, F]
  const uint8_t* mask = nullptr;   // [N, U] of ItemMask
};

// Scratch of forward and backward for up to `capacity` decisions; allocated once, one per thread.
class ControllerWorkspace;

// The policy of one agent, or (kind kCritic) a state-value function.
class Controller {
 public:
  static std::unique_ptr<Controller> policy(const AgentSpec& agent, const ControllerOptions& options,
                                            uint64_t seed);
  static std::unique_ptr<Controller> critic(const ObservationSpec& view, const ControllerOptions& options,
                                            uint64_t seed);
  virtual ~Controller() = default;

  virtual std::span<float> parameters() = 0;  // flat, trainable
  virtual std::span<const float> parameters() const = 0;
  virtual std::span<const ParameterInfo> parameter_infos() const = 0;
  virtual std::unique_ptr<ControllerWorkspace> workspace(int64_t capacity) const = 0;

  // Normaliser: `accumulate_statistics` adds to (count, mean, M2) per feature in double, `refresh_normaliser`
  // puts them to use; until the first refresh features pass unchanged. Without `normalise_observations` both
  // do nothing. Every rank adds its observations in one call, and all have the statistics of all.
  virtual void accumulate_statistics(const ObservationBatch& observations, Ranks& ranks) = 0;
  void accumulate_statistics(const ObservationBatch& observations) {
    accumulate_statistics(observations, one_process());
  }
  virtual void refresh_normaliser() = 0;

  // Draws actions. `raw` is what log-probability is a density of (z of the softmax-Gaussian, clamped x of the
  // Dirichlet, the index, the unclipped Gaussian, 0 or 1 per item of a subset, the indices of an order); `action` is
  // what the environment gets, within its bounds.
  // Randomness of decision i: `draws(i)`.
  virtual void sample(const ObservationBatch& observations, const std::function<Draws(int64_t)>& draws,
                      float* action, float* raw, float* logp, ControllerWorkspace& workspace) const = 0;
  virtual void mode(const ObservationBatch& observations, float* action,
                    ControllerWorkspace& workspace) const = 0;
  virtual int raw_width() const = 0;  // floats per raw action, as head.width()

  // log-probability and entropy of stored raw actions; keeps what backward needs in the workspace.
  virtual void evaluate(const ObservationBatch& observations, const float* raw, float* logp, float* entropy,
                        ControllerWorkspace& workspace) const = 0;
  virtual void value(const ObservationBatch& observations, float* value,
                     ControllerWorkspace& workspace) const = 0;
  // Adds d(loss)/d(parameters) given d(loss)/d(logp), d(loss)/d(entropy) (policy) or d(loss)/d(value)
  // (critic), after the evaluate/value call on the same workspace.
  virtual void backward_policy(const float* d_logp, const float* d_entropy, float* gradient,
                               ControllerWorkspace& workspace) const = 0;
  virtual void backward_value(const float* d_value, float* gradient,
                              ControllerWorkspace& workspace) const = 0;

  // The logit of each item, `residual` included, of a head with one number per item (shares, a choice, a subset, an order):
  // [size, head.size], 0 where absent. Losses on the logits themselves (imitation, ranking) start here.
  virtual void scores(const ObservationBatch& observations, float* logits, ControllerWorkspace& workspace) const = 0;
  // Adds d(loss)/d(parameters) given d(loss)/d(logits) [size, head.size], after the scores call on the same workspace.
  // Absent items are not looked at.
  virtual void backward_scores(const float* d_logits, float* gradient, ControllerWorkspace& workspace) const = 0;

  // Everything to resume or export, by name: parameters, normaliser, under `prefix`.
  virtual void save(TensorFile& file, const std::string& prefix) const = 0;
  virtual void load(const TensorFile& file, const std::string& prefix) = 0;

  // A neutral description for runtime export: operations in order with their tensors (see runtime/README.md).
  // Rows of `ctx` are the context features first, then the pooled ones. A layer with in = 0 has one row per
  // decision.
  struct Layer {
    int64_t in = 0, context = 0, pooled = 0, out = 0;
    const float *item = nullptr, *ctx = nullptr,
                *bias = nullptr;  // [in, out], [context + pooled, out], [out]
    // Self-attention over the rows after the activation; heads 0: none. Weights are [out, out].
    struct Attention {
      int64_t heads = 0;
      const float *query = nullptr, *key = nullptr, *value = nullptr, *mix = nullptr;
    } attention = {};
  };
  virtual std::vector<Layer> layers() const = 0;
  // The normaliser in use: x -> clamp((x - mean) * scale, -clip, clip); a constant feature has scale 0.
  struct Normaliser {
    std::span<const float> context_mean, context_scale, item_mean, item_scale;
    float clip = 0;
  };
  virtual Normaliser normaliser() const = 0;
  struct Residual {
    int item_feature = -1;  // -1: none
    float coefficient = 0;  // logit += coefficient * feature as observed
  };
  virtual Residual residual() const = 0;
  virtual const ControllerOptions& options() const = 0;
};

class ControllerWorkspace {
 public:
  virtual ~ControllerWorkspace() = default;
};

}  // namespace trimtab
