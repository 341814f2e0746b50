// The acceptance head: gradients against finite differences, the loss against what is known of its minimum, the stopping rule, the file, and the way from
// a recording to rules of an evaluation.
#include "envs/draft_length/acceptance_head.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/recording.h"
#include "core/test_support.h"
#include "envs/draft_length/acceptance_fit.h"
#include "envs/draft_length/draft_length.h"
#include "envs/draft_length/recorded.h"
#include "envs/draft_length/rules.h"

namespace trimtab {
namespace {

constexpr int64_t kDepth = 6, kHidden = 5;

using AcceptOf = std::function<float(std::span<const float> hidden)>;

// Texts whose tokens' acceptance is a function of the hidden state, which holds on along a round with probability `stay`.
Recording recording_of(const AcceptOf& accept_of, int64_t rows, uint32_t number, double stay = 0, int64_t hidden = kHidden) {
  Draws d(test_seed(), Stream::kTest, number, 41);
  std::map<std::string, std::vector<float>> columns;
  std::vector<float> state(hidden);
  for (int64_t i = 0; i < rows * kDepth; ++i) {
    if (i % kDepth == 0 || d.uniform() >= stay)
      for (float& x : state) x = 3 + 2 * d.normal();   // far from standardised
    columns["hidden"].insert(columns["hidden"].end(), state.begin(), state.end());
    for (const char* name : {"accept", "alpha"}) columns[name].push_back(accept_of(state));
    columns["logprob"].push_back(-d.uniform(0, 2)), columns["entropy"].push_back(d.uniform(0, 2));
    for (const char* name : {"top", "margin"}) columns[name].push_back(d.uniform());
  }
  Recording r;
  r.environment = "draft_length";
  for (int64_t first = 0; first < rows; first += 40) r.episodes.push_back({first, std::min<int64_t>(40, rows - first), {}});
  for (const auto& [name, values] : columns) r.columns[name].values = Tensor::f32({rows, static_cast<int64_t>(values.size()) / rows}, values);
  r.columns["target_entropy"].values = Tensor::f32({rows}, std::vector<float>(rows, 0.5f));
  return r;
}

std::unique_ptr<DraftSource> opened(const TemporaryFolder& folder, const std::string& name, const Recording& r) {
  write_recording(folder.path() / name, r);
  return open_draft_recordings({folder.path() / name});
}

// Easy and hard on either side of a surface that is no plane.
float easy_or_hard(std::span<const float> h) { return std::abs(h[0] - 3) + 0.5f * (h[1] - 3) < 1.3f ? 0.95f : 0.1f; }

TEST(acceptance_head, its_gradient_is_that_of_finite_differences) {
  for (const bool share : {true, false})
    for (const int64_t blocks : {0, 1, 3}) {
      AcceptanceHead head({.hidden = 7, .blocks = blocks, .share = share}, test_seed());
      Draws d(test_seed(), Stream::kTest, 3, static_cast<uint32_t>(blocks), share);
      constexpr int64_t kRows = 9;
      std::vector<float> x(kRows * 7), accept(kRows), d_logits(2 * kRows), gradient(head.parameters().size());
      for (float& v : x) v = d.normal();
      for (float& v : accept) v = d.uniform();
      AcceptanceWorkspace w;
      head.forward(kRows, x.data(), w);
      acceptance_loss(w.logits, accept, 6, d_logits.data());
      head.backward(d_logits.data(), gradient.data(), w);
      for (int direction = 0; direction < 12; ++direction) {
        std::vector<float> along(gradient.size());
        double expected = 0;
        for (size_t i = 0; i < along.size(); ++i) along[i] = d.normal(), expected += static_cast<double>(along[i]) * gradient[i];
        const std::vector<float> kept(head.parameters().begin(), head.parameters().end());
        constexpr float kStep = 2e-3f;
        double loss[2];
        for (const int side : {0, 1}) {
          for (size_t i = 0; i < along.size(); ++i) head.parameters()[i] = kept[i] + (side ? kStep : -kStep) * along[i];
          head.forward(kRows, x.data(), w);
          loss[side] = acceptance_loss(w.logits, accept, 6, nullptr);
        }
        std::copy(kept.begin(), kept.end(), head.parameters().begin());
        EXPECT_NEAR((loss[1] - loss[0]) / (2 * kStep), expected, 3e-3 * (1 + std::abs(expected))) << share << " " << blocks;
      }
    }
}

TEST(acceptance_head, shared_blocks_are_separate_ones_of_equal_weights) {
  AcceptanceHead shared({.hidden = 6, .blocks = 3, .share = true}, test_seed()), separate({.hidden = 6, .blocks = 3, .share = false}, 0);
  const std::span<const float> own = shared.parameters();
  for (size_t b = 0; b < 3; ++b) std::copy_n(own.begin(), 42, separate.parameters().begin() + 42 * b);
  std::copy(own.begin() + 42, own.end(), separate.parameters().begin() + 3 * 42);
  Draws d(test_seed(), Stream::kTest, 4);
  std::vector<float> x(4 * 6);
  for (float& v : x) v = d.normal();
  AcceptanceWorkspace a, b;
  shared.forward(4, x.data(), a), separate.forward(4, x.data(), b);
  EXPECT_EQ(a.logits, b.logits);
}

// w (1 - p) (-ln q_r) + p (-ln q_a) over w (1 - p) + p, by hand.
TEST(acceptance_loss, is_the_weighted_cross_entropy) {
  const float logits[] = {0, 0, std::log(3.0f), 0}, accept[] = {1, 0.25f};
  const double expected = (std::log(2.0) + 6 * 0.75 * -std::log(0.75) + 0.25 * -std::log(0.25)) / (1 + 6 * 0.75 + 0.25);
  EXPECT_NEAR(acceptance_loss(logits, accept, 6, nullptr), expected, 1e-6);
}

// Labels are 0.95 or 0.1, by the hidden state: no head has a lower loss than the labels' own entropy, weighted, and its a is p / (p + w (1 - p)).
TEST(acceptance_fit, reaches_the_least_loss_there_is) {
  const TemporaryFolder folder;
  const AcceptOf separable = [](std::span<const float> h) { return h[2] > 3 ? 0.95f : 0.1f; };
  const auto cleared = [&](Recording r) {   // two clusters, nothing between or beyond them
    float* h = reinterpret_cast<float*>(r.columns["hidden"].values.bytes.data());
    for (int64_t i = 0; i < r.rows() * kDepth; ++i) h[i * kHidden + 2] = 3 + (h[i * kHidden + 2] > 3 ? 2 : -2) + 0.02f * (h[i * kHidden + 2] - 3);
    return r;
  };
  const auto train = opened(folder, "t.safetensors", cleared(recording_of(separable, 1600, 1))), validation = opened(folder, "v.safetensors", cleared(recording_of(separable, 400, 2)));
  for (const double weight : {1.0, 6.0}) {
    double loss = 0, least = 0, all = 0, apart = 0, count = 0;
    const AcceptanceHead head = fit_acceptance(*train, *validation, {.weight = weight, .learning_rate = 3e-3, .epochs = 30, .batch = 64, .seed = test_seed()},
                                               [&](const AcceptanceEpoch& e) { loss = e.validation; });
    AcceptanceWorkspace w;
    DraftPlace place;
    for (int64_t t = 0; t < validation->texts(); ++t)
      for (validation->begin(place, t); validation->left(place) > 1; validation->advance(place, 1))
        for (int64_t k = 0; k < std::min(kDepth, validation->left(place) - 1); ++k) {
          const DraftCandidate c = validation->look(place, k);
          const double p = c.accept, a = p / (p + weight * (1 - p));
          least += -weight * (1 - p) * std::log(1 - a) - p * std::log(a), all += weight * (1 - p) + p;
          apart += std::abs(std::exp(head.log_accept({.drafted = {&c.token, 1}}, w)) - a), count += 1;
        }
    least /= all;
    EXPECT_LT(apart / count, 0.03) << weight;
    EXPECT_GE(loss, least * (1 - 1e-6)) << weight;
    EXPECT_LE(loss, least * 1.01) << weight;
    EXPECT_NEAR(acceptance_loss(head, *validation, weight), loss, 1e-9);
  }
}

TEST(acceptance_fit, equal_options_give_equal_heads_and_other_seeds_others) {
  const TemporaryFolder folder;
  const auto source = opened(folder, "t.safetensors", recording_of(easy_or_hard, 200, 3));
  const auto fitted = [&](uint64_t seed) {
    const AcceptanceHead h = fit_acceptance(*source, *source, {.features = "all", .epochs = 1, .batch = 50, .seed = seed});
    return std::vector<float>(h.parameters().begin(), h.parameters().end());
  };
  EXPECT_EQ(fitted(1), fitted(1));
  EXPECT_NE(fitted(1), fitted(2));
}

// Acceptance that the hidden state says nothing about, but the entropy of the token does: only `all` can learn it.
TEST(acceptance_fit, all_features_see_what_the_hidden_state_does_not_say) {
  const TemporaryFolder folder;
  Recording r = recording_of(easy_or_hard, 800, 4);
  const std::span<const float> entropy = r.f32("entropy", kDepth);
  float* accept = reinterpret_cast<float*>(r.columns["accept"].values.bytes.data());
  for (size_t i = 0; i < entropy.size(); ++i) accept[i] = entropy[i] < 1 ? 0.99f : 0.02f;
  const auto source = opened(folder, "t.safetensors", r);
  const auto loss = [&](const std::string& features) {
    return acceptance_loss(fit_acceptance(*source, *source, {.features = features, .weight = 1, .learning_rate = 3e-3, .epochs = 8, .batch = 64}), *source, 1);
  };
  EXPECT_LT(loss("all"), 0.5 * loss("hidden"));
}

// A head whose a is what the first number of the hidden state says: no blocks, logits (0, h_0).
std::shared_ptr<AcceptanceHead> head_that_reads(int64_t hidden = 2) {
  auto head = std::make_shared<AcceptanceHead>(AcceptanceShape{.hidden = hidden, .blocks = 0}, 1);
  std::fill(head->parameters().begin(), head->parameters().end(), 0.0f);
  head->parameters()[1] = 1;
  return head;
}
std::vector<float> states_of(const std::vector<double>& accepts) {
  std::vector<float> out;
  for (const double a : accepts) out.push_back(static_cast<float>(std::log(a / (1 - a)))), out.push_back(0);
  return out;
}
std::vector<DraftedToken> tokens_of(const std::vector<float>& states) {
  std::vector<DraftedToken> out;
  for (size_t i = 0; i < states.size(); i += 2) out.push_back({0, -1, 1, 0.5f, 0.5f, std::span(states).subspan(i, 2)});
  return out;
}
// Tokens that a control drafts, asked as a round asks.
int64_t drafted_by(DraftControl& control, const std::vector<DraftedToken>& tokens, int64_t sequence = 0, int64_t committed = 0) {
  DraftState s{.sequence = sequence, .committed = committed, .most = static_cast<int64_t>(tokens.size())};
  const int64_t most = std::min(s.most, control.limit(s));
  while (static_cast<int64_t>(s.drafted.size()) < most && control.go_on(s)) s.drafted = std::span(tokens).first(s.drafted.size() + 1);
  return static_cast<int64_t>(s.drafted.size());
}

TEST(acceptance_rule, risks_of_nothing_and_of_all_are_one_token_and_the_most) {
  const auto sure = states_of({0.999999, 0.999999, 0.999999, 0.999999}), hopeless = states_of({1e-6, 1e-6, 1e-6, 1e-6});
  for (const auto& states : {sure, hopeless}) {
    EXPECT_EQ(drafted_by(*make_acceptance_control(head_that_reads(), 0), tokens_of(states)), 1);
    EXPECT_EQ(drafted_by(*make_acceptance_control(head_that_reads(), 1), tokens_of(states)), 4);
  }
}

TEST(acceptance_rule, stops_where_the_product_of_acceptances_says) {
  Draws d(test_seed(), Stream::kTest, 6);
  const auto head = head_that_reads();
  for (int i = 0; i < 200; ++i) {
    std::vector<double> accepts(8);
    for (double& a : accepts) a = d.uniform(0.3f, 0.999f);
    const double h = d.uniform(0.05f, 0.95f);
    int64_t expected = 0;
    for (double product = 1; expected < 8 && 1 - product <= h; ++expected) product *= accepts[expected];
    const auto states = states_of(accepts);
    const auto control = make_acceptance_control(head, h);
    EXPECT_EQ(drafted_by(*control, tokens_of(states)), expected) << h;
    EXPECT_EQ(drafted_by(*control, tokens_of(states), 0, 3), expected);   // the next round begins anew, whatever the one before was
  }
}

// Rounds of several sequences, asked in turns, as a batch asks: nothing of one reaches another.
TEST(acceptance_rule, keeps_sequences_apart) {
  Draws d(test_seed(), Stream::kTest, 7);
  const auto head = head_that_reads();
  const auto together = make_acceptance_control(head, 0.6);
  std::vector<std::vector<float>> states;
  for (int q = 0; q < 5; ++q) {
    std::vector<double> accepts(8);
    for (double& a : accepts) a = d.uniform(0.6f, 0.99f);
    states.push_back(states_of(accepts));
  }
  std::vector<DraftState> s(5);
  std::vector<std::vector<DraftedToken>> tokens;
  for (const auto& x : states) tokens.push_back(tokens_of(x));
  std::vector<bool> going(5, true);
  for (int turn = 0; turn < 8; ++turn)
    for (int q = 0; q < 5; ++q) {
      s[q].sequence = q, s[q].committed = 11;
      if (going[q] && (going[q] = together->go_on(s[q]))) s[q].drafted = std::span(tokens[q]).first(s[q].drafted.size() + 1);
    }
  for (int q = 0; q < 5; ++q) EXPECT_EQ(static_cast<int64_t>(s[q].drafted.size()), drafted_by(*make_acceptance_control(head, 0.6), tokens[q])) << q;
}

TEST(acceptance_rule, says_what_is_missing) {
  const auto control = make_acceptance_control(head_that_reads(3), 0.5);
  const auto states = states_of({0.5});
  EXPECT_THROW(drafted_by(*control, tokens_of({states[0], states[1], 0, 0})), ConfigError);   // two numbers for three
  EXPECT_THROW(make_draft_rule("specdec_50", {.most_drafted = 4, .cost = {}}), ConfigError);
  EXPECT_THROW(make_draft_rule("specdec_51", {.most_drafted = 4, .cost = {}, .head = head_that_reads()}), ConfigError);
  EXPECT_EQ(draft_rule_names(4, true).size(), draft_rule_names(4).size() + 12);
}

// From a recording to the rules of an evaluation: they beat every fixed length where the hidden state says what will be accepted.
TEST(acceptance_rule, beats_every_fixed_length_in_an_evaluation) {
  const TemporaryFolder folder;
  const auto train = opened(folder, "t.safetensors", recording_of(easy_or_hard, 4000, 8, 0.6)), validation = opened(folder, "v.safetensors", recording_of(easy_or_hard, 1200, 9, 0.6));
  const std::string head = folder.path() / "head.safetensors";
  fit_acceptance(*train, *validation, {.learning_rate = 3e-3, .epochs = 6, .batch = 128, .seed = test_seed()}).save(head);
  const auto best_of = [&](const std::string& prefix) {
    const auto evaluator = Registry<EvaluatorEntry>::instance().get("draft_length", "environment").make(
        Config::parse("{mode: replay, cost: {draft: 0.25}, head: " + head + "}", "env.yaml"), folder.path() / "v.safetensors");
    double best = 0;
    for (const EvaluatedPolicy& p : evaluator->policies(false)) {
      if (!p.name.starts_with(prefix)) continue;
      double ms = 0;   // of the same tokens
      for (int64_t e = 0; e < evaluator->num_episodes(); ++e) ms += evaluator->run(p.name, {}, e, 1, false).metrics[1];
      best = std::max(best, 1 / ms);
    }
    return best;
  };
  const double fixed = best_of("fixed_"), ours = best_of("specdec_"), oracle = best_of("alphas_known");
  EXPECT_GT(ours, 1.08 * fixed);
  EXPECT_LT(ours, 1.02 * oracle);
  EXPECT_GT(ours, best_of("entropy_"));   // the entropy says nothing here
}

TEST(acceptance_rule, a_head_of_another_draft_is_refused_by_name) {
  const TemporaryFolder folder;
  opened(folder, "v.safetensors", recording_of(easy_or_hard, 80, 10));
  const std::string head = folder.path() / "other.safetensors";
  AcceptanceHead({.hidden = kHidden + 1}, 1).save(head);
  try {
    Registry<EvaluatorEntry>::instance().get("draft_length", "environment").make(Config::parse("{head: " + head + "}", "env.yaml"), folder.path() / "v.safetensors");
    FAIL();
  } catch (const DataError& error) {
    const std::string what = error.what();
    for (const char* part : {"other.safetensors", "v.safetensors", "6 numbers", "holds 5"}) EXPECT_NE(what.find(part), std::string::npos) << what;
  }
}

TEST(acceptance_fit, refuses_what_it_cannot_learn_from) {
  const TemporaryFolder folder;
  const auto five = opened(folder, "five.safetensors", recording_of(easy_or_hard, 80, 11)), seven = opened(folder, "seven.safetensors", recording_of(easy_or_hard, 80, 12, 0, 7));
  Recording bare = recording_of(easy_or_hard, 80, 13);
  bare.columns.erase("hidden");
  const auto none = opened(folder, "none.safetensors", bare);
  EXPECT_THROW(fit_acceptance(*none, *five, {}), DataError);
  EXPECT_THROW(fit_acceptance(*five, *none, {}), DataError);
  EXPECT_THROW(fit_acceptance(*five, *seven, {}), DataError);
  EXPECT_THROW(fit_acceptance(*five, *five, {.features = "both"}), ConfigError);
  EXPECT_THROW(fit_acceptance(*five, *five, {.blocks = -1}), ConfigError);
  EXPECT_THROW(fit_acceptance(*five, *five, {.weight = 0}), ConfigError);
  EXPECT_THROW(fit_acceptance(*five, *five, {.epochs = 0}), ConfigError);
}

TEST(acceptance_file, comes_back_as_it_was) {
  const TemporaryFolder folder;
  const auto source = opened(folder, "v.safetensors", recording_of(easy_or_hard, 200, 14));
  for (const bool share : {true, false})
    for (const std::string features : {"hidden", "all"}) {
      const AcceptanceHead head = fit_acceptance(*source, *source, {.features = features, .blocks = 2, .share = share, .epochs = 1, .batch = 64});
      head.save(folder.path() / "h.safetensors");
      const AcceptanceHead again = AcceptanceHead::load(folder.path() / "h.safetensors");
      EXPECT_EQ(again.shape(), head.shape());
      EXPECT_EQ(acceptance_loss(again, *source, 6), acceptance_loss(head, *source, 6));   // normaliser and all
      again.save(folder.path() / "i.safetensors");
      EXPECT_EQ(read_file(folder.path() / "h.safetensors"), read_file(folder.path() / "i.safetensors"));
    }
}

TEST(acceptance_file, what_cannot_be_a_head_is_refused) {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "h.safetensors";
  AcceptanceHead({.hidden = 4, .blocks = 2, .share = false}, 1).save(file);
  const TensorFile good = read_safetensors(file);
  const auto refusal = [&](const std::function<void(TensorFile&)>& spoil) -> std::string {
    TensorFile bad = good;
    spoil(bad);
    write_safetensors(file, bad);
    try {
      AcceptanceHead::load(file);
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("h.safetensors"), std::string::npos) << error.what();
      return error.what();
    }
    return "";
  };
  const auto says = [](const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; };
  EXPECT_EQ(refusal([](TensorFile&) {}), "");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata.clear(); }), "no acceptance head");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata["acceptance_head"] = "2"; }), "version '2'");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata["extra"] = "1"; }), "'extra'");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata.erase("share"); }), "'share'");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata["features"] = "some"; }), "'features'");
  for (const char* hidden : {"0", "-4", "4x", "", "65537", "99999999999999999999", "4.0"})
    EXPECT_PRED2(says, refusal([&](TensorFile& f) { f.metadata["hidden"] = hidden; }), "'hidden'") << hidden;
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata["hidden"] = "5"; }), "'mean'");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata["hidden"] = "65536"; }), "'mean'");   // nothing of that size is made
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata["blocks"] = "33"; }), "'blocks'");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata["blocks"] = "3"; }), "'block.2.weight' is missing");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.metadata["share"] = "true"; }), "unknown tensor 'block.1");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.tensors.erase("scale"); }), "'scale' is missing");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.tensors["logits.weight"].shape = {2, 4}; }), "'logits.weight'");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.tensors["block.0.bias"].dtype = "I32"; }), "'block.0.bias'");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { f.tensors["more"] = f.tensors["mean"]; }), "unknown tensor 'more'");
  EXPECT_PRED2(says, refusal([](TensorFile& f) { reinterpret_cast<float*>(f.tensors["block.1.weight"].bytes.data())[5] = NAN; }), "number 5");
  EXPECT_THROW(AcceptanceHead::load(folder.path() / "none.safetensors"), Error);
}

}  // namespace
}  // namespace trimtab
