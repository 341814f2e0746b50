// Action heads: from the network's output rows to actions, log-probabilities and entropies, and back to
// gradients.
//
//   categorical        p = softmax(logits of the pooled row); raw = the index
//   choice             p = softmax over present items of the logit of each; raw = the item's index
//   gaussian           a ~ N(mu of the pooled row, sigma), one learned log sigma per dimension; raw = the unclipped a
//   softmax_gaussian   z ~ N(mu of each item, sigma), one learned log sigma; share = softmax(z) over present items; raw = z
//   dirichlet          alpha = 1 + softplus(logit of each item); share ~ Dirichlet(alpha); raw = the clamped share
//   subset, order      see heads_of_sets.h
//
// log p and entropy of softmax_gaussian are those of z: the map to shares forgets a common shift, so shares
// have no density of their own, and the ratio in z is the right one. Absent items have raw 0, share 0 and
// take no part in anything.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/random.h"
#include "core/spec.h"

namespace trimtab {

// Network outputs of a batch: item heads choose among the rows of decision i at offsets[i] .. ends[i]-1. Behind them, up to offsets[i+1]-1, are
// items that are only seen.
struct HeadInput {
  int64_t size = 0;                  // decisions
  const int32_t* offsets = nullptr;  // [size + 1]
  const int32_t* ends = nullptr;     // [size]
  const int32_t* slot = nullptr;     // [rows]: the item a row belongs to
  const float* output = nullptr;     // [rows or size, outputs]
  int64_t stride = 0;
  const float* log_std = nullptr;  // [num_log_std]
};

class ActionHead {
 public:
  static std::unique_ptr<ActionHead> make(const HeadSpec& spec, const std::string& simplex_head);
  virtual ~ActionHead() = default;

  virtual bool per_item() const = 0;
  virtual int64_t outputs() const = 0;  // per row
  virtual int64_t num_log_std() const = 0;
  int64_t width() const { return spec_.width(); }
  int64_t size() const { return spec_.size; }
  // Floats per decision that `evaluate` leaves for `backward`.
  virtual int64_t saved_width() const = 0;

  virtual void sample(const HeadInput& in, const std::function<Draws(int64_t)>& draws, float* action,
                      float* raw) const = 0;
  virtual void mode(const HeadInput& in, float* action) const = 0;
  virtual void evaluate(const HeadInput& in, const float* raw, float* logp, float* entropy,
                        float* saved) const = 0;
  // Writes d(loss)/d(output) and adds d(loss)/d(log_std).
  virtual void backward(const HeadInput& in, const float* raw, const float* saved, const float* d_logp,
                        const float* d_entropy, float* d_output, int64_t d_stride,
                        float* d_log_std) const = 0;

 protected:
  explicit ActionHead(const HeadSpec& spec) : spec_(spec) {}
  HeadSpec spec_;
};

// A head that reads one number of every present item.
class ItemHead : public ActionHead {
 public:
  bool per_item() const final { return true; }
  int64_t outputs() const final { return 1; }

 protected:
  using ActionHead::ActionHead;
  static float logit(const HeadInput& in, int64_t row) { return in.output[row * in.stride]; }
};

}  // namespace trimtab
