// Noised texts of masked diffusion training, and their packing: which tokens of an answer are masked, what they weigh, and the tries in
// which they are computed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policies/language/config.h"
#include "trainers/language/packing.h"

namespace trimtab {

// (1 - 1e-3) t + 1e-3: the chance that a token is masked at time t (LLaDA, arXiv 2502.09992; MDLM, arXiv 2406.07524).
inline double mask_probability(double t) { return (1 - 1e-3) * t + 1e-3; }

struct DiffusionText {
  std::vector<int32_t> prompt, answer;   // the answer with its padding
  std::vector<double> p_mask;            // of every block of the answer; one for the whole where there are no blocks
  std::vector<uint8_t> masked;           // [answer]
};

// The number of blocks of an answer; block 0: one.
int64_t blocks_of(int64_t answer, int64_t block);

struct NoiseKey {
  uint64_t seed = 0;
  uint32_t phase = 0, update = 0;
};
// Draws t for every block of every text and masks tokens independently. The t of an update are u, u + 1/n, u + 2/n, ... (mod 1) with one
// drawn u: each is uniform on [0, 1), and together they cover it evenly (the antithetic t of MDLM).
void add_noise(std::span<DiffusionText> texts, int64_t block, const NoiseKey& key);

struct DiffusionBatches {
  std::vector<MicroBatch> batches;   // MicroBatch::row counts the masked tokens of all texts in order
  std::vector<float> weight;         // [masked tokens]: 1 / p_mask, or 1
  int64_t answer_tokens = 0;         // of all texts, masked or not, padding included: what the loss is divided by
};

// Block 0: a root per text, prompt and noised answer. Block B: the prompt is a root, and below it are the clean blocks in a chain, each
// with its noised twin beside it; what nothing reads is left out. `model.shifted`: the row before a masked one predicts it; a first token
// without a prompt then has no predictor and is left out. For Scorer with ForwardOptions{.causal = false}.
DiffusionBatches pack_diffusion(std::span<const DiffusionText> texts, const DiffusionConfig& model, bool weighted, const PackingOptions& options);

}  // namespace trimtab
