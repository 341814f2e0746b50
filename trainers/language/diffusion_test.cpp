// Masked diffusion training: the loss by hand, its weights, what each key does, conversion of a causal run, and that it learns.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/checkpoint.h"
#include "core/error.h"
#include "core/random.h"
#include "envs/text_environment.h"
#include "policies/language/pretrained.h"
#include "trainers/language/diffusion_decode.h"
#include "trainers/language/diffusion_texts.h"
#include "trainers/language/evaluate.h"
#include "trainers/language/scorer.h"
#include "trainers/language/test_support.h"

namespace trimtab {
namespace {

// The segments of a prompt and an answer of which the first `answer` tokens are there: one root where every row sees all (block 0), else
// the prompt and behind it a block each.
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

constexpr int64_t kMask = 12;

TransformerConfig tiny_masked(bool shifted, int64_t block, int64_t vocab = 13) {
  TransformerConfig c;
  c.vocab_size = vocab, c.hidden_size = 12, c.num_layers = 2, c.num_heads = 2, c.num_kv_heads = 2, c.head_dim = 6, c.intermediate_size = 16;
  c.max_positions = 64, c.diffusion = {.mask_id = kMask, .shifted = shifted, .block = block};
  return c;
}

std::vector<DiffusionText> random_texts(Draws& draws, int64_t count) {
  std::vector<DiffusionText> out(count);
  for (DiffusionText& text : out) {
    for (uint32_t k = 0, n = 1 + draws.below(5); k < n; ++k) text.prompt.push_back(static_cast<int32_t>(draws.below(12)));
    for (uint32_t k = 0, n = 1 + draws.below(9); k < n; ++k) text.answer.push_back(static_cast<int32_t>(draws.below(12)));
  }
  return out;
}

// The loss of packed texts and its gradient, as the trainer has them.
double trainer_loss(const Transformer& model, const std::vector<DiffusionText>& texts, bool weighted, int64_t budget, Pool& pool) {
  const DiffusionBatches packed = pack_diffusion(texts, model.config().diffusion, weighted, {.token_budget = budget, .at_least = 2});
  Scorer scorer(model, {.shards = 2, .forward = {.causal = false}, .compute = at::TensorOptions().dtype(at::kFloat)});
  std::vector<double> losses(packed.batches.size());
  scorer.backward(packed.batches, 1, [&](int64_t i, const Scorer::Rows& r) {
    for (size_t k = 0; k < r.logp.size(); ++k) {
      losses[i] -= double{packed.weight[r.row[k]]} * r.logp[k] / static_cast<double>(packed.answer_tokens);
      r.d_logp[k] = -packed.weight[r.row[k]] / static_cast<float>(packed.answer_tokens);
    }
  }, pool);
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

// The same by its formula, in double: each text and each block alone, the clean blocks in front as plain tokens of a sequence whose
// earlier blocks do not see later ones.
at::Tensor formula(const Transformer& model, const std::vector<DiffusionText>& texts, bool weighted) {
  const DiffusionConfig& d = model.config().diffusion;
  at::Tensor sum = at::zeros({}, at::kDouble);
  int64_t tokens = 0;
  for (const DiffusionText& text : texts) {
    const auto prompt = static_cast<int64_t>(text.prompt.size()), length = static_cast<int64_t>(text.answer.size());
    tokens += length;
    const int64_t block = d.block == 0 ? length : d.block;
    for (int64_t first = 0, b = 0; first < length; first += block, ++b) {
      const int64_t end = std::min(length, first + block);
      std::vector<int64_t> ids(text.prompt.begin(), text.prompt.end());
      for (int64_t i = 0; i < end; ++i) ids.push_back(i >= first && text.masked[i] ? kMask : text.answer[i]);
      const at::Tensor logp = at::log_softmax(model.logits(at::tensor(ids, at::kLong), canvas_trie(prompt, end, d.block), {.causal = false}), -1);
      for (int64_t i = first; i < end; ++i)
        if (text.masked[i]) sum = sum - logp[prompt + i - (d.shifted ? 1 : 0)][text.answer[i]] / (weighted ? text.p_mask[b] : 1.0);
    }
  }
  return sum / static_cast<double>(tokens);
}

TEST(DiffusionLoss, AndItsGradientEqualTheFormula) {
  at::set_num_threads(1);
  Draws draws(test_seed(), Stream::kTest, 81);
  Pool pool(2);
  for (const bool shifted : {false, true})
    for (const int64_t block : {0, 1, 3})
      for (const bool weighted : {true, false}) {
        SCOPED_TRACE(fmt::format("shifted {} block {} weighted {}", shifted, block, weighted));
        std::vector<DiffusionText> texts = random_texts(draws, 9);
        add_noise(texts, block, {test_seed(), 0, static_cast<uint32_t>(block)});
        const Initialisation wide{.weight = 0.4, .embedding = 0.5};
        const Transformer model(tiny_masked(shifted, block), 5, at::kFloat, wide), exact(tiny_masked(shifted, block), 5, at::kDouble, wide);
        const double ours = trainer_loss(model, texts, weighted, 40, pool);   // several micro-batches
        const at::Tensor theirs = formula(exact, texts, weighted);
        theirs.backward();
        EXPECT_NEAR(ours, theirs.item<double>(), 1e-4 * (1 + std::abs(ours)));
        EXPECT_GT(ours, 0.5);
        const at::Tensor difference = (model.flat_gradient().to(at::kDouble) - exact.flat_gradient()).abs().max();
        EXPECT_LE(difference.item<double>(), 1e-3 * exact.flat_gradient().abs().max().item<double>());
      }
}

// One text of one layout by hand: a model whose head is zero says 1 / vocabulary of every token.
TEST(DiffusionLoss, OfAUniformModelIsTheWeightedCountOfMasks) {
  Transformer model(tiny_masked(false, 0), 1);
  model.parameters().at("lm_head.weight").detach().zero_();
  Pool pool(1);
  const std::vector<DiffusionText> texts = {{{1, 2}, {3, 4, 5, 5}, {0.25}, {1, 0, 0, 1}}, {{7}, {8, 9}, {0.5}, {0, 0}}};
  EXPECT_NEAR(trainer_loss(model, texts, true, 100, pool), 2 / 0.25 * std::log(13.0) / 6, 1e-5);
  EXPECT_NEAR(trainer_loss(model, texts, false, 100, pool), 2 * std::log(13.0) / 6, 1e-5);
}

// Every token's weight is 1 in the mean, in every block and wherever it stands, so that the expected loss is the integral over t; masks
// are as many as p_mask says, and independent of each other given it.
TEST(DiffusionNoise, WeightsAreUnbiasedAndTimesCoverTheUnitInterval) {
  for (const int64_t block : {0, 2}) {
    constexpr int64_t kRounds = 4000, kTexts = 8, kLength = 4;
    std::vector<double> weight(kLength), masks(10), drawn(10), pairs(10);
    for (uint32_t round = 0; round < kRounds; ++round) {
      std::vector<DiffusionText> texts(kTexts, {{1}, std::vector<int32_t>(kLength, 2), {}, {}});
      add_noise(texts, block, {test_seed(), 3, round});
      std::vector<double> shares;
      for (const DiffusionText& text : texts) {
        ASSERT_EQ(static_cast<int64_t>(text.p_mask.size()), block == 0 ? 1 : 2);
        shares.insert(shares.end(), text.p_mask.begin(), text.p_mask.end());
        for (int64_t k = 0; k < kLength; ++k) {
          const double p = text.p_mask[block == 0 ? 0 : k / block];
          const auto bin = std::min<int64_t>(9, static_cast<int64_t>(10 * p));
          weight[k] += std::min(text.masked[k] / p, 50.0) / (kRounds * kTexts);   // the rare first 2 % of p have heavy tails
          masks[bin] += text.masked[k], drawn[bin] += 1;
          if (k % 2 == 0) pairs[bin] += text.masked[k] * text.masked[k + 1];
        }
      }
      std::sort(shares.begin(), shares.end());
      for (size_t i = 1; i < shares.size(); ++i) ASSERT_NEAR(shares[i] - shares[i - 1], (1 - 1e-3) / static_cast<double>(shares.size()), 1e-6);
      ASSERT_GE(shares[0], 1e-3);
    }
    for (const double w : weight) EXPECT_NEAR(w, 1 - 0.01, 0.06) << "block " << block;   // the cut takes E max(0, 1 - 50 p), about 0.01
    for (int bin = 0; bin < 10; ++bin) {
      const double p = 0.1 * bin + 0.05, n = drawn[bin];
      EXPECT_NEAR(masks[bin] / n, p, 0.02) << bin;
      EXPECT_NEAR(pairs[bin] / (n / 2), p * p + 0.01 / 12, 0.03) << bin;
    }
  }
  std::vector<DiffusionText> a(3, {{1}, {1, 2, 3}, {}, {}}), b = a, c = a;
  add_noise(a, 0, {1, 0, 7}), add_noise(b, 0, {1, 0, 7}), add_noise(c, 0, {1, 0, 8});
  EXPECT_EQ(a[1].p_mask, b[1].p_mask);
  EXPECT_NE(a[1].p_mask, c[1].p_mask);
}

TEST(DiffusionPacking, NeverMasksAPromptAndKeepsToTheBudget) {
  Draws draws(test_seed(), Stream::kTest, 82);
  for (const int64_t block : {0, 2}) {
    std::vector<DiffusionText> texts = random_texts(draws, 60);
    add_noise(texts, block, {test_seed(), 0, 1});
    const DiffusionBatches packed = pack_diffusion(texts, {.mask_id = kMask, .block = block}, true, {.token_budget = 64, .at_least = 1});
    int64_t masked = 0, prompts = 0, answers = 0;
    std::vector<int64_t> rows;
    for (const MicroBatch& b : packed.batches) {
      EXPECT_LE(b.tokens.numel(), 64);
      EXPECT_TRUE(b.tokens.index_select(0, b.scored).eq(kMask).all().item<bool>());
      EXPECT_EQ(b.tokens.eq(kMask).sum().item<int64_t>(), b.scored.numel());   // every mask is learned, once
      rows.insert(rows.end(), b.row.begin(), b.row.end());
    }
    for (const DiffusionText& t : texts) masked += std::accumulate(t.masked.begin(), t.masked.end(), int64_t{0}), prompts += static_cast<int64_t>(t.prompt.size()), answers += static_cast<int64_t>(t.answer.size());
    std::vector<int64_t> expected(masked);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(rows, expected);
    EXPECT_EQ(static_cast<int64_t>(packed.weight.size()), masked);
    EXPECT_EQ(packed.answer_tokens, answers);
    EXPECT_GT(packed.batches.size(), 3);
  }
  std::vector<DiffusionText> none(2, {{}, {1}, {1}, {1}});
  EXPECT_EQ(pack_diffusion(none, {.mask_id = kMask, .shifted = true}, true, {}).batches.size(), 0);   // nothing stands in front
  EXPECT_EQ(pack_diffusion(none, {.mask_id = kMask}, true, {}).batches.size(), 1);
}

// ---- decoding ----

TEST(OneTokenPerPass, CommitsTheMostConfidentTokenOfThePass) {
  at::set_num_threads(1);
  Draws draws(test_seed(), Stream::kTest, 83);
  Pool pool(2);
  for (const bool shifted : {false, true})
    for (const int64_t block : {0, 2}) {
      SCOPED_TRACE(fmt::format("shifted {} block {}", shifted, block));
      const Transformer model(tiny_masked(shifted, block), 5 + test_seed(), at::kFloat, {.weight = 0.4, .embedding = 0.5});
      std::vector<GenerationRequest> requests;
      for (uint64_t i = 0; i < 20; ++i) requests.push_back({.prompt = random_texts(draws, 1)[0].prompt, .key = i});
      const std::vector<Completion> ours = decode_one_token_per_pass(model, requests, {.max_tokens = 6, .temperature = 0}, {}, 1, pool);
      const at::NoGradGuard no_grad;
      for (size_t r = 0; r < requests.size(); ++r) {
        const auto prompt = static_cast<int64_t>(requests[r].prompt.size());
        std::vector<int64_t> ids(requests[r].prompt.begin(), requests[r].prompt.end());
        ids.resize(prompt + 6, kMask);
        for (int pass = 0; pass < 6; ++pass) {
          const at::Tensor p = model.logits(at::tensor(ids, at::kLong), canvas_trie(prompt, 6, block), {.causal = false}).narrow(1, 0, kMask);
          double best = -1;
          int64_t where = 0, token = 0;
          const int64_t from = block == 0 ? 0 : pass / block * block, end = block == 0 ? 6 : from + block;
          for (int64_t i = from; i < end; ++i) {
            if (ids[prompt + i] != kMask) continue;
            const auto [value, index] = p[prompt + i - (shifted ? 1 : 0)].softmax(-1).max(-1);
            if (value.item<double>() > best) best = value.item<double>(), where = i, token = index.item<int64_t>();
          }
          ids[prompt + where] = token;
        }
        EXPECT_EQ(std::vector<int64_t>(ours[r].tokens.begin(), ours[r].tokens.end()), std::vector<int64_t>(ids.begin() + prompt, ids.end())) << r;
        EXPECT_EQ(ours[r].finish, Finish::kLength);
        // With a token of it as the ending, the answer is what stands up to there.
        const std::vector<int32_t> stop = {ours[r].tokens[3]};
        const Completion cut = decode_one_token_per_pass(model, {&requests[r], 1}, {.max_tokens = 6, .temperature = 0}, stop, 1, pool)[0];
        const auto first = std::find(ours[r].tokens.begin(), ours[r].tokens.end(), stop[0]);
        EXPECT_EQ(cut.tokens, std::vector<int32_t>(ours[r].tokens.begin(), first + 1));
        EXPECT_EQ(cut.finish, Finish::kStop);
      }
    }
}

TEST(OneTokenPerPass, RefusesCausalModelsAndPromptsWithTheMask) {
  Pool pool(1);
  TransformerConfig causal = tiny_masked(false, 0);
  causal.diffusion = {};
  const std::vector<GenerationRequest> fine = {{.prompt = {1}}}, masked = {{.prompt = {1, kMask}}};
  EXPECT_THROW(decode_one_token_per_pass(Transformer(causal, 1), fine, {.max_tokens = 2}, {}, 1, pool), ConfigError);
  EXPECT_THROW(decode_one_token_per_pass(Transformer(tiny_masked(false, 0), 1), masked, {.max_tokens = 2}, {}, 1, pool), DataError);
}

// ---- runs ----

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
void expect_in(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words) EXPECT_NE(text.find(word), std::string::npos) << text << " lacks " << word;
}

const std::string kShort = "preset: diffusion, steps: 4, rows: 4, lr: 1e-3, token_budget: 256, answer_length: 80";

std::vector<uint8_t> parameters(const std::filesystem::path& run) {
  return CheckpointFolder(run / "checkpoints").load("latest").state.at("parameters").bytes;
}

TEST(DiffusionRun, ThreadsDoNotChangeABitAndAStoppedRunGoesOnAsIfWhole) {
  for (const std::string& more : {std::string(""), std::string(", block: 4, block_curriculum: true, facts: 1, clean: 2, answer_length: 0, padding: 5")}) {
    SCOPED_TRACE(more);
    std::string trainer = kShort + more;
    if (!more.empty()) trainer.erase(trainer.find(", answer_length: 80"), std::string(", answer_length: 80").size());
    TemporaryFolder a, b;
    const MetricLines lines = train_in(a.path(), tiny_run(trainer));
    EXPECT_GT(total(lines, "train/grad_norm"), 0);
    EXPECT_GT(total(lines, "eval/diffusion_loss"), 0);
    train_in(b.path(), tiny_run(trainer), {"run.threads=1"});
    EXPECT_EQ(parameters(a.path()), parameters(b.path()));
    std::filesystem::remove_all(b.path() / "checkpoints" / "step-000003");
    std::filesystem::remove_all(b.path() / "checkpoints" / "step-000004");
    std::filesystem::remove(b.path() / "checkpoints" / "latest");
    EXPECT_EQ(train_in(b.path(), tiny_run(trainer)).front().at("step"), 3);
    EXPECT_EQ(parameters(a.path()), parameters(b.path()));
  }
}

TEST(DiffusionRun, TheBlockCurriculumDoublesUpToTheBlock) {
  TemporaryFolder folder;
  std::vector<double> blocks;
  for (const auto& line : train_in(folder.path(), tiny_run("preset: diffusion, steps: 8, rows: 2, block: 6, block_curriculum: true, padding: 3"), {"eval.episodes=0"}))
    blocks.push_back(line.at("train/block"));
  EXPECT_EQ(blocks, (std::vector<double>{1, 1, 2, 2, 4, 4, 6, 6}));
}

TEST(DiffusionRun, ConvertsACausalRunAndKeepsWhatItKnows) {
  TemporaryFolder root;
  train_in(root.path() / "causal", tiny_run("preset: sft, steps: 2, rows: 4"));
  const LanguageModel causal = LanguageModel::load(root.path() / "causal" / "model");
  const std::string from = "policy.model=" + (root.path() / "causal" / "model").string();
  train_in(root.path() / "still", tiny_run("preset: diffusion, steps: 1, rows: 2, lr: 0, adam: {weight_decay: 0}, answer_length: 80"), {from});
  const LanguageModel converted = LanguageModel::load(root.path() / "still" / "model");
  const int64_t vocab = causal.transformer->config().vocab_size;
  EXPECT_EQ(converted.transformer->config().diffusion, (DiffusionConfig{.mask_id = vocab, .shifted = true}));
  EXPECT_EQ(converted.tokenizer->hash(), causal.tokenizer->hash());
  for (const auto& [name, from_weights] : causal.transformer->parameters()) {
    const at::Tensor& to = converted.transformer->parameters().at(name);
    EXPECT_TRUE(to.narrow(0, 0, from_weights.size(0)).equal(from_weights)) << name;
    if (to.size(0) > from_weights.size(0)) {
      EXPECT_TRUE(at::allclose(to[vocab], from_weights.mean(0))) << name;
    }
  }
  // A new model is not shifted, unless it shall be; a run goes on from a converted one as it is.
  const auto config_of = [&](const char* name, const std::string& more, const std::vector<std::string>& overrides = {}) {
    train_in(root.path() / name, tiny_run("preset: diffusion, steps: 1, rows: 2, answer_length: 80" + more), overrides);
    return LanguageModel::load(root.path() / name / "model").transformer->config();
  };
  EXPECT_EQ(config_of("new", "").diffusion, (DiffusionConfig{.mask_id = vocab}));
  EXPECT_EQ(config_of("new-shifted", ", shifted: yes, block: 4").diffusion, (DiffusionConfig{.mask_id = vocab, .shifted = true, .block = 4}));
  const TransformerConfig on = config_of("on", "", {"policy.model=" + (root.path() / "still" / "model").string()});
  EXPECT_EQ(on.diffusion, converted.transformer->config().diffusion);
  EXPECT_EQ(on.vocab_size, vocab + 1);
  EXPECT_EQ(config_of("named", ", mask_token: <pad>", {from}).diffusion.mask_id, *causal.tokenizer->pad_id());
}

TEST(DiffusionRun, WhatCannotBeIsRefusedWithTheCure) {
  TemporaryFolder root;
  train_in(root.path() / "masked", tiny_run("preset: diffusion, steps: 1, rows: 2, answer_length: 80"));
  const std::string from = "policy.model=" + (root.path() / "masked" / "model").string();
  const auto refused = [&](const std::string& trainer, const std::vector<std::string>& overrides, std::initializer_list<const char*> words) {
    expect_in(error_of([&] { train_in(root.path() / "refused", tiny_run(trainer), overrides); }), words);
    std::filesystem::remove_all(root.path() / "refused");
  };
  refused("preset: grpo, steps: 1, sampling: {max_tokens: 12}", {from}, {"masked", "preset diffusion"});
  refused("preset: sft, steps: 1", {from}, {"masked", "preset diffusion"});
  refused("preset: diffusion, steps: 1, shifted: yes, answer_length: 80", {from}, {"shifted"});
  refused("preset: diffusion, steps: 1, mask_token: <mask>", {}, {"mask_token", "<mask>"});
  refused("preset: diffusion, steps: 1, answer_length: 80, mask_token: '1'", {}, {"which is the mask", "trainer.mask_token"});
  refused("preset: diffusion, steps: 1, answer_length: 3", {}, {"answer_length", "raise it"});
  refused("preset: diffusion, steps: 1, answer_length: 30, block: 4", {}, {"answer_length 30", "block 4"});
  refused("preset: diffusion, steps: 1, block_curriculum: true", {}, {"trainer.block"});
  refused("preset: diffusion, steps: 1, answer_length: 200", {}, {"positions"});
  // Nothing writes with it from left to right.
  const LanguageModel masked = LanguageModel::load(root.path() / "masked" / "model");
  Pool pool(1);
  const std::vector<GenerationRequest> request = {{.prompt = {1}}};
  expect_in(error_of([&] { Generator(*masked.transformer).generate(request, {.max_tokens = 2}, {}, 1, pool); }), {"masked tokens", "causal model"});
}

// Pairs of letters in the order of the alphabet: "db" is answered "bd" and the ending. A fifth of the pairs is held out.
class PairSorting final : public TextEnvironment {
 public:
  int64_t size(Split) const override { return 0; }
  Problem problem(Split split, uint64_t seed, uint64_t index) const override {
    Draws draws(seed, Stream::kWorld, static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32));
    for (;;) {
      const uint32_t a = draws.below(8), b = draws.below(8);
      if (((a + 2 * b) % 5 == 0) != (split != Split::kTrain)) continue;
      const std::string text = {static_cast<char>('a' + a), static_cast<char>('a' + b)};
      return {.id = text, .prompt = text, .answer = {text[a > b ? 1 : 0], text[a > b ? 0 : 1]}};
    }
  }
  std::vector<int32_t> prompt_tokens(const Tokenizer& tokenizer, const Problem& problem) const override { return tokenizer.encode(problem.prompt); }
  std::vector<int32_t> stop_ids(const Tokenizer& tokenizer) const override { return tokenizer.stop_ids(); }
  std::vector<std::string> stop_strings() const override { return {}; }
  std::vector<Verdict> score(std::span<const Problem> problems, std::span<const std::string> replies) override {
    std::vector<Verdict> out;
    for (size_t i = 0; i < problems.size(); ++i) out.push_back({problems[i].answer == replies[i] ? 1.0 : 0.0, true});
    return out;
  }
  TokenExample example(const Tokenizer& tokenizer, Stage, TextKey key) const override {
    const Problem p = problem(Split::kTrain, key.seed, key.index);
    TokenExample out{.prompt = tokenizer.encode(p.prompt), .reply = tokenizer.encode(p.answer)};
    out.reply.push_back(*tokenizer.eos_id());
    out.loss_end = 3;
    return out;
  }
  std::string alphabet() const override { return "abcdefgh"; }
  std::vector<Problem> read_problems(const std::string&, bool) const override { return {}; }
};

TT_REGISTER(TextEnvironmentEntry, pair_sorting,
            {.name = "pair_sorting", .doc = "for tests",
             .make = [](const Config&, const TextEnvironmentData&) -> std::unique_ptr<TextEnvironment> { return std::make_unique<PairSorting>(); },
             .help = [] { return std::vector<FieldLine>{}; },
             .resolved = [](const Config&) { return std::string(); }});

// Whoever knows the letters but not their order is right half the time, and chance is 1/64; the pairs asked for were never shown.
TEST(DiffusionRun, ATinyModelLearnsToSortPairsItHasNotSeen) {
  for (const char* block : {"0", "2"}) {
    SCOPED_TRACE(block);
    TemporaryFolder folder;
    const std::string yaml =
        "run: {name: sort, seed: 1, threads: 2}\nenv: {type: pair_sorting}\n"
        "policy: {architecture: {hidden_size: 32, num_layers: 2, num_heads: 2, max_positions: 16, init_std: 0.1, embedding_std: 0.3}}\n"
        "trainer: {preset: diffusion, steps: 300, rows: 20, lr: 6e-3, shards: 1, answer_length: 4, block: " + std::string(block) + "}\n"
        "eval: {every: 300, episodes: 32}\ncheckpoint: {every: 300}\n";
    const MetricLines lines = train_in(folder.path(), yaml);
    EXPECT_GE(lines.back().at("eval/greedy_accuracy"), 0.75);
    EXPECT_LT(lines.back().at("eval/diffusion_loss"), 0.4 * lines.front().at("train/loss"));
  }
}

}  // namespace
}  // namespace trimtab
