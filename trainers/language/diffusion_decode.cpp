#include "trainers/language/diffusion_decode.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr int64_t kTogether = 16;   // sequences of one pass

struct Canvas {
  const GenerationRequest* request = nullptr;
  Completion out;
  std::vector<int32_t> answer;   // the mask where nothing is committed yet
};

struct Decoder {
  const Transformer& model;
  const SamplingOptions& sampling;
  std::span<const int32_t> stop_ids;
  uint64_t seed = 0;

  int32_t mask() const { return static_cast<int32_t>(model.config().diffusion.mask_id); }
  // Tokens of the answer that are looked at: to the end of the block in which the first mask stands; 0: the answer is known. What stands
  // right of a committed stop token is no part of it.
  int64_t open(const Canvas& c) const {
    const auto first = std::find_if(c.answer.begin(), c.answer.end(), [&](int32_t id) {
      return id == mask() || std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end();
    });
    if (first == c.answer.end() || *first != mask()) return 0;
    const int64_t block = model.config().diffusion.block, all = static_cast<int64_t>(c.answer.size());
    return block == 0 ? all : std::min(all, ((first - c.answer.begin()) / block + 1) * block);
  }
  // One pass over all canvases that are open; false: none is.
  bool pass(std::vector<Canvas>& canvases) const;
  void commit(Canvas& c, const std::vector<int64_t>& positions, const at::Tensor& logits) const;
};

bool Decoder::pass(std::vector<Canvas>& canvases) const {
  Trie trie;
  std::vector<int64_t> tokens, rows;
  std::vector<std::pair<Canvas*, std::vector<int64_t>>> places;   // masked positions of the answer
  const DiffusionConfig& diffusion = model.config().diffusion;
  for (Canvas& c : canvases) {
    const int64_t length = open(c);
    if (length == 0) continue;
    const int64_t first = trie.num_rows, prompt = static_cast<int64_t>(c.request->prompt.size());
    const int64_t offset = static_cast<int64_t>(trie.segments.size());
    for (const Trie::Segment& s : canvas_trie(prompt, length, diffusion.block).segments) trie.add(s.parent < 0 ? -1 : s.parent + offset, s.length);
    tokens.insert(tokens.end(), c.request->prompt.begin(), c.request->prompt.end());
    tokens.insert(tokens.end(), c.answer.begin(), c.answer.begin() + length);
    places.push_back({&c, {}});
    const int64_t from = diffusion.block == 0 ? 0 : (length - 1) / diffusion.block * diffusion.block;
    for (int64_t i = from; i < length; ++i)
      if (c.answer[i] == mask()) places.back().second.push_back(i), rows.push_back(first + prompt + i - (diffusion.shifted ? 1 : 0));
  }
  if (places.empty()) return false;
  const at::Tensor hidden = model.hidden(at::tensor(tokens, at::kLong), trie, {.causal = false});
  const at::Tensor logits = at::mm(hidden.index_select(0, at::tensor(rows, at::kLong).to(hidden.device())), model.head().t()).to(at::kCPU, at::kFloat);
  logits.select(1, diffusion.mask_id).fill_(-INFINITY);
  int64_t row = 0;
  for (auto& [canvas, positions] : places) {
    commit(*canvas, positions, logits.narrow(0, row, static_cast<int64_t>(positions.size())));
    row += static_cast<int64_t>(positions.size());
  }
  return true;
}

void Decoder::commit(Canvas& c, const std::vector<int64_t>& positions, const at::Tensor& logits) const {
  const at::Tensor p = at::softmax(sampling.temperature > 0 ? logits / sampling.temperature : logits, -1).contiguous();
  const int64_t size = p.size(1);
  float best = -1;
  int64_t where = 0, token = 0;
  for (size_t i = 0; i < positions.size(); ++i) {
    const float* x = p.const_data_ptr<float>() + static_cast<int64_t>(i) * size;
    int64_t proposed = std::max_element(x, x + size) - x;
    if (sampling.temperature > 0) {   // the same draw in every pass: a proposal changes only as its law does
      const float u = Draws(seed, Stream::kToken, static_cast<uint32_t>(c.request->key), static_cast<uint32_t>(c.out.sample), static_cast<uint32_t>(positions[i])).uniform();
      float below = 0;
      for (int64_t v = 0; v < size; ++v) {
        below += x[v];
        if (u < below) {
          proposed = v;
          break;
        }
      }
    }
    if (x[proposed] > best) best = x[proposed], where = positions[i], token = proposed;
  }
  c.answer[where] = static_cast<int32_t>(token);
}

void finish(Canvas& c, std::span<const int32_t> stop_ids) {
  const auto end = std::find_first_of(c.answer.begin(), c.answer.end(), stop_ids.begin(), stop_ids.end());
  c.out.finish = end == c.answer.end() ? Finish::kLength : Finish::kStop;
  c.out.tokens.assign(c.answer.begin(), end == c.answer.end() ? end : end + 1);
}

}  // namespace

Trie canvas_trie(int64_t prompt, int64_t answer, int64_t block) {
  Trie out;
  if (block == 0) {
    out.add(-1, prompt + answer);
    return out;
  }
  int64_t before = out.add(-1, prompt);
  for (int64_t first = 0; first < answer; first += block) before = out.add(before, std::min(block, answer - first));
  return out;
}

std::vector<Completion> decode_one_token_per_pass(const Transformer& model, std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                                                  std::span<const int32_t> stop_ids, uint64_t seed, Pool& pool,
                                                  const std::function<void(int64_t, int64_t)>& progress) {
  if (!model.config().diffusion.enabled()) throw ConfigError("a causal model has no mask token to fill in; convert it with the preset diffusion first");
  std::vector<Canvas> all;
  for (size_t i = 0; i < requests.size(); ++i)
    for (int64_t s = 0; s < requests[i].samples; ++s) {
      if (std::find(requests[i].prompt.begin(), requests[i].prompt.end(), model.config().diffusion.mask_id) != requests[i].prompt.end())
        throw DataError(fmt::format("request {}: the prompt holds the mask token {}, which stands for what is not known yet: leave it out", i, model.config().diffusion.mask_id));
      all.push_back({&requests[i], {static_cast<int64_t>(i), requests[i].first_sample + s, {}, {}, Finish::kLength},
                     std::vector<int32_t>(sampling.max_tokens, static_cast<int32_t>(model.config().diffusion.mask_id))});
    }
  const Decoder decoder{model, sampling, stop_ids, seed};
  const int64_t count = static_cast<int64_t>(all.size());
  std::vector<Completion> out(all.size());
  pool.run((count + kTogether - 1) / kTogether, [&](int64_t part) {
    const torch::NoGradGuard no_grad;
    at::set_num_threads(1);
    const int64_t first = part * kTogether, last = std::min(count, first + kTogether);
    std::vector<Canvas> mine(std::make_move_iterator(all.begin() + first), std::make_move_iterator(all.begin() + last));
    while (decoder.pass(mine)) {}
    for (int64_t i = first; i < last; ++i) {
      finish(mine[i - first], stop_ids);
      out[i] = std::move(mine[i - first].out);
    }
  });
  int64_t tokens = 0;
  for (const Completion& c : out) tokens += static_cast<int64_t>(c.tokens.size());
  if (progress) progress(tokens, count);
  return out;
}

}  // namespace trimtab
