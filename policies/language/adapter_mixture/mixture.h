// A mixture of low-rank adapters with a trainable router in every decoder layer (DynMoLE: Li et al., arXiv 2504.00661). Base and adapters are
// frozen; the routers alone learn. A linear layer that adapters change gives
//
//   y = W x + sum_i w_i(token) scale_i B_i A_i x,     w = route(softmax(R h + c))                       (policies/tsallis)
//
// with h the decoder layer's input after its input norm, R [N, hidden] and c [N] that layer's router: one set of weights for all linear
// layers of a decoder layer. Adapters may differ in rank, scale and targets: one without A and B for a linear layer adds nothing there,
// and its weight is not given to others. The A and B of all adapters lie beside one another, so a layer is two products for any N.
//
// CPU, f32 or f64; causal models. Adapters of the output layer (lm_head) are refused: it belongs to no decoder layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "policies/language/adapter_mixture/routing.h"
#include "policies/language/transformer.h"

namespace trimtab {

// Added to the task's loss; the defaults are the paper's.
struct RouterLossWeights {
  double entropy = 1e-2, balance = 1e-3;
};

struct MixturePass {
  at::Tensor hidden;                               // [T, hidden], after the last norm
  std::vector<at::Tensor> probabilities, weights;  // of each decoder layer, [T, N]
  int64_t soft = 0;                                // of the T x layers decisions
};

class AdapterMixture {
 public:
  // Adapters are of this base (Transformer::with_adapter). Routers start at 0: every adapter is as likely, and all are mixed evenly.
  // ConfigError when there are none, or for one of lm_head.
  AdapterMixture(const Transformer& base, std::span<const Transformer> adapters, const TsallisRouting& routing);

  // What write() left in `folder`. DataError naming the file for one that is missing, damaged or of another base.
  static AdapterMixture read(const Transformer& base, const std::filesystem::path& folder);
  // mixture.json (routing), routers.safetensors (f32) and adapters/N in PEFT's layout: all but the base.
  void write(const std::filesystem::path& folder) const;

  // tokens [T] i64, the rows of `trie`.
  MixturePass forward(const at::Tensor& tokens, const Trie& trie) const;
  const at::Tensor& head() const { return head_; }   // [vocab, hidden]
  // entropy * mean S_q + balance * balance_loss: means over the decoder layers, and over the rows of this pass.
  at::Tensor router_loss(const MixturePass& pass, const RouterLossWeights& weights) const;

  // The likeliest reply to each prompt, token by token with keys and values kept: up to `max_tokens` each, or until `over` says so of a
  // reply's tokens so far. Prompts have a token at least.
  using Over = std::function<bool(size_t prompt, std::span<const int32_t> reply)>;
  std::vector<std::vector<int32_t>> complete(std::span<const std::vector<int32_t>> prompts, int64_t max_tokens, const Over& over) const;

  // The same mixture with these weights [N] for every token and layer instead of the routers': an adapter alone, an even mixture.
  AdapterMixture with_fixed_weights(const std::vector<double>& weights) const;

  // [layers, N, hidden + 1], a leaf that requires gradients: rows [R | c].
  const at::Tensor& routers() const { return routers_; }
  const TsallisRouting& routing() const { return routing_; }
  const TransformerConfig& config() const { return config_; }
  int64_t experts() const { return static_cast<int64_t>(adapters_.size()); }

 private:
  struct Beside {                // all adapters of one linear layer; R: the sum of their ranks
    at::Tensor a, b, expert;     // [R, in], [out, R] times each one's scale, [R] i64
  };
  // Attention of decoder layer i on [q | k | v] rows, which turns q and k itself.
  using Attend = std::function<at::Tensor(int64_t i, const at::Tensor& qkv)>;

  const at::Tensor& weight(const std::string& name) const { return base_.at(name); }
  at::Tensor bias(const std::string& layer) const;
  void put_beside(const std::string& layer);
  at::Tensor route_layer(int64_t i, const at::Tensor& normed, MixturePass& pass) const;
  at::Tensor add_adapters(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w, std::initializer_list<std::string> layers) const;
  at::Tensor decoder_layer(int64_t i, const at::Tensor& x, const Attend& attend, MixturePass& pass) const;
  MixturePass pass_over(const at::Tensor& tokens, const Attend& attend) const;
  at::Tensor step(const at::Tensor& tokens, int64_t position, std::vector<at::Tensor>& keys, std::vector<at::Tensor>& values) const;
  void complete_batch(std::span<const std::vector<int32_t>> prompts, int64_t max_tokens, const Over& over, std::span<std::vector<int32_t>> replies) const;

  TransformerConfig config_;
  TsallisRouting routing_;
  std::vector<Transformer> adapters_;
  std::map<std::string, at::Tensor> base_;   // parameters by name, frozen
  std::map<std::string, Beside> beside_;     // by linear layer
  RopeFrequencies frequencies_;
  at::Tensor head_, routers_, fixed_;
};

}  // namespace trimtab
