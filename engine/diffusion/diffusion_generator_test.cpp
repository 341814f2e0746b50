// Proposals against the model's own probabilities, decoding against a slow decoder written on ATen, and what is promised: exact caches where
// they are exact, the same answers whatever the batch, endings that never overtake a mask, counts, errors.
#include "engine/diffusion/diffusion_generator.h"

#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems
constexpr int64_t kMask = 3;

TransformerConfig config_of(const std::string& family, int64_t vocab = 23) {
  TransformerConfig c;
  c.family = family, c.vocab_size = vocab, c.hidden_size = 32, c.num_layers = 2, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 8, c.intermediate_size = 40;
  c.max_positions = 512, c.qkv_bias = family == "qwen2", c.qk_norm = family == "qwen3", c.tied_embeddings = family == "qwen2";
  return c;
}

// Weights large enough that attention and proposals are far from uniform.
Transformer model_of(uint32_t index, const std::string& family = "llama", int64_t vocab = 23, float scale = 6) {
  Transformer model(config_of(family, vocab), test_seed() + index);
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : model.parameters())
    if (p.dim() == 2) p.mul_(scale);
  return model;
}

std::vector<int32_t> random_prompt(int64_t length, Draws& draws, int64_t vocab = 23) {
  std::vector<int32_t> ids;
  while (static_cast<int64_t>(ids.size()) < length)
    if (const auto id = static_cast<int32_t>(draws.below(static_cast<uint32_t>(vocab))); id != kMask) ids.push_back(id);
  return ids;
}

std::vector<GenerationRequest> requests_of(int64_t count, uint32_t index, int64_t longest = 20) {
  Draws draws(test_seed(), Stream::kTest, index);
  std::vector<GenerationRequest> out;
  for (int64_t r = 0; r < count; ++r) {
    GenerationRequest& q = out.emplace_back();
    q.prompt = random_prompt(1 + draws.below(static_cast<uint32_t>(longest)), draws), q.key = draws.bits(), q.samples = 1 + draws.below(2);
  }
  return out;
}

// ---- controls ----

class Threshold final : public CommitControl {   // everything at or above; above 1: what the generator forces
 public:
  explicit Threshold(float p) : p_(p) {}
  void choose(const CommitState& s, std::vector<int32_t>& picks) override {
    for (size_t i = 0; i < s.masked.size(); ++i)
      if (s.masked[i].confidence >= p_) picks.push_back(static_cast<int32_t>(i));
  }

 private:
  float p_;
};

class Top final : public CommitControl {   // the most confident `count`
 public:
  explicit Top(size_t count = 1) : count_(count) {}
  void choose(const CommitState& s, std::vector<int32_t>& picks) override {
    for (size_t i = 0; i < s.masked.size(); ++i) picks.push_back(static_cast<int32_t>(i));
    std::stable_sort(picks.begin(), picks.end(), [&](int32_t a, int32_t b) { return s.masked[a].confidence > s.masked[b].confidence; });
    picks.resize(std::min(count_, picks.size()));
  }

 private:
  size_t count_;
};

class Leftmost final : public CommitControl {
 public:
  void choose(const CommitState&, std::vector<int32_t>& picks) override { picks.push_back(0); }
};

class Whimsical : public CommitControl {   // any subset, often empty; the same in any company
 public:
  void choose(const CommitState& s, std::vector<int32_t>& picks) override {
    for (size_t i = 0; i < s.masked.size(); ++i)
      if (mix64(static_cast<uint64_t>(s.sequence * 7919 + s.pass * 31 + s.masked[i].position)) % 4 == 0) picks.push_back(static_cast<int32_t>(i));
  }
};

class Wishing final : public Whimsical {
 public:
  explicit Wishing(CacheRefresh wish) : wish_(wish) {}
  CacheRefresh refresh(const CommitState&) override { return wish_; }

 private:
  CacheRefresh wish_;
};

// ---- a slow model and a slow decoder ----

// Final hidden states with any mask of attention: visible [T, T]. Llama and Qwen3 without biases.
at::Tensor dense_hidden(const Transformer& model, const std::vector<int64_t>& ids, const at::Tensor& visible) {
  const TransformerConfig& c = model.config();
  const auto w = [&](const std::string& name) { return model.parameters().at(name).to(at::kDouble); };
  const auto norm = [&](const at::Tensor& x, const std::string& name) { return x * at::rsqrt(x.pow(2).mean(-1, true) + c.norm_eps) * w(name); };
  const int64_t n = static_cast<int64_t>(ids.size()), half = c.head_dim / 2;
  const RopeFrequencies rope = rope_frequencies(c.rope, c.head_dim);
  const at::Tensor angles = at::outer(at::arange(n, at::kDouble), at::tensor(rope.inverse, at::kDouble)).unsqueeze(1);   // [T, 1, half]
  const auto turned = [&](const at::Tensor& x) {
    const at::Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
    return at::cat({a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()}, -1);
  };
  at::Tensor x = w("model.embed_tokens.weight").index_select(0, at::tensor(ids, at::kLong));
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string l = fmt::format("model.layers.{}.", i), a = l + "self_attn.", m = l + "mlp.";
    const at::Tensor h = norm(x, l + "input_layernorm.weight");
    const auto heads = [&](const char* which, int64_t count) {
      const at::Tensor y = at::mm(h, w(a + which + "_proj.weight").t()).view({n, count, c.head_dim});
      return c.qk_norm && *which != 'v' ? norm(y, a + which + "_norm.weight") : y;
    };
    const int64_t group = c.num_heads / c.num_kv_heads;
    const at::Tensor q = turned(heads("q", c.num_heads)), k = turned(heads("k", c.num_kv_heads)).repeat_interleave(group, 1),
                     v = heads("v", c.num_kv_heads).repeat_interleave(group, 1);
    const at::Tensor scores = at::einsum("qhd,khd->hqk", {q, k}) / std::sqrt(static_cast<double>(c.head_dim));
    const at::Tensor p = at::softmax(scores.masked_fill(visible.logical_not().unsqueeze(0), -1e300), -1);
    x = x + at::mm(at::einsum("hqk,khd->qhd", {p, v}).reshape({n, -1}), w(a + "o_proj.weight").t());
    const at::Tensor g = norm(x, l + "post_attention_layernorm.weight");
    x = x + at::mm(at::silu(at::mm(g, w(m + "gate_proj.weight").t())) * at::mm(g, w(m + "up_proj.weight").t()), w(m + "down_proj.weight").t());
  }
  return norm(x, "model.norm.weight");
}

at::Tensor visible_of(int64_t prompt, int64_t total, int64_t block) {
  at::Tensor out = at::ones({total, total}, at::kBool);
  if (block == 0) return out;
  for (int64_t q = 0; q < total; ++q)
    for (int64_t k = 0; k < total; ++k) {
      const int64_t of_q = q < prompt ? -1 : (q - prompt) / block, of_k = k < prompt ? -1 : (k - prompt) / block;
      out[q][k] = of_k <= of_q;
    }
  return out;
}

struct Said {   // of every position of the answer
  at::Tensor hidden, p;   // [length, hidden], [length, vocab]
};
Said model_says(const Transformer& model, const DiffusionModel& facts, const std::vector<int32_t>& prompt, std::span<const int32_t> tokens) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> ids(prompt.begin(), prompt.end());
  for (const int32_t t : tokens) ids.push_back(t < 0 ? facts.mask_id : t);
  const int64_t first = static_cast<int64_t>(prompt.size()) - (facts.shifted ? 1 : 0), total = static_cast<int64_t>(ids.size());
  at::Tensor hidden;
  if (facts.block == 0) {
    Trie trie;
    trie.add(-1, total);
    hidden = model.hidden(at::tensor(ids, at::kLong), trie, {.causal = false}).to(at::kDouble);
  } else {
    hidden = dense_hidden(model, ids, visible_of(static_cast<int64_t>(prompt.size()), total, facts.block));
  }
  hidden = hidden.narrow(0, first, static_cast<int64_t>(tokens.size()));
  at::Tensor logits = at::mm(hidden, model.head().to(at::kDouble).t());
  logits.select(1, facts.mask_id).fill_(-std::numeric_limits<double>::infinity());
  return {hidden, at::softmax(logits, -1)};
}

bool is_ending(const DiffusionModel& facts, int32_t token) { return std::find(facts.eos_ids.begin(), facts.eos_ids.end(), token) != facts.eos_ids.end(); }

struct Slow {
  std::vector<int32_t> canvas;
  std::vector<int32_t> order;
  bool tie = false;   // a choice within rounding
};
// One token per pass: the most confident that is no ending right of a mask.
Slow slow_decode(const Transformer& model, const DiffusionModel& facts, const DiffusionOptions& o, const std::vector<int32_t>& prompt) {
  Slow out;
  out.canvas.assign(o.length, -1);
  const auto first_mask = [&] { return std::find(out.canvas.begin(), out.canvas.end(), -1) - out.canvas.begin(); };
  while (first_mask() < o.length) {
    const int64_t begin = first_mask();
    for (int64_t p = 0; p < begin; ++p)
      if (is_ending(facts, out.canvas[p])) return out;
    const int64_t end = o.window == "full" ? o.length : o.window == "block" ? (begin / o.block + 1) * o.block : std::min(o.length, begin + o.width);
    const Said said = model_says(model, facts, prompt, out.canvas);
    int64_t best = -1;
    double most = -1, next = -1;
    for (int64_t p = begin; p < end; ++p) {
      if (out.canvas[p] >= 0) continue;
      const auto sorted = std::get<0>(said.p[p].sort(0, true));
      const double c = sorted[0].item<double>();
      if (is_ending(facts, static_cast<int32_t>(said.p[p].argmax().item<int64_t>())) && p > begin) continue;
      out.tie = out.tie || c - sorted[1].item<double>() < 1e-4;
      if (c > most) next = most, most = c, best = p;
      else next = std::max(next, c);
    }
    out.tie = out.tie || most - next < 1e-4;
    out.canvas[best] = static_cast<int32_t>(said.p[best].argmax().item<int64_t>());
    out.order.push_back(static_cast<int32_t>(best));
  }
  return out;
}

// ---- what a call did, to the bit ----

struct Trace {
  std::vector<DiffusionCompletion> completions;
  std::map<int64_t, std::vector<float>> confidences;   // of every pass of every answer
};
Trace run(const Transformer& model, const DiffusionModel& facts, DiffusionOptions options, std::span<const GenerationRequest> requests, CommitControl& control,
          DiffusionSampling sampling = {}, int threads = 1) {
  Trace out;
  Pool pool(threads);
  DiffusionGenerator generator(model, facts, options);
  out.completions = generator.generate(requests, sampling, control, pool, [&](const CommitState& s, std::span<const int32_t>, bool) {
    for (const MaskedPosition& m : s.masked) out.confidences[s.sequence].insert(out.confidences[s.sequence].end(), {m.confidence, m.margin, m.entropy, m.drift});
  });
  return out;
}

void expect_equal(const Trace& a, const Trace& b, const std::string& what) {
  ASSERT_EQ(a.completions.size(), b.completions.size()) << what;
  for (size_t i = 0; i < a.completions.size(); ++i) {
    const DiffusionCompletion &x = a.completions[i], &y = b.completions[i];
    ASSERT_EQ(x.canvas, y.canvas) << what << ", completion " << i;
    ASSERT_EQ(x.tokens, y.tokens) << what;
    ASSERT_EQ(x.passes, y.passes) << what;
    ASSERT_EQ(x.forced, y.forced) << what;
    ASSERT_EQ(x.request, y.request) << what;
    ASSERT_EQ(x.sample, y.sample) << what;
    ASSERT_EQ(x.commits.size(), y.commits.size()) << what;
    for (size_t k = 0; k < x.commits.size(); ++k) {
      ASSERT_EQ(x.commits[k].position, y.commits[k].position) << what << ", commit " << k;
      ASSERT_EQ(x.commits[k].pass, y.commits[k].pass) << what;
    }
  }
  ASSERT_EQ(a.confidences, b.confidences) << what;   // bit for bit
}

TEST(diffusion_generator, proposes_what_the_model_says_in_every_pass) {
  for (uint32_t round = 0; round < 9; ++round) {
    const char* families[] = {"llama", "qwen2", "qwen3"};
    const DiffusionModel facts{.mask_id = kMask, .shifted = round % 2 == 1, .block = round % 3 == 2 ? 4 : 0, .eos_ids = {5}};
    const Transformer model = model_of(round, round % 3 == 2 ? families[2 * (round % 2)] : families[round % 3]);
    Draws draws(test_seed(), Stream::kTest, round);
    std::vector<GenerationRequest> requests(2);
    requests[0].prompt = random_prompt(round == 0 ? 150 : 1 + draws.below(12), draws), requests[1].prompt = random_prompt(3, draws);
    const char* windows[] = {"full", "block", "sliding"};
    const DiffusionOptions options{.length = 12, .window = windows[round / 3], .block = 4, .width = 5, .finish_early = false,
                                   .beyond = round % 2 == 0 ? -1 : 2, .hidden = true};
    Whimsical control;
    Pool pool(1 + round % 2);
    std::map<int64_t, std::map<int32_t, at::Tensor>> before;
    std::map<int64_t, std::map<int32_t, std::pair<int32_t, int32_t>>> held;
    int64_t seen = 0;
    DiffusionGenerator(model, facts, options).generate(requests, {}, control, pool, [&](const CommitState& s, std::span<const int32_t>, bool) {
      const Said said = model_says(model, facts, requests[s.sequence].prompt, s.tokens);
      std::vector<MaskedPosition> all(s.masked.begin(), s.masked.end());
      all.insert(all.end(), s.beyond.begin(), s.beyond.end());
      for (const MaskedPosition& m : all) {
        const at::Tensor p = said.p[m.position];
        const auto sorted = std::get<0>(p.sort(0, true));
        ASSERT_LT(s.tokens[m.position], 0);
        ASSERT_NE(m.token, kMask);
        EXPECT_NEAR(p[m.token].item<double>(), sorted[0].item<double>(), 1e-4);
        EXPECT_NEAR(m.confidence, p[m.token].item<double>(), 1e-4);
        EXPECT_NEAR(m.margin, (sorted[0] - sorted[1]).item<double>(), 2e-4);
        EXPECT_NEAR(m.entropy, -(p * at::log(at::clamp_min(p, 1e-300))).sum().item<double>(), 1e-3);
        EXPECT_EQ(m.ends, m.token == 5);
        at::Tensor& last = before[s.sequence][m.position];
        const double kl = last.defined() ? (p * (at::log(at::clamp_min(p, 1e-30)) - at::log(at::clamp_min(last, 1e-30)))).sum().item<double>() : 0;
        EXPECT_NEAR(m.drift, kl, 2e-3 * (1 + kl));
        const bool again = last.defined();
        last = p;
        auto& [token, times] = held[s.sequence][m.position];
        times = again && token == m.token ? times + 1 : 0, token = m.token;
        EXPECT_EQ(m.held, times);
        ASSERT_EQ(m.hidden.size(), 32u);
        for (int64_t i = 0; i < 32; ++i) ASSERT_NEAR(m.hidden[i], said.hidden[m.position][i].item<double>(), 2e-4);
        ++seen;
      }
    });
    EXPECT_GE(seen, 24) << "round " << round;
  }
}

TEST(diffusion_generator, without_a_cache_is_the_slow_decoder) {
  int compared = 0;
  for (uint32_t round = 0; round < 36; ++round) {
    const DiffusionModel facts{.mask_id = kMask, .shifted = round % 2 == 1, .block = round % 4 == 3 ? 3 : 0, .eos_ids = {5, 7}};
    const Transformer model = model_of(round, round % 4 == 2 ? "qwen3" : "llama", 23, 3);
    const char* windows[] = {"full", "block", "sliding"};
    const DiffusionOptions options{.length = 12, .window = windows[round % 3], .block = 3, .width = 4};
    Draws draws(test_seed(), Stream::kTest, 100 + round);
    std::vector<GenerationRequest> requests(1);
    requests[0].prompt = random_prompt(1 + draws.below(9), draws);
    const Slow slow = slow_decode(model, facts, options, requests[0].prompt);
    if (slow.tie) continue;
    ++compared;
    Threshold control(2);   // nothing: the generator forces the most confident one
    const DiffusionCompletion c = run(model, facts, options, requests, control).completions[0];
    EXPECT_EQ(c.canvas, slow.canvas) << "round " << round;
    ASSERT_EQ(c.commits.size(), slow.order.size());
    for (size_t i = 0; i < slow.order.size(); ++i) {
      EXPECT_EQ(c.commits[i].position, slow.order[i]);
      EXPECT_EQ(c.commits[i].pass, static_cast<int32_t>(i));
    }
    EXPECT_EQ(c.forced, c.passes);
    EXPECT_EQ(c.refused, 0);
  }
  EXPECT_GE(compared, 6);
}

TEST(diffusion_generator, caches_renewed_in_every_pass_are_none) {
  for (const bool shifted : {false, true})
    for (const char* window : {"full", "block", "sliding"}) {
      const DiffusionModel facts{.mask_id = kMask, .shifted = shifted, .eos_ids = {5}};
      const Transformer model = model_of(40);
      const auto requests = requests_of(3, 41);
      DiffusionOptions options{.max_sequences = 2, .length = 16, .window = window, .block = 4, .width = 6, .finish_early = false};
      Whimsical control;
      const Trace none = run(model, facts, options, requests, control);
      options.refresh = 1;
      for (const char* cache : {"prefix", "dual", "delayed", "drift"}) {
        options.cache = cache;
        expect_equal(none, run(model, facts, options, requests, control), fmt::format("{} {} {}", cache, window, shifted));
      }
      options.refresh = 0, options.cache = "drift", options.drift_threshold = 1.01;
      expect_equal(none, run(model, facts, options, requests, control), "threshold above 1");
      options.cache = "dual";
      Wishing everything(CacheRefresh::kEverything);
      expect_equal(none, run(model, facts, options, requests, everything), "asked for everything");
    }
}

TEST(diffusion_generator, reuse_in_the_prefix_is_exact_where_attention_has_blocks) {
  for (const bool shifted : {false, true})
    for (const int64_t block : {2, 4, 8}) {
      const DiffusionModel facts{.mask_id = kMask, .shifted = shifted, .block = block, .eos_ids = {5}};
      const Transformer model = model_of(50 + static_cast<uint32_t>(block));
      const auto requests = requests_of(4, 51);
      DiffusionOptions options{.max_sequences = 3, .length = 16, .window = "block", .block = block, .finish_early = false};
      Whimsical control;
      const Trace none = run(model, facts, options, requests, control);
      options.cache = "prefix";
      const Trace prefix = run(model, facts, options, requests, control, {}, 2);
      expect_equal(none, prefix, fmt::format("block {}", block));
      int64_t all = 0, computed = 0;
      for (size_t i = 0; i < none.completions.size(); ++i) all += none.completions[i].rows, computed += prefix.completions[i].rows;
      EXPECT_LT(computed, all);
      // A cache that is not renewed where rows do see each other is another computation: the comparison above can fail.
      if (block == 8) {
        DiffusionModel full = facts;
        full.block = 0;
        options.cache = "none";
        const Trace exact = run(model, full, options, requests, control);
        options.cache = "prefix";
        EXPECT_TRUE(exact.confidences != run(model, full, options, requests, control).confidences);
      }
    }
}

// Five rows of prompt, two windows of four, one token per pass from the left.
TEST(diffusion_generator, computes_the_rows_that_a_cache_names) {
  const Transformer model = model_of(60);
  Draws draws(test_seed(), Stream::kTest, 60);
  std::vector<GenerationRequest> requests(1);
  requests[0].prompt = random_prompt(5, draws);
  DiffusionOptions options{.length = 8, .window = "block", .block = 4, .drift_threshold = -1, .neighbourhood = 0};
  const auto rows = [&](const std::string& cache, DiffusionModel facts, CommitControl& control) {
    options.cache = cache;
    return run(model, facts, options, requests, control).completions[0].rows;
  };
  const DiffusionModel plain{.mask_id = kMask};
  Leftmost left;
  EXPECT_EQ(rows("none", plain, left), 8 * 13);
  EXPECT_EQ(rows("prefix", plain, left), 13 + 3 * 8 + 13 + 3 * 4);
  EXPECT_EQ(rows("dual", plain, left), 13 + 3 * 4 + 13 + 3 * 4);
  EXPECT_EQ(rows("delayed", plain, left), 13 + 8 + 7 + 6 + 5 + 4 + 3 + 2);   // masks and one token
  EXPECT_EQ(rows("drift", plain, left), 13 + 3 * 4 + (4 + 1 + 3) + (4 + 4) + (4 + 3) + (4 + 2));   // window, changed, probes outside
  // Shifted: the row left of the window, while its first token is masked, that is in a window's first pass.
  EXPECT_EQ(rows("dual", {.mask_id = kMask, .shifted = true}, left), 13 + 3 * 4 + 13 + 3 * 4);
  EXPECT_EQ(rows("delayed", {.mask_id = kMask, .shifted = true}, left), 13 + 8 + 7 + 6 + 5 + 4 + 3 + 2);   // the token proposes for the next
  // Attention in blocks: what is right of the window's block is seen by nobody, finished blocks are final.
  EXPECT_EQ(rows("none", {.mask_id = kMask, .block = 4}, left), 4 * 9 + 4 * 13);
  EXPECT_EQ(rows("prefix", {.mask_id = kMask, .block = 4}, left), 9 + 3 * 4 + 8 + 3 * 4);
  // Nothing but what proposes: from the second pass on the window's masks.
  class OnlyMasks final : public CommitControl {
    void choose(const CommitState&, std::vector<int32_t>& picks) override { picks.push_back(0); }
    CacheRefresh refresh(const CommitState&) override { return CacheRefresh::kNothing; }
  } only_masks;
  EXPECT_EQ(rows("dual", plain, only_masks), 13 + 3 + 2 + 1 + 4 + 3 + 2 + 1);
  options.refresh = 3;   // passes 1, 4, 7
  EXPECT_EQ(rows("delayed", plain, left), 13 + 8 + 7 + 13 + 5 + 4 + 13 + 2);
}

TEST(diffusion_generator, a_refresh_follows_drift) {
  const Transformer model = model_of(61);
  const auto requests = requests_of(2, 62);
  DiffusionOptions options{.length = 16, .window = "sliding", .width = 4, .cache = "drift", .neighbourhood = 0};
  const DiffusionModel facts{.mask_id = kMask};
  Leftmost control;
  int64_t last = -1;
  for (const double threshold : {-1.0, 0.9, 0.999, 1.01}) {
    options.drift_threshold = threshold;
    int64_t rows = 0;
    for (const auto& c : run(model, facts, options, requests, control).completions) rows += c.rows;
    EXPECT_GE(rows, last) << threshold;
    last = rows;
  }
  options.drift_threshold = -1;
  int64_t least = 0;
  for (const auto& c : run(model, facts, options, requests, control).completions) least += c.rows;
  EXPECT_LT(least, last);
}

TEST(diffusion_generator, one_token_per_pass_takes_as_many_passes_as_tokens) {
  const Transformer model = model_of(70);
  const auto requests = requests_of(4, 71);
  Top control;
  for (const auto& c : run(model, {.mask_id = kMask}, {.length = 17}, requests, control).completions) {
    EXPECT_EQ(c.passes, 17);
    EXPECT_EQ(c.forced, 0);
    EXPECT_EQ(c.tokens.size(), 17u);
    EXPECT_FALSE(c.ended);
    std::set<int32_t> positions;
    for (const DiffusionCommit& commit : c.commits) positions.insert(commit.position);
    EXPECT_EQ(positions.size(), 17u);
  }
  Top four(4);
  for (const auto& c : run(model, {.mask_id = kMask}, {.length = 17}, requests, four).completions) EXPECT_EQ(c.passes, 5);
}

TEST(diffusion_generator, an_answer_does_not_depend_on_its_company) {
  const Transformer model = model_of(80, "qwen3", 23, 4);
  auto requests = requests_of(7, 81, 60);
  requests[2].max_tokens = 8, requests[4].max_tokens = 24;
  for (const char* cache : {"none", "dual", "delayed", "drift"})
    for (const bool shifted : {false, true}) {
      DiffusionOptions options{.max_sequences = 1, .length = 16, .window = "block", .block = 8, .cache = cache, .drift_threshold = 0.99,
                               .finish_early = false};
      const DiffusionModel facts{.mask_id = kMask, .shifted = shifted, .eos_ids = {5}};
      const DiffusionSampling sampling{.temperature = 0.7, .seed = 9};
      Whimsical control;
      const Trace alone = run(model, facts, options, requests, control, sampling);
      for (const int64_t sequences : {3, 16}) {
        options.max_sequences = sequences;
        expect_equal(alone, run(model, facts, options, requests, control, sampling, sequences == 3 ? 2 : 1), fmt::format("{} at a time, {}", sequences, cache));
      }
    }
}

TEST(diffusion_generator, no_ending_overtakes_a_mask) {
  const Transformer models[] = {model_of(90), model_of(91), model_of(92)};
  const auto requests = requests_of(10, 91);
  const DiffusionModel facts{.mask_id = kMask, .eos_ids = {0, 1, 2, 5, 7, 8, 9, 11, 12, 14, 20}};
  const auto overtaken = [&](const DiffusionCompletion& c, int64_t length) {
    std::vector<int32_t> tokens(length, -1);
    int64_t count = 0;
    for (size_t i = 0; i < c.commits.size(); ++i) {
      tokens[c.commits[i].position] = c.canvas[c.commits[i].position];
      if (i + 1 < c.commits.size() && c.commits[i + 1].pass == c.commits[i].pass) continue;
      bool mask = false;   // left of it, and no ending further left
      for (const int32_t t : tokens) {
        if (t >= 0 && is_ending(facts, t)) {
          count += mask;
          break;
        }
        mask = mask || t < 0;
      }
    }
    return count;
  };
  int64_t refused = 0, wrong = 0;
  for (const bool early : {true, false})
    for (const char* window : {"full", "block", "sliding"}) {
      const Transformer& model = models[*window % 3];
      DiffusionOptions options{.length = 24, .window = window, .block = 8, .width = 10, .finish_early = early};
      Whimsical whimsical;
      Top three(3);
      for (CommitControl* control : std::initializer_list<CommitControl*>{&whimsical, &three}) {
        options.eos_guard = true;
        for (const auto& c : run(model, facts, options, requests, *control).completions) {
          refused += c.refused;
          EXPECT_EQ(overtaken(c, 24), 0);
          const auto ending = std::find_if(c.canvas.begin(), c.canvas.end(), [&](int32_t t) { return t >= 0 && is_ending(facts, t); });
          EXPECT_EQ(c.ended, ending != c.canvas.end());
          EXPECT_EQ(c.tokens, std::vector<int32_t>(c.canvas.begin(), ending));
          EXPECT_EQ(c.empty, c.tokens.empty());
          EXPECT_EQ(std::count(c.tokens.begin(), c.tokens.end(), -1), 0);
          EXPECT_TRUE(early || std::count(c.canvas.begin(), c.canvas.end(), -1) == 0);
        }
        options.eos_guard = false;
        for (const auto& c : run(model, facts, options, requests, *control).completions) wrong += overtaken(c, 24);
      }
    }
  EXPECT_GT(refused, 0);
  EXPECT_GT(wrong, 0) << "the guard is not what kept endings back";
}

TEST(diffusion_generator, an_answer_of_endings_alone_is_empty) {
  const Transformer model = model_of(95);
  const auto requests = requests_of(2, 96);
  DiffusionModel facts{.mask_id = kMask};
  for (int32_t id = 0; id < 23; ++id)
    if (id != kMask) facts.eos_ids.push_back(id);
  Threshold control(2);
  for (const bool early : {true, false})
    for (const auto& c : run(model, facts, {.length = 9, .finish_early = early}, requests, control).completions) {
      EXPECT_TRUE(c.empty);
      EXPECT_TRUE(c.ended);
      EXPECT_TRUE(c.tokens.empty());
      EXPECT_EQ(c.passes, early ? 1 : 9);
      EXPECT_EQ(c.forced, c.passes);
      EXPECT_EQ(c.commits[0].position, 0);
    }
}

// Windows and what a schedule is told.
TEST(diffusion_generator, a_control_is_told_of_its_window) {
  class Watching final : public CommitControl {
   public:
    explicit Watching(std::string window) : window_(std::move(window)) {}
    void begin(int64_t) override { ++begun, passes_ = window_pass_ = 0, opened_ = false; }
    CommitWindow open(const CommitState& s, CommitWindow proposed) override {
      opened_ = true, ++opens;
      EXPECT_EQ(s.window.begin, proposed.begin);
      EXPECT_FALSE(s.masked.empty());
      EXPECT_EQ(s.masked[0].position, proposed.begin == 0 && window_ == "full" ? 0 : proposed.begin);
      for (int64_t p = 0; p < proposed.begin; ++p) EXPECT_GE(s.tokens[p], 0);
      window_pass_ = 0;
      return shorter > 0 ? CommitWindow{proposed.begin, proposed.begin + shorter} : proposed;
    }
    void choose(const CommitState& s, std::vector<int32_t>& picks) override {
      EXPECT_EQ(s.pass, passes_++);
      if (window_ == "block") {
        EXPECT_EQ(s.window_pass, window_pass_++);
        EXPECT_EQ(s.window_masks, s.window.end - s.window.begin);
        EXPECT_EQ(s.window_passes, std::max<int64_t>(1, 6 * (s.window.end - s.window.begin) / 12));
        EXPECT_EQ(s.window.end - s.window.begin, shorter > 0 ? shorter : 4);
      } else {
        EXPECT_EQ(s.window_pass, s.pass);
        EXPECT_EQ(s.window_masks, 12);
        EXPECT_EQ(s.window_passes, 6);
      }
      int64_t expected = 0;
      for (int64_t p = s.window.begin; p < s.window.end; ++p) {
        if (s.tokens[p] >= 0) continue;
        ASSERT_LT(expected, static_cast<int64_t>(s.masked.size()));
        EXPECT_EQ(s.masked[expected++].position, p);
      }
      EXPECT_EQ(expected, static_cast<int64_t>(s.masked.size()));
      for (const MaskedPosition& m : s.beyond) EXPECT_TRUE(m.position >= s.window.end && s.tokens[m.position] < 0);
      beyond += static_cast<int64_t>(s.beyond.size());
      picks.push_back(static_cast<int32_t>(s.masked.size()) - 1);
    }
    int64_t begun = 0, opens = 0, shorter = 0, beyond = 0;

   private:
    std::string window_;
    int64_t passes_ = 0, window_pass_ = 0;
    bool opened_ = false;
  };
  const Transformer model = model_of(100);
  const auto requests = requests_of(3, 101);
  int64_t completions = 0;
  for (const auto& r : requests) completions += r.samples;
  const auto watch = [&](const std::string& window, int64_t shorter, int64_t beyond) {
    Watching w(window);
    w.shorter = shorter;
    run(model, {.mask_id = kMask}, {.max_sequences = 1, .length = 12, .window = window, .block = 4, .width = 5, .passes = 6, .beyond = beyond}, requests, w);
    EXPECT_EQ(w.begun, completions);
    return w;
  };
  EXPECT_EQ(watch("full", 0, 0).opens, completions);
  EXPECT_EQ(watch("block", 0, 0).opens, 3 * completions);
  EXPECT_EQ(watch("block", 3, 0).opens, 4 * completions);   // 12 / 3
  EXPECT_EQ(watch("sliding", 0, 0).opens, 12 * completions);
  EXPECT_EQ(watch("block", 0, 0).beyond, 0);
  EXPECT_EQ(watch("block", 0, 3).beyond, completions * 4 * (3 + 3));
  EXPECT_EQ(watch("block", 0, -1).beyond, completions * 4 * (8 + 4));
}

TEST(diffusion_generator, the_length_follows_the_share_of_endings) {
  const auto requests = requests_of(6, 111);
  int grown = 0, shrunk = 0;
  for (const char* window : {"full", "block", "sliding"})
    for (uint32_t round = 0; round < 6; ++round) {
      const Transformer model = model_of(110 + round);
      DiffusionModel facts{.mask_id = kMask};
      Draws draws(test_seed(), Stream::kTest, 112, round);
      for (int32_t id = 0; id < 23; ++id)
        if (id != kMask && draws.below(5) < round) facts.eos_ids.push_back(id);
      DiffusionOptions options{.length = 32, .window = window, .block = 4, .width = 6, .finish_early = round < 3};
      options.adapt = {.adapt = true, .passes = 9, .longest = 80};
      struct Last {
        int64_t length = 32, pass = 0, committed = 0, window_end = 0;
        double share = 0;
      };
      std::map<int64_t, Last> last;
      Whimsical control;
      Pool pool(1);
      DiffusionGenerator(model, facts, options).generate(requests, {}, control, pool, [&](const CommitState& s, std::span<const int32_t> picks, bool) {
        Last& l = last[s.sequence];
        if (s.pass > 0) {
          int64_t expected = l.length;
          const double gap = l.share < 0.4 ? 0.4 - l.share : l.share - 0.6;
          if (gap > 0 && l.pass < 9) {
            const int64_t step = gap < 0.1 + 1e-9 ? 8 : gap < 0.2 + 1e-9 ? 16 : gap < 0.3 + 1e-9 ? 32 : 64;
            if (l.share < 0.4) expected = std::min<int64_t>(80, l.length + step);
            const int64_t first_mask = std::find(s.tokens.begin(), s.tokens.end(), -1) - s.tokens.begin(), least = std::max(l.committed, first_mask + 1);
            if (l.share > 0.6)   // one mask is left, and blocks are whole
              expected = std::max(l.length - step, std::min(l.length, std::string(window) == "block" ? std::max((least + 3) / 4 * 4, l.window_end) : least));
          }
          EXPECT_EQ(s.length, expected) << window << " share " << l.share << " pass " << s.pass;
          grown += s.length > l.length, shrunk += s.length < l.length;
        }
        int64_t masks = 0, endings = 0;
        for (const auto& part : {s.masked, s.beyond})
          for (const MaskedPosition& m : part) ++masks, endings += m.ends;
        l = {s.length, s.pass, 0, s.window.end, static_cast<double>(endings) / static_cast<double>(masks)};
        for (int64_t p = 0; p < s.length; ++p)
          if (s.tokens[p] >= 0) l.committed = p + 1;
        for (const int32_t i : picks) l.committed = std::max<int64_t>(l.committed, s.masked[i].position + 1);
        EXPECT_TRUE(s.pass >= 9 || masks == std::count(s.tokens.begin(), s.tokens.end(), -1));
      });
    }
  EXPECT_GT(grown, 0);
  EXPECT_GT(shrunk, 0);
}

TEST(diffusion_generator, draws_have_the_models_law) {
  const Transformer model = model_of(120, "llama", 7, 3);
  GenerationRequest request;
  request.prompt = {1, 4, 2}, request.samples = 5000, request.max_tokens = 1, request.key = 5;
  Leftmost control;
  const DiffusionModel facts{.mask_id = kMask};
  const at::NoGradGuard no_grad;
  const at::Tensor p = model_says(model, facts, request.prompt, std::vector<int32_t>{-1}).p[0];
  const at::Tensor law = at::softmax(at::log(p) / 0.7, 0);
  Pool pool(2);
  std::vector<double> counts(7);
  DiffusionGenerator generator(model, facts, {.max_sequences = 64, .length = 1});
  const auto observer = [&](const CommitState& s, std::span<const int32_t>, bool) {
    EXPECT_NEAR(s.masked[0].confidence, p[s.masked[0].token].item<double>(), 1e-4);   // at temperature 1
  };
  for (const auto& c : generator.generate(std::span(&request, 1), {.temperature = 0.7, .seed = test_seed()}, control, pool, observer)) counts[c.tokens[0]] += 1;
  EXPECT_EQ(counts[kMask], 0);
  double chi_square = 0;
  for (int64_t i = 0; i < 7; ++i)
    if (i != kMask) chi_square += std::pow(counts[i] - 5000 * law[i].item<double>(), 2) / (5000 * law[i].item<double>());
  EXPECT_LT(chi_square, 6 + 5 * std::sqrt(12.0));
}

TEST(diffusion_generator, refuses_what_cannot_be) {
  const Transformer model = model_of(1);
  const DiffusionModel facts{.mask_id = kMask};
  const auto make = [&](DiffusionModel m, DiffusionOptions o) { DiffusionGenerator generator(model, m, o); };
  EXPECT_THROW(make({}, {}), ConfigError);
  EXPECT_THROW(make({.mask_id = 23}, {}), ConfigError);
  EXPECT_THROW(make({.mask_id = kMask, .eos_ids = {23}}, {}), ConfigError);
  EXPECT_THROW(make({.mask_id = kMask, .eos_ids = {kMask}}, {}), ConfigError);
  EXPECT_THROW(make({.mask_id = kMask, .block = -1}, {}), ConfigError);
  EXPECT_THROW(make(facts, {.length = 30, .window = "block", .block = 8}), ConfigError);
  EXPECT_THROW(make(facts, {.length = 1024}), ConfigError);   // 512 positions
  EXPECT_THROW(make(facts, {.length = 16, .window = "sliding", .width = 17}), ConfigError);
  EXPECT_THROW(make(facts, {.length = 0}), ConfigError);
  EXPECT_THROW(make(facts, {.window = "round"}), ConfigError);
  EXPECT_THROW(make(facts, {.cache = "all"}), ConfigError);
  EXPECT_THROW(make(facts, {.length = 64, .adapt = {.adapt = true, .longest = 63}}), ConfigError);
  EXPECT_NO_THROW(make(facts, {.length = 32, .window = "block", .block = 8}));

  Pool pool(1);
  Top control;
  const auto generate = [&](GenerationRequest r, double temperature = 0) {
    DiffusionGenerator(model, facts, {.length = 32, .window = "block", .block = 8}).generate(std::span(&r, 1), {.temperature = temperature}, control, pool);
  };
  EXPECT_THROW(generate({.prompt = {}}), DataError);
  EXPECT_THROW(generate({.prompt = {1, kMask}}), DataError);
  EXPECT_THROW(generate({.prompt = {1, 23}}), DataError);
  EXPECT_THROW(generate({.prompt = {1}, .max_tokens = 12}), DataError);
  EXPECT_THROW(generate({.prompt = std::vector<int32_t>(481, 1)}), DataError);
  EXPECT_NO_THROW(generate({.prompt = std::vector<int32_t>(480, 1)}));
  EXPECT_THROW(generate({.prompt = {1}, .begun = {{{1}, {0}}}}), DataError);
  EXPECT_THROW(generate({.prompt = {1}}, -1), ConfigError);
  {
    const at::NoGradGuard no_grad;
    model.flat().fill_(std::nanf(""));
  }
  EXPECT_THROW(generate({.prompt = {1}}), RunError);
}

}  // namespace
}  // namespace trimtab
