// The distribution that a token is drawn from: softmax(logits / temperature), top_k and top_p applied, as Generator draws
// (generation/token_draw.h). Temperature 0: all of it on the likeliest token.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/generation/generator.h"

namespace trimtab {

// What a draft's distribution looks like before top_k and top_p: what a controller of the draft length goes by.
struct DistributionShape {
  float entropy = 0;   // nats
  float top = 0;       // probability of the likeliest
  float margin = 0;    // by which it is likelier than the next
};

// Of one thread: scratch.
class TokenDistribution {
 public:
  TokenDistribution(int64_t vocab, const SamplingOptions& sampling);

  // logits [padded(vocab)], overwritten beyond vocab -> probabilities [vocab]. RunError when they are not finite.
  void probabilities(float* logits, float* out);
  // The same with the shape, and ln p of every token under softmax(logits / temperature) by `logprob`.
  DistributionShape shape(float* logits, float* out);
  int32_t likeliest() const { return likeliest_; }
  float logprob(const float* logits, int32_t token) const;   // of the row seen last

 private:
  void keep(float* out);

  int64_t vocab_;
  SamplingOptions sampling_;
  std::vector<float> e_, block_sums_;
  std::vector<int32_t> order_;
  double sum_ = 1;
  float max_ = 0;
  int32_t likeliest_ = 0;
};

// The first token at which the sum of `probabilities` passes uniform of their total.
int32_t draw_token(const float* probabilities, int64_t vocab, double uniform);

}  // namespace trimtab
