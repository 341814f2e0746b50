// Commit rules: identities between them on drawn states, their published numbers, and made-up models driven to the end of an answer.
#include "envs/token_commit/rules.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

using Picks = std::vector<int32_t>;
constexpr int32_t kDelimiter = 3;
const CommitRuleOptions kOptions = {.delimiters = {kDelimiter}};

// A state that owns what it shows.
struct Drawn {
  CommitState state;
  std::vector<int32_t> tokens;
  std::vector<MaskedPosition> masked, beyond;
  const CommitState& view() {
    state.tokens = tokens, state.masked = masked, state.beyond = beyond;
    return state;
  }
};

MaskedPosition proposal(Draws& d, int32_t position) {
  const float sure = d.below(2) == 0 ? d.uniform(0.05f, 0.999f) : d.uniform(0.8f, 0.999f);
  return {.position = position, .token = static_cast<int32_t>(d.below(8)), .confidence = sure, .margin = d.uniform(0, sure), .entropy = d.uniform(0.001f, 1.0f),
          .drift = d.uniform(0.0001f, 0.05f), .held = static_cast<int32_t>(d.below(4)), .ends = d.below(8) == 0};
}

Drawn random_state(uint32_t index) {
  Draws d(test_seed(), Stream::kTest, index, 81);
  Drawn out;
  CommitState& s = out.state;
  s.sequence = d.below(3), s.length = 1 + d.below(64), s.pass = d.below(6);
  s.window.begin = d.below(static_cast<uint32_t>(s.length)), s.window.end = s.window.begin + 1 + d.below(static_cast<uint32_t>(s.length - s.window.begin));
  s.window_pass = std::min<int64_t>(s.pass, d.below(4));
  out.tokens.assign(static_cast<size_t>(s.length), 1);
  const auto surely = s.window.begin + d.below(static_cast<uint32_t>(s.window.end - s.window.begin));   // one is masked
  for (int64_t i = s.window.begin; i < s.length; ++i) {
    if (i != surely && d.below(4) == 0) continue;
    out.tokens[i] = -1;
    (i < s.window.end ? out.masked : out.beyond).push_back(proposal(d, static_cast<int32_t>(i)));
  }
  s.window_masks = static_cast<int64_t>(out.masked.size()) + d.below(4);
  s.window_passes = d.below(2) == 0 ? 0 : 1 + d.below(static_cast<uint32_t>(s.window_masks));
  return out;
}

Picks sorted(Picks p) { return std::sort(p.begin(), p.end()), p; }
Picks picks_of(CommitControl& rule, const CommitState& state) {
  Picks out = {7, 7, 7};   // what was there before does not matter
  rule.choose(state, out);
  return sorted(out);
}
Picks picks_of(const std::string& rule, const CommitState& state) { return picks_of(*make_commit_rule(rule, kOptions), state); }

constexpr uint32_t kStates = 400;

TEST(commit_rules, always_pick_distinct_masked_positions) {
  for (const std::string& name : commit_rule_names(kOptions))
    for (uint32_t i = 0; i < kStates; ++i) {
      Drawn drawn = random_state(i);
      const Picks picks = picks_of(name, drawn.view());
      ASSERT_FALSE(picks.empty()) << name << " " << i;
      ASSERT_GE(picks.front(), 0) << name << " " << i;
      ASSERT_LT(picks.back(), static_cast<int32_t>(drawn.masked.size())) << name << " " << i;
      ASSERT_EQ(std::set<int32_t>(picks.begin(), picks.end()).size(), picks.size()) << name << " " << i;
      ASSERT_EQ(picks, picks_of(name, drawn.view())) << name << " " << i;
    }
}

TEST(commit_rules, reduce_to_one_another_at_their_limits) {
  const std::pair<const char*, const char*> same[] = {{"threshold_101", "top1"}, {"factor_0", "top1"},       {"eb_0", "entropy1"},
                                                      {"topk_1", "top1"},        {"localleap_90_75_0", "threshold_90"}, {"localleap_90_90_9", "threshold_90"},
                                                      {"localleap_101_0_9", "top1"}, {"dcd_85", "threshold_85"}, {"adablock_85_30", "threshold_85"}};
  for (uint32_t i = 0; i < kStates; ++i) {
    Drawn drawn = random_state(i);
    for (const auto& [a, b] : same) EXPECT_EQ(picks_of(a, drawn.view()), picks_of(b, drawn.view())) << a << " " << b << " " << i;
    drawn.state.window_passes = drawn.state.window_masks;
    EXPECT_EQ(picks_of("quota", drawn.view()), picks_of("top1", drawn.view())) << i;   // as many passes as masks
    drawn.state.window_pass = 0, drawn.state.window_passes = 1;
    EXPECT_EQ(picks_of("quota", drawn.view()).size(), drawn.masked.size()) << i;
    // KLASS that takes any drift for calm: the threshold, and the quota in a window's first pass or where nothing is sure.
    for (drawn.state.window_pass = 0; drawn.state.window_pass < 3; ++drawn.state.window_pass) {
      const bool sure = std::any_of(drawn.masked.begin(), drawn.masked.end(), [](const MaskedPosition& m) { return m.confidence > 0.9f; });
      const std::string reference = drawn.state.window_pass >= 1 && sure ? "threshold_90" : "quota";
      EXPECT_EQ(picks_of("klass_90_1000000", drawn.view()), picks_of(reference, drawn.view())) << i;
    }
  }
}

TEST(commit_rules, take_more_when_they_are_laxer) {
  const std::pair<const char*, const char*> wider[] = {{"threshold_90", "threshold_70"}, {"factor_50", "factor_100"}, {"eb_10", "eb_200"},
                                                       {"threshold_90", "localleap_90_75_4"}, {"localleap_90_75_2", "localleap_90_75_4"}, {"wedlm_20", "wedlm_60"},
                                                       {"topk_2", "topk_4"}};
  for (const auto& [strict, lax] : wider) {
    size_t more = 0;
    for (uint32_t i = 0; i < kStates; ++i) {
      Drawn drawn = random_state(i);
      drawn.state.window_pass = 0;
      const Picks a = picks_of(strict, drawn.view()), b = picks_of(lax, drawn.view());
      EXPECT_TRUE(std::includes(b.begin(), b.end(), a.begin(), a.end())) << strict << " " << lax << " " << i;
      more += b.size() > a.size();
    }
    EXPECT_GT(more, kStates / 20) << strict << " " << lax;
  }
}

// What a rule of each kind reads of a position; the rest may be anybody's.
std::string fields_of(const std::string& rule) {
  if (rule == "random") return "";
  if (rule.starts_with("entropy") || rule.starts_with("eb") || rule.starts_with("wedlm")) return "entropy";
  if (rule.starts_with("margin")) return "margin";
  if (rule.starts_with("klass_entropy")) return "confidence drift entropy";
  if (rule.starts_with("klass")) return "confidence drift";
  return "confidence";
}

TEST(commit_rules, read_only_their_own_fields) {
  for (const std::string& name : commit_rule_names(kOptions))
    for (uint32_t i = 0; i < 60; ++i) {
      Drawn drawn = random_state(i), other = drawn;
      Draws d(test_seed(), Stream::kTest, i, 82);
      const std::string read = fields_of(name);
      const auto reads = [&](const char* field) { return read.find(field) != std::string::npos; };
      for (auto* part : {&other.masked, &other.beyond})
        for (MaskedPosition& m : *part) {
          const MaskedPosition fresh = proposal(d, m.position);
          m.token = fresh.token, m.held = fresh.held, m.ends = fresh.ends;
          if (!reads("confidence")) m.confidence = fresh.confidence;
          if (!reads("margin")) m.margin = fresh.margin;
          if (!reads("entropy")) m.entropy = fresh.entropy;
          if (!reads("drift")) m.drift = fresh.drift;
        }
      ASSERT_EQ(picks_of(name, drawn.view()), picks_of(name, other.view())) << name << " " << i;
    }
}

// Positions 0, 1, ... of these confidences, entropies of 1 - confidence.
Drawn state_of(const std::vector<float>& confidences) {
  Drawn out;
  for (size_t i = 0; i < confidences.size(); ++i)
    out.masked.push_back({.position = static_cast<int32_t>(i), .confidence = confidences[i], .margin = confidences[i], .entropy = 1 - confidences[i], .drift = 0.001f});
  out.tokens.assign(confidences.size(), -1);
  const auto n = static_cast<int64_t>(confidences.size());
  out.state.length = n, out.state.window = {0, n}, out.state.window_masks = n;
  return out;
}

TEST(commit_rules, have_their_published_numbers) {
  // Theorem 1 of Fast-dLLM: n tokens of at least n / (n + 1) each.
  for (const int n : {1, 2, 4, 8, 16}) {
    const float bound = static_cast<float>(n) / static_cast<float>(n + 1);
    EXPECT_EQ(picks_of("factor_100", state_of(std::vector<float>(32, bound + 1e-4f)).view()).size(), static_cast<size_t>(n)) << n;
    EXPECT_EQ(picks_of("factor_100", state_of(std::vector<float>(32, bound - 1e-4f)).view()).size(), std::max<size_t>(1, n - 1)) << n;
  }
  Drawn drawn = state_of({0.2f, 0.78f, 0.97f, 0.3f, 0.76f, 0.92f, 0.5f});
  EXPECT_EQ(picks_of("threshold_90", drawn.view()), (Picks{2, 5}));
  EXPECT_EQ(picks_of("localleap_90_75_1", drawn.view()), (Picks{1, 2, 4, 5}));
  EXPECT_EQ(picks_of("localleap_95_75_1", drawn.view()), (Picks{1, 2}));
  EXPECT_EQ(picks_of("topk_2", drawn.view()), (Picks{2, 5}));   // seven masks in four passes: 2, 2, 2, 1
  EXPECT_EQ(picks_of("topk_2", drawn.view()), picks_of("topk", drawn.view()));
  drawn.state.window_pass = 3;
  EXPECT_EQ(picks_of("topk_2", drawn.view()), (Picks{2}));
  // Entropies .03, .08, .22, .24, ...: of the first three .11 without the largest, of the first four .33.
  EXPECT_EQ(picks_of("eb_100", drawn.view()), (Picks{2, 5}));
  EXPECT_EQ(picks_of("eb_115", drawn.view()), (Picks{1, 2, 5}));
  EXPECT_EQ(picks_of("eb_340", drawn.view()), (Picks{1, 2, 4, 5}));
  EXPECT_EQ(picks_of("eb_0", state_of({0.5f, 1.0f, 0.4f, 1.0f}).view()), (Picks{0, 1, 3}));   // what is certain sums to nothing
  // Adjusted: .80 .24 .07 .76 .32 .18 .62.
  EXPECT_EQ(picks_of("wedlm_30", drawn.view()), (Picks{1, 2, 5}));
  EXPECT_EQ(picks_of("wedlm_5", drawn.view()), (Picks{2}));
}

TEST(commit_rules, random_is_uniform_and_of_its_seed) {
  Drawn drawn = state_of({0.1f, 0.9f, 0.5f, 0.2f});
  int count[4] = {};
  size_t different = 0;
  for (int64_t pass = 0; pass < 4000; ++pass) {
    drawn.state.pass = pass;
    const Picks a = picks_of("random", drawn.view());
    ++count[a.front()];
    different += a != picks_of(*make_commit_rule("random", {.seed = 2}), drawn.view());
  }
  for (const int c : count) EXPECT_NEAR(c, 1000, 140);
  EXPECT_NEAR(static_cast<double>(different), 3000, 140);
}

TEST(klass, commits_what_was_calm_twice) {
  const auto rule = make_commit_rule("klass_60_10");
  Drawn drawn = state_of({0.7f, 0.8f, 0.9f, 0.65f});
  const auto ask = [&](int64_t pass, std::vector<float> drifts) {
    drawn.state.pass = drawn.state.window_pass = pass;
    for (size_t i = 0; i < drifts.size(); ++i) drawn.masked[i].drift = drifts[i];
    return picks_of(*rule, drawn.view());
  };
  rule->begin(0);
  EXPECT_EQ(ask(0, {0, 0, 0, 0}), (Picks{2}));                       // no drift is known: the quota
  EXPECT_EQ(ask(1, {0.001f, 0.001f, 0.5f, 0.001f}), (Picks{2}));     // known for one pass only
  EXPECT_EQ(ask(2, {0.001f, 0.5f, 0.001f, 0.001f}), (Picks{0, 3}));
  EXPECT_EQ(ask(3, {0.5f, 0.001f, 0.001f, 0.001f}), (Picks{2, 3}));
  drawn.state.sequence = 1;
  EXPECT_EQ(ask(4, {0.001f, 0.001f, 0.001f, 0.001f}), (Picks{2}));   // another answer's drifts are its own
  drawn.state.sequence = 0;
  EXPECT_EQ(ask(4, {0.001f, 0.001f, 0.5f, 0.5f}), (Picks{1}));
  EXPECT_EQ(ask(6, {0.001f, 0.001f, 0.001f, 0.001f}), (Picks{2}));   // the pass between was not seen
  EXPECT_EQ(ask(7, {0.001f, 0.001f, 0.001f, 0.001f}), (Picks{2}));
  rule->begin(0);
  EXPECT_EQ(ask(8, {0.001f, 0.001f, 0.001f, 0.001f}), (Picks{2}));
  // A window's first pass takes the quota, however calm; what was seen beyond the window counts.
  ask(9, {0.001f, 0.001f, 0.001f, 0.001f});
  drawn.state.pass = 10, drawn.state.window_pass = 0;
  EXPECT_EQ(picks_of(*rule, drawn.view()), (Picks{2}));
}

TEST(klass, its_entropy_variant_takes_the_surest_not_the_least_sure) {
  Drawn drawn = state_of({0.1f, 0.5f, 0.3f});
  EXPECT_EQ(picks_of("klass_entropy_60_15", drawn.view()), (Picks{1}));
  std::swap(drawn.masked[0].entropy, drawn.masked[1].entropy);
  EXPECT_EQ(picks_of("klass_entropy_60_15", drawn.view()), (Picks{0}));
  EXPECT_EQ(picks_of("klass_60_15", drawn.view()), (Picks{1}));
}

CommitState answer_of(const std::vector<int32_t>& tokens) {
  CommitState s;
  s.length = static_cast<int64_t>(tokens.size()), s.tokens = tokens;
  return s;
}

TEST(windows, of_adablock_end_behind_the_surest_delimiter) {
  const auto rule = make_commit_rule("adablock_90_30", kOptions);
  Drawn drawn = state_of(std::vector<float>(64, 0.9f));
  for (MaskedPosition& m : drawn.masked) m.token = 5;
  const auto end = [&] { return rule->open(drawn.view(), {8, 40}).end; };
  EXPECT_EQ(end(), 40);   // no delimiter
  drawn.masked[12] = {.position = 12, .token = kDelimiter, .confidence = 0.29f};
  EXPECT_EQ(end(), 40);   // not sure
  drawn.masked[10] = {.position = 10, .token = kDelimiter, .confidence = 0.4f}, drawn.masked[20] = {.position = 20, .token = kDelimiter, .confidence = 0.6f};
  EXPECT_EQ(end(), 21);
  drawn.masked[24] = {.position = 24, .token = kDelimiter, .confidence = 0.99f};   // beyond a quarter of 64
  EXPECT_EQ(end(), 21);
  drawn.tokens[20] = 5;   // committed since
  EXPECT_EQ(end(), 11);
  EXPECT_EQ(rule->open(drawn.view(), {8, 40}).begin, 8);
  drawn.masked.clear();
  EXPECT_EQ(end(), 40);
}

TEST(windows, of_dcd_hold_as_many_masks_as_they_may) {
  const auto rule = make_commit_rule("dcd", {.window = 4});
  for (uint32_t i = 0; i < kStates; ++i) {
    Drawn drawn = random_state(i);
    const CommitState& s = drawn.view();
    const CommitWindow w = rule->open(s, {0, 1});
    const auto masks = [&](int64_t end) { return std::count(drawn.tokens.begin() + w.begin, drawn.tokens.begin() + end, -1); };
    ASSERT_EQ(drawn.tokens[w.begin], -1);
    ASSERT_EQ(std::count(drawn.tokens.begin(), drawn.tokens.begin() + w.begin, -1), 0);
    ASSERT_LE(masks(w.end), 4);
    ASSERT_LE(w.end - w.begin, 16);
    ASSERT_TRUE(w.end == s.length || w.end - w.begin == 16 || masks(w.end + 1) == 5) << i;   // and could be no wider
  }
  std::vector<int32_t> tokens(64, -1);
  EXPECT_EQ(rule->refresh(answer_of(tokens)), CacheRefresh::kAsPlanned);
  std::fill(tokens.begin(), tokens.begin() + 32, 1);
  EXPECT_EQ(rule->refresh(answer_of(tokens)), CacheRefresh::kEverything);
  EXPECT_EQ(rule->refresh(answer_of(tokens)), CacheRefresh::kAsPlanned);
}

TEST(windows, of_wedlm_begin_at_the_first_mask) {
  const auto rule = make_commit_rule("wedlm");
  std::vector<int32_t> tokens(40, -1);
  const auto window = [&] { return rule->open(answer_of(tokens), {0, 40}); };
  EXPECT_EQ(window().end, 16);
  tokens[0] = tokens[1] = tokens[3] = 1;
  EXPECT_EQ(window().begin, 2);
  EXPECT_EQ(window().end, 18);
  std::fill(tokens.begin(), tokens.begin() + 30, 1);
  EXPECT_EQ(window().begin, 30);
  EXPECT_EQ(window().end, 40);
  tokens.assign(40, 1);
  EXPECT_EQ(window().end, 40);
}

// A made-up model: what it proposes for a position depends on the pass and on how much of the answer stands, and it grows surer.
class MadeUp {
 public:
  MadeUp(uint32_t index, int64_t length, int64_t block, bool slides) : index_(index), block_(slides ? length : block), slides_(slides) {
    drawn_.tokens.assign(static_cast<size_t>(length), -1), drawn_.state.length = length;
  }
  // Passes until the answer stands; -1: it never does.
  int64_t run(CommitControl& rule) {
    rule.begin(0);
    const int64_t length = drawn_.state.length;
    for (; drawn_.state.pass < length + 1; ++drawn_.state.pass, ++drawn_.state.window_pass) {
      const int64_t first = std::find(drawn_.tokens.begin(), drawn_.tokens.end(), -1) - drawn_.tokens.begin();
      if (first == length) return drawn_.state.pass;
      propose(first);
      if (slides_ || first >= drawn_.state.window.end) open(rule, first);
      const auto beyond = std::find_if(drawn_.masked.begin(), drawn_.masked.end(), [&](const MaskedPosition& m) { return m.position >= drawn_.state.window.end; });
      drawn_.beyond.assign(beyond, drawn_.masked.end());
      drawn_.masked.erase(beyond, drawn_.masked.end());
      commit(picks_of(rule, drawn_.view()));
    }
    return -1;
  }
  std::vector<int64_t> pass_of = std::vector<int64_t>(256, -1);   // by position
  std::vector<CommitWindow> windows;

 private:
  void open(CommitControl& rule, int64_t first) {
    CommitState& s = drawn_.state;
    s.window = rule.open(drawn_.view(), {first, std::min(s.length, first + block_)});
    EXPECT_LE(s.window.begin, first);
    EXPECT_GT(s.window.end, first);
    EXPECT_LE(s.window.end, s.length);
    s.window_pass = 0, s.window_masks = std::count(drawn_.tokens.begin() + s.window.begin, drawn_.tokens.begin() + s.window.end, -1);
    windows.push_back(s.window);
  }
  void propose(int64_t first) {
    drawn_.masked.clear(), drawn_.beyond.clear();
    for (int64_t i = first; i < drawn_.state.length; ++i) {
      if (drawn_.tokens[i] >= 0) continue;
      Draws d(test_seed(), Stream::kTest, index_, static_cast<uint32_t>(drawn_.state.pass), static_cast<uint32_t>(i));
      MaskedPosition m = proposal(d, static_cast<int32_t>(i));
      const float growth = 1 / (1 + 0.2f * static_cast<float>(drawn_.state.pass));
      m.confidence = 1 - (1 - m.confidence) * growth, m.entropy *= growth, m.drift *= growth * growth;
      drawn_.masked.push_back(m);
    }
  }
  void commit(const Picks& picks) {
    for (const int32_t i : picks) {
      const MaskedPosition& m = drawn_.masked[i];
      EXPECT_EQ(drawn_.tokens[m.position], -1);
      drawn_.tokens[m.position] = m.token, pass_of[m.position] = drawn_.state.pass;
    }
  }
  uint32_t index_;
  int64_t block_;
  bool slides_;
  Drawn drawn_;
};

TEST(made_up_answers, are_finished_by_every_rule) {
  const std::set<std::string> one_by_one = {"random", "top1", "entropy1", "margin1", "quota"};   // quota: no passes are planned here
  for (const std::string& name : commit_rule_names(kOptions))
    for (uint32_t i = 0; i < 6; ++i) {
      const int64_t length = 33 + 8 * i, block = i % 2 == 0 ? 8 : length;
      MadeUp model(i, length, block, slides(name));
      const int64_t passes = model.run(*make_commit_rule(name, kOptions));
      ASSERT_GT(passes, 0) << name;
      if (one_by_one.contains(name)) ASSERT_EQ(passes, length) << name;
      else ASSERT_LE(passes, length) << name;
      if (slides(name)) continue;   // else a window is full before the next one is begun
      for (const CommitWindow& w : model.windows)
        for (int64_t p = w.end; p < length; ++p)
          for (int64_t q = w.begin; q < w.end; ++q) ASSERT_LT(model.pass_of[q], model.pass_of[p]) << name;
    }
}

TEST(made_up_answers, take_the_passes_that_the_schedule_says) {
  for (const int64_t k : {1, 2, 3, 4, 8})
    for (const int64_t block : {8, 48}) {
      MadeUp model(3, 48, block, false);
      EXPECT_EQ(model.run(*make_commit_rule(fmt::format("topk_{}", k))), 48 / block * ((block + k - 1) / k)) << k << " " << block;
    }
}

TEST(made_up_answers, windows_of_adablock_follow_delimiters) {
  size_t moved = 0;
  for (uint32_t i = 0; i < 6; ++i) {
    MadeUp model(i, 64, 8, false);
    model.run(*make_commit_rule("adablock", kOptions));
    for (const CommitWindow& w : model.windows) moved += w.end - w.begin != 8 && w.end != 64;
  }
  EXPECT_GT(moved, 6u);
}

std::string refusal(const std::string& name, const CommitRuleOptions& options = {}) {
  try {
    make_commit_rule(name, options);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(commit_rules, unknown_names_are_refused) {
  const auto says = [](const std::string& message, const std::string& part) { EXPECT_NE(message.find(part), std::string::npos) << message; };
  says(refusal("treshold_90"), "no rule 'treshold_90'");
  says(refusal("treshold_90"), "localleap");
  says(refusal("threshold_"), "no rule");
  says(refusal("threshold_-1"), "no rule");
  says(refusal("top1_3"), "takes 0");
  says(refusal("klass_90"), "takes 2");
  says(refusal("topk_0"), "0 is below 1");
  says(refusal("adablock"), "delimiters");
  says(refusal("wedlm", {.window = 0}), "at least 1");
  for (const std::string& name : commit_rule_names()) EXPECT_EQ(refusal(name), "") << name;
  for (const char* bare : {"topk", "threshold", "factor", "eb", "klass", "klass_entropy", "localleap", "dcd", "wedlm"}) EXPECT_EQ(refusal(bare), "") << bare;
  EXPECT_EQ(commit_rule_names(kOptions).size(), commit_rule_names().size() + 2);
  EXPECT_TRUE(slides("wedlm_40") && slides("dcd") && !slides("threshold_90"));
}

}  // namespace
}  // namespace trimtab
