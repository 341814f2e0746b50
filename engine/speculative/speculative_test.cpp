// Speculative decoding is lossless: greedy it gives what plain generation gives, sampled it has the target's law, whatever drafts and
// whoever decides how many.
#include "engine/speculative/speculative.h"

#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"
#include "engine/speculative/draft_recorder.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

TransformerConfig config_of(int64_t vocab, int64_t hidden, int64_t layers) {
  TransformerConfig c;
  c.vocab_size = vocab, c.hidden_size = hidden, c.num_layers = layers, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 16, c.intermediate_size = 2 * hidden;
  c.max_positions = 512;
  return c;
}

// `scale`: how far from uniform the next token is.
Transformer model_of(int64_t vocab, int64_t hidden, int64_t layers, uint64_t seed, float scale = 8) {
  Transformer model(config_of(vocab, hidden, layers), seed);
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : model.parameters())
    if (p.dim() == 2) p.mul_(scale);
  return model;
}

std::vector<GenerationRequest> requests_of(int64_t count, int64_t vocab, uint32_t index) {
  Draws draws(test_seed(), Stream::kTest, index);
  std::vector<GenerationRequest> out;
  for (int64_t r = 0; r < count; ++r) {
    GenerationRequest& q = out.emplace_back();
    for (int64_t i = 0, n = 1 + draws.below(r % 3 == 0 ? 150 : 20); i < n; ++i) q.prompt.push_back(static_cast<int32_t>(draws.below(static_cast<uint32_t>(vocab))));
    q.samples = 1 + draws.below(2), q.key = draws.bits(), q.max_tokens = 1 + draws.below(60);
  }
  return out;
}

// A number of tokens that changes with everything it may look at.
class Whimsical final : public DraftControl {
 public:
  bool go_on(const DraftState& s) override {
    if (s.drafted.empty()) return (s.committed + s.sequence) % 5 != 0;
    return s.drafted.back().entropy < 2 && mix64(static_cast<uint64_t>(s.drafted.back().token + 7 * s.committed)) % 4 != 0;
  }
  int64_t limit(const DraftState& s) override { return s.last_accepted < 0 ? s.most : std::min(s.most, 1 + s.committed % 7); }
};

// Goes by the tokens that were drafted and rejected: what it saw of a round's draws must say nothing of the next round's.
class Remembering final : public DraftControl {
 public:
  bool go_on(const DraftState& s) override { return s.drafted.size() < 2 && (s.committed == 0 || low_[s.sequence]); }
  void learn(const DraftState& s, int64_t) override {
    if (s.committed == 0 && s.drafted.size() == 2) low_[s.sequence] = s.drafted[1].token < 2;
  }

 private:
  std::map<int64_t, bool> low_;
};

std::vector<std::unique_ptr<DraftControl>> controls() {
  std::vector<std::unique_ptr<DraftControl>> out;
  for (const int64_t k : {0, 1, 4, 12}) out.push_back(std::make_unique<FixedDraft>(k));
  out.push_back(std::make_unique<Whimsical>());
  out.push_back(std::make_unique<Remembering>());
  return out;
}

enum class Drafts { kModel, kSelf, kFirstLayer, kLookup, kSuffix, kSuffixTree, kRecycling, kRecyclingTree };
const std::map<std::string, Drafts> kDrafts = {{"model", Drafts::kModel}, {"self", Drafts::kSelf}, {"first_layer", Drafts::kFirstLayer}, {"lookup", Drafts::kLookup},
                                               {"suffix", Drafts::kSuffix}, {"suffix_tree", Drafts::kSuffixTree}, {"recycling", Drafts::kRecycling},
                                               {"recycling_tree", Drafts::kRecyclingTree}};

SpeculativeDecoder decoder_of(Drafts drafts, const Transformer& target, const Transformer& draft, int64_t sequences) {
  SpeculativeOptions o{.max_sequences = sequences, .most_drafted = 12};
  if (drafts == Drafts::kModel) return SpeculativeDecoder(target, draft, o);
  if (drafts == Drafts::kSelf) return SpeculativeDecoder(target, target, o);
  if (drafts == Drafts::kFirstLayer) return SpeculativeDecoder(target, 1, o);
  if (drafts == Drafts::kSuffixTree || drafts == Drafts::kRecyclingTree) o.tree_nodes = 20;
  DrafterOptions drafter;
  drafter.token_recycling.vocab = target.config().vocab_size;
  drafter.method = drafts == Drafts::kLookup ? "prompt_lookup" : drafts == Drafts::kSuffix || drafts == Drafts::kSuffixTree ? "suffix" : "token_recycling";
  return SpeculativeDecoder(target, make_drafter(drafter), o);
}

class EveryDraft : public testing::TestWithParam<std::string> {};

TEST_P(EveryDraft, GreedyIsWhatPlainGenerationGives) {
  for (uint32_t round = 0; round < 6; ++round) {
    const int64_t vocab = 6 + 11 * round;
    const Transformer target = model_of(vocab, 40, 3, test_seed() + round), draft = model_of(vocab, 24, 1, test_seed() + 100 + round);
    const auto requests = requests_of(5, vocab, round);
    Pool pool(1 + round % 2);
    const SamplingOptions greedy{.temperature = 0};
    const StopRules stop{.ids = {static_cast<int32_t>(round)}};
    const auto plain = Generator(target).generate(requests, greedy, stop, 1, pool);
    for (const auto& control : controls()) {
      SpeculativeDecoder decoder = decoder_of(kDrafts.at(GetParam()), target, draft, 1 + round);
      const auto speculative = decoder.generate(requests, greedy, stop, 1, *control, pool);
      ASSERT_EQ(plain.size(), speculative.size());
      for (size_t i = 0; i < plain.size(); ++i) {
        ASSERT_EQ(plain[i].tokens, speculative[i].completion.tokens) << "completion " << i;
        EXPECT_EQ(plain[i].finish, speculative[i].completion.finish);
        EXPECT_EQ(plain[i].sample, speculative[i].completion.sample);
        if (GetParam().find("tree") == std::string::npos) {
          EXPECT_EQ(plain[i].logprobs, speculative[i].completion.logprobs);   // bit for bit
        }
        int64_t tokens = 0;
        for (const SpeculativeRound& r : speculative[i].rounds) tokens += r.accepted + 1;
        EXPECT_GE(tokens, static_cast<int64_t>(plain[i].tokens.size()));
      }
    }
  }
}

// Chi-square over all pairs of the first two tokens, against the target's own probabilities.
TEST_P(EveryDraft, SampledHasTheTargetsLaw) {
  constexpr int64_t kVocab = 5, kSamples = 6000;
  const Transformer target = model_of(kVocab, 24, 2, test_seed() + 7, 3), draft = model_of(kVocab, 16, 1, test_seed() + 8, 3);
  GenerationRequest request;
  request.prompt = {1, 4, 2, 1, 4}, request.samples = kSamples, request.key = 99, request.max_tokens = 3;
  std::vector<double> law;
  {
    const at::NoGradGuard no_grad;
    for (int64_t a = 0; a < kVocab; ++a) {
      std::vector<int64_t> ids(request.prompt.begin(), request.prompt.end());
      ids.push_back(a);
      Trie trie;
      trie.add(-1, static_cast<int64_t>(ids.size()));
      const at::Tensor p = at::softmax(target.logits(at::tensor(ids, at::kLong), trie).to(at::kDouble) / 0.8, -1);
      for (int64_t b = 0; b < kVocab; ++b) law.push_back(p[4][a].item<double>() * p[5][b].item<double>());
    }
  }
  Pool pool(2);
  for (const auto& control : controls()) {
    SpeculativeDecoder decoder = decoder_of(kDrafts.at(GetParam()), target, draft, 64);
    std::vector<double> counts(law.size());
    for (const auto& c : decoder.generate(std::span(&request, 1), {.temperature = 0.8}, {}, test_seed(), *control, pool))
      counts[c.completion.tokens[0] * kVocab + c.completion.tokens[1]] += 1;
    double chi_square = 0;
    int cells = 0;
    for (size_t i = 0; i < law.size(); ++i) {
      const double expected = law[i] * kSamples;
      if (expected < 5) continue;
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected, ++cells;
    }
    ASSERT_GT(cells, 3);
    EXPECT_LT(chi_square, cells + 5 * std::sqrt(2.0 * cells)) << cells << " cells";   // five deviations: about one false alarm in 10^5
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryDraft, testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const auto& [name, drafts] : kDrafts) names.push_back(name);
                           return names;
                         }()),
                         [](const auto& info) { return info.param; });

TEST(speculative, a_model_that_drafts_for_itself_is_always_right) {
  const Transformer target = model_of(31, 32, 2, test_seed() + 3, 4);
  Pool pool(1);
  for (const double temperature : {0.0, 1.0}) {
    FixedDraft control(5);
    SpeculativeDecoder decoder(target, target, {.max_sequences = 3, .most_drafted = 5});
    const auto requests = requests_of(4, 31, 40);
    const auto out = decoder.generate(requests, {.temperature = temperature}, {}, 5, control, pool);
    for (const auto& c : out)
      for (const SpeculativeRound& r : c.rounds) EXPECT_EQ(r.accepted, r.drafted);
    EXPECT_GT(decoder.times().drafted, 0);
  }
}

TEST(speculative, a_sequence_does_not_depend_on_its_company) {
  const Transformer target = model_of(31, 32, 2, test_seed() + 3, 4), draft = model_of(31, 16, 1, test_seed() + 4, 4);
  const auto requests = requests_of(6, 31, 41);
  std::vector<std::vector<int32_t>> first;
  for (const int64_t sequences : {1, 4, 16}) {
    Pool pool(sequences == 4 ? 2 : 1);
    FixedDraft control(4);
    SpeculativeDecoder decoder(target, draft, {.max_sequences = sequences, .most_drafted = 4});
    std::vector<std::vector<int32_t>> tokens;
    for (const auto& c : decoder.generate(requests, {.temperature = 1}, {}, 5, control, pool)) tokens.push_back(c.completion.tokens);
    if (first.empty()) first = tokens;
    EXPECT_EQ(first, tokens) << sequences;
  }
}

TEST(speculative, refuses_what_makes_no_pair) {
  const Transformer target = model_of(31, 32, 2, 1), other = model_of(30, 16, 1, 1);
  EXPECT_THROW(SpeculativeDecoder(target, other), ConfigError);
  EXPECT_THROW(SpeculativeDecoder(target, int64_t{2}), ConfigError);
  EXPECT_THROW(SpeculativeDecoder(target, target, {.most_drafted = 0}), ConfigError);
  EXPECT_THROW(SpeculativeDecoder(target, target, {.tree_nodes = 8}), ConfigError);
  SpeculativeDecoder decoder(target, int64_t{1});
  FixedDraft control(2);
  Pool pool(1);
  GenerationRequest request;
  request.prompt.assign(500, 1), request.max_tokens = 50;   // 512 positions
  EXPECT_THROW(decoder.generate(std::span(&request, 1), {}, {}, 1, control, pool), DataError);
  Transformer broken = model_of(31, 32, 2, 1);
  {
    const at::NoGradGuard no_grad;
    broken.flat().fill_(std::nanf(""));
  }
  request.prompt.assign(5, 1);
  EXPECT_THROW(SpeculativeDecoder(broken, target).generate(std::span(&request, 1), {}, {}, 1, control, pool), RunError);
}

// A recording says of each drafted token what the two models' own probabilities say.
TEST(draft_recorder, says_what_the_models_say) {
  constexpr int64_t kVocab = 17, kDepth = 4;
  const Transformer target = model_of(kVocab, 32, 2, test_seed() + 21, 4), draft = model_of(kVocab, 16, 1, test_seed() + 22, 4);
  Pool pool(2);
  std::vector<RecordedText> texts;
  for (const auto& c : Generator(target).generate(requests_of(3, kVocab, 50), {.temperature = 0.9}, {}, 3, pool))
    texts.push_back({requests_of(3, kVocab, 50)[c.request].prompt, c.tokens, {{"category", "a"}}});
  const Recording r = record_drafts(target, draft, texts, {.depth = kDepth, .sampling = {.temperature = 0.9}, .seed = 4}, pool);
  ASSERT_EQ(r.episodes.size(), texts.size());
  const auto drafted = r.i64("draft_token", kDepth);
  const auto accept = r.f32("accept", kDepth), alpha = r.f32("alpha", kDepth), logprob = r.f32("logprob", kDepth), entropy = r.f32("entropy", kDepth), top = r.f32("top", kDepth);
  const at::NoGradGuard no_grad;
  const auto law = [](const Transformer& m, std::vector<int64_t> ids) {
    Trie trie;
    trie.add(-1, static_cast<int64_t>(ids.size()));
    return at::softmax(m.logits(at::tensor(ids, at::kLong), trie).to(at::kDouble)[-1] / 0.9, -1);
  };
  for (size_t t = 0; t < texts.size(); ++t)
    for (size_t i = 0; i < texts[t].tokens.size(); i += 3) {
      std::vector<int64_t> ids(texts[t].prompt.begin(), texts[t].prompt.end());
      ids.insert(ids.end(), texts[t].tokens.begin(), texts[t].tokens.begin() + static_cast<int64_t>(i));
      for (int64_t d = 0; d < kDepth; ++d) {
        const size_t at = (r.episodes[t].first + i) * kDepth + d;
        const at::Tensor p = law(target, ids), q = law(draft, ids);
        const double py = p[drafted[at]].item<double>(), qy = q[drafted[at]].item<double>();
        ASSERT_NEAR(accept[at], std::min(1.0, py / qy), 1e-3);
        ASSERT_NEAR(alpha[at], at::minimum(p, q).sum().item<double>(), 1e-4);
        ASSERT_NEAR(logprob[at], std::log(qy), 1e-3);
        ASSERT_NEAR(entropy[at], -(q * q.log()).sum().item<double>(), 1e-3);
        ASSERT_NEAR(top[at], q.max().item<double>(), 1e-4);
        ids.push_back(drafted[at]);
      }
    }
}

}  // namespace
}  // namespace trimtab
