#include "trainers/language/diffusion_texts.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr uint32_t kShared = 0xFFFFFFFF;   // draws of the update as a whole

// One micro-batch while it grows.
struct Builder {
  const DiffusionConfig& model;
  Trie trie = {};
  std::vector<int64_t> tokens = {}, predictor = {}, scored = {}, target = {}, row = {};

  int64_t add(int64_t parent, std::span<const int32_t> ids) {
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    return trie.add(parent, static_cast<int64_t>(ids.size()));
  }
  // Answer tokens [first, end) with the masked ones hidden, as a segment of their own, or of one with the prompt.
  void add_noised(const DiffusionText& text, int64_t parent, int64_t first, int64_t end, bool with_prompt, int64_t first_masked) {
    std::vector<int32_t> ids;
    if (with_prompt) ids = text.prompt;
    const auto before = static_cast<int64_t>(ids.size());
    for (int64_t i = first; i < end; ++i) ids.push_back(text.masked[i] ? static_cast<int32_t>(model.mask_id) : text.answer[i]);
    const int64_t segment = add(parent, ids), base = trie.segments[segment].first + before;
    for (int64_t i = first; i < end; ++i) {
      if (!text.masked[i]) continue;
      const int64_t at = base + i - first, number = first_masked++;
      const int64_t from = !model.shifted ? at : at > trie.segments[segment].first ? at - 1 : trie.predictor_of_first(segment);
      if (from < 0) continue;
      predictor.push_back(from), scored.push_back(at), target.push_back(text.answer[i]), row.push_back(number);
    }
  }
  void add_text(const DiffusionText& text, int64_t first_masked) {
    const auto length = static_cast<int64_t>(text.answer.size());
    if (model.block == 0) return add_noised(text, -1, 0, length, true, first_masked);
    const auto masked_in = [&](int64_t first, int64_t end) { return std::count(text.masked.begin() + first, text.masked.begin() + end, uint8_t{1}); };
    int64_t before = add(-1, text.prompt), left = masked_in(0, length);
    for (int64_t first = 0; left > 0; first += model.block) {
      const int64_t end = std::min(length, first + model.block), here = masked_in(first, end);
      if (here > 0) add_noised(text, before, first, end, false, first_masked);
      left -= here, first_masked += here;
      if (left > 0) before = add(before, std::span(text.answer).subspan(first, end - first));
    }
  }
  MicroBatch take() {
    MicroBatch out{.trie = std::move(trie),
                   .tokens = at::tensor(tokens, at::kLong),
                   .predictor = at::tensor(predictor, at::kLong),
                   .scored = at::tensor(scored, at::kLong),
                   .target = at::tensor(target, at::kLong),
                   .place = {},
                   .row = std::move(row)};
    trie = {}, tokens.clear(), predictor.clear(), scored.clear(), target.clear(), row.clear();
    return out;
  }
};

// Tokens that a text takes in a micro-batch, at most.
int64_t size_of(const DiffusionText& text, int64_t block) {
  return static_cast<int64_t>(text.prompt.size() + text.answer.size() * (block == 0 ? 1 : 2));
}

}  // namespace

int64_t blocks_of(int64_t answer, int64_t block) { return block == 0 ? 1 : (answer + block - 1) / block; }

void add_noise(std::span<DiffusionText> texts, int64_t block, const NoiseKey& key) {
  int64_t blocks = 0, number = 0;
  for (const DiffusionText& text : texts) blocks += blocks_of(static_cast<int64_t>(text.answer.size()), block);
  const double u = Draws(key.seed, Stream::kToken, key.phase, key.update, kShared).uniform();
  for (size_t i = 0; i < texts.size(); ++i) {
    DiffusionText& text = texts[i];
    const auto length = static_cast<int64_t>(text.answer.size());
    Draws draws(key.seed, Stream::kToken, key.phase, key.update, static_cast<uint32_t>(i));
    text.p_mask.clear(), text.masked.clear();
    for (int64_t b = 0; b < blocks_of(length, block); ++b) {
      const double t = u + static_cast<double>(number++) / static_cast<double>(blocks);
      text.p_mask.push_back(mask_probability(t - std::floor(t)));
    }
    for (int64_t k = 0; k < length; ++k) text.masked.push_back(draws.uniform() < text.p_mask[block == 0 ? 0 : k / block]);
  }
}

DiffusionBatches pack_diffusion(std::span<const DiffusionText> texts, const DiffusionConfig& model, bool weighted, const PackingOptions& options) {
  DiffusionBatches out;
  int64_t total = 0;
  const auto any = [](const DiffusionText& text) { return std::find(text.masked.begin(), text.masked.end(), 1) != text.masked.end(); };
  for (const DiffusionText& text : texts) {
    out.answer_tokens += static_cast<int64_t>(text.answer.size());
    if (any(text)) total += size_of(text, model.block);
  }
  EvenParts parts(total, options);
  Builder builder{model};
  const auto close = [&] {
    if (!builder.row.empty()) out.batches.push_back(builder.take());
    parts.close();
  };
  for (const DiffusionText& text : texts) {
    if (!any(text)) continue;
    const int64_t size = size_of(text, model.block);
    if (parts.full_before(size) || parts.even_before(size)) close();
    builder.add_text(text, static_cast<int64_t>(out.weight.size()));
    parts.add(size);
    for (size_t k = 0; k < text.masked.size(); ++k)
      if (text.masked[k]) out.weight.push_back(weighted ? static_cast<float>(1 / text.p_mask[model.block == 0 ? 0 : k / model.block]) : 1.0f);
  }
  close();
  return out;
}

}  // namespace trimtab
