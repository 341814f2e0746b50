// The acceptance head of SpecDec++ (Huang et al., arXiv 2405.19715): a small network on the draft's hidden state that says how likely a drafted
// token is to be accepted, and the rule that stops when any of the round's tokens is rejected with a probability above h,
//
//   stop when 1 - a_1 a_2 ... a_k > h.
//
// The network is `blocks` times x + SiLU(W x + b) and a linear layer to two logits, rejected and accepted. In the released code all blocks are
// one and the same; `share` says so here.
//
// Two things differ from the released code. Inputs are normalised by the training rows' mean and deviation. And the hidden state is the one that the
// token was drawn from: theirs has seen the token too, which takes a draft pass before it can be asked. `scalars` gives ln q of the token instead,
// with what else draft_features says of the round (fit: features all).
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/speculative/draft_control.h"

namespace trimtab {

struct AcceptanceShape {
  int64_t hidden = 0;     // numbers of the draft's hidden state
  int64_t blocks = 3;
  bool share = true;      // all blocks have the same weights
  bool scalars = false;   // see the token's and the round's numbers too
  int64_t inputs() const;
  int64_t parameters() const;
  bool operator==(const AcceptanceShape&) const = default;
};

// What one thread needs to ask a head, and what backward needs of forward.
struct AcceptanceWorkspace {
  int64_t rows = 0;
  std::vector<float> x, gate_up, logits;   // blocks' inputs and the last one's output; [W x + b | 1], whose gated unit is SiLU(W x + b); [rows, 2]
  std::vector<float> d_x, d_gate_up, d_before, transposed;
};

class AcceptanceHead {
 public:
  AcceptanceHead(const AcceptanceShape& shape, uint64_t seed);   // untrained; ConfigError for a shape that cannot be

  // DataError naming file, tensor and cure.
  static AcceptanceHead load(const std::filesystem::path& file);
  void save(const std::filesystem::path& file) const;

  const AcceptanceShape& shape() const { return shape_; }
  // For each block (shared: one) W [in, out] and b, then the logits' W [in, 2] and b.
  std::span<float> parameters() { return parameters_; }
  std::span<const float> parameters() const { return parameters_; }
  void normalise(std::vector<float> mean, std::vector<float> scale);   // x -> (x - mean) scale

  void show(const DraftState& s, float* out) const;         // [inputs] of the token drafted last; ConfigError without a fitting hidden state
  void show_raw(const DraftState& s, float* out) const;     // before normalisation
  void forward(int64_t rows, const float* inputs, AcceptanceWorkspace& w) const;                        // w.logits
  void backward(const float* d_logits, float* gradient, AcceptanceWorkspace& w) const;                  // adds d(loss)/d(parameters)
  double log_accept(const DraftState& s, AcceptanceWorkspace& w) const;                                 // ln a of the token drafted last

 private:
  struct Layer {
    const float *weight, *bias;
  };
  int64_t block_size() const;
  Layer block(int64_t i) const;
  Layer last() const;

  AcceptanceShape shape_;
  std::vector<float> parameters_, mean_, scale_;
};

// `most_risk` is h: 0 stops behind the first token, 1 never does.
std::unique_ptr<DraftControl> make_acceptance_control(std::shared_ptr<const AcceptanceHead> head, double most_risk);

}  // namespace trimtab
