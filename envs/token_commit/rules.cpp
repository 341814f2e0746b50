#include "envs/token_commit/rules.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "envs/token_commit/learn2pd.h"
#include "envs/token_commit/picks.h"

namespace trimtab {
namespace {

using Score = float (*)(const MaskedPosition&);
float confidence(const MaskedPosition& m) { return m.confidence; }
float certainty(const MaskedPosition& m) { return -m.entropy; }
float margin(const MaskedPosition& m) { return m.margin; }

void pick_best(const CommitState& s, Score score, int64_t count, std::vector<int32_t>& picks) {
  picks = ranked(s, score);
  picks.erase(picks.begin() + std::min(std::ssize(picks), static_cast<std::ptrdiff_t>(count)), picks.end());
}
template <class Test>
void pick_all(const CommitState& s, Test good, std::vector<int32_t>& picks) {
  picks.clear();
  for (size_t i = 0; i < s.masked.size(); ++i)
    if (good(s.masked[i])) picks.push_back(static_cast<int32_t>(i));
}

// How many of a window's masks are due in this pass when `passes` are to commit them all; at least one.
int64_t quota(const CommitState& s, int64_t passes) {
  passes = std::max<int64_t>(1, passes);
  return std::max<int64_t>(1, s.window_masks / passes + (s.window_pass < s.window_masks % passes ? 1 : 0));
}
int64_t planned_quota(const CommitState& s) { return quota(s, s.window_passes > 0 ? s.window_passes : s.window_masks); }

int64_t first_mask(const CommitState& s) { return std::find(s.tokens.begin(), s.tokens.end(), -1) - s.tokens.begin(); }

class Rule : public CommitControl {
 public:
  using Choose = std::function<void(const CommitState&, std::vector<int32_t>&)>;
  explicit Rule(Choose choose) : choose_(std::move(choose)) {}
  void choose(const CommitState& s, std::vector<int32_t>& picks) final { choose_(s, picks); }

 private:
  Choose choose_;
};

Rule::Choose best_rule(Score score) {
  return [score](const CommitState& s, std::vector<int32_t>& picks) { pick_best(s, score, 1, picks); };
}
Rule::Choose random_rule(uint64_t seed) {
  return [seed](const CommitState& s, std::vector<int32_t>& picks) {
    Draws draws(seed, Stream::kAction, static_cast<uint32_t>(s.sequence), static_cast<uint32_t>(s.pass));
    pick_all(s, [](const MaskedPosition& m) { return !m.waits; }, picks);
    picks = {picks[draws.below(static_cast<uint32_t>(picks.size()))]};
  };
}
Rule::Choose topk_rule(int64_t per_pass) {
  return [per_pass](const CommitState& s, std::vector<int32_t>& picks) { pick_best(s, confidence, quota(s, (s.window_masks + per_pass - 1) / per_pass), picks); };
}
Rule::Choose threshold_rule(double least) {
  return [least](const CommitState& s, std::vector<int32_t>& picks) {
    pick_all(s, [least](const MaskedPosition& m) { return m.confidence >= least; }, picks);
    if (picks.empty()) pick_best(s, confidence, 1, picks);
  };
}
Rule::Choose factor_rule(double most) {
  return [most](const CommitState& s, std::vector<int32_t>& picks) {
    picks = ranked(s, confidence);
    size_t n = 0;   // (n + 1)(1 - c_n) never falls, with the least confidence so far for c_n
    for (double least = 1; n < picks.size(); ++n) {
      least = std::min<double>(least, s.masked[picks[n]].confidence);
      if (static_cast<double>(n + 2) * (1.0 - least) > most) break;
    }
    picks.resize(std::max<size_t>(1, n));
  };
}
Rule::Choose eb_rule(double most) {
  return [most](const CommitState& s, std::vector<int32_t>& picks) {
    picks = ranked(s, certainty);
    size_t k = 0;
    double sum = 0, largest = 0;   // of the k taken; the largest does not count
    for (; k < picks.size(); ++k) {
      sum += s.masked[picks[k]].entropy, largest = std::max<double>(largest, s.masked[picks[k]].entropy);
      if (k > 0 && sum - largest > most) break;
    }
    picks.resize(k);
  };
}
Rule::Choose localleap_rule(double least, double near_least, int64_t radius) {
  return [=](const CommitState& s, std::vector<int32_t>& picks) {
    const auto anchored = [&](const MaskedPosition& m) {
      return std::any_of(s.masked.begin(), s.masked.end(), [&](const MaskedPosition& a) { return a.confidence >= least && std::abs(a.position - m.position) <= radius; });
    };
    pick_all(s, [&](const MaskedPosition& m) { return m.confidence >= least || (m.confidence >= near_least && anchored(m)); }, picks);
    if (picks.empty()) pick_best(s, confidence, 1, picks);
  };
}
Rule::Choose wedlm_rule(double most) {
  constexpr double kPerPosition = 0.02;
  return [most](const CommitState& s, std::vector<int32_t>& picks) {
    const int32_t first = s.masked.front().position;
    const auto adjusted = [first](const MaskedPosition& m) { return m.entropy + kPerPosition * (m.position - first); };
    pick_all(s, [&](const MaskedPosition& m) { return adjusted(m) < most; }, picks);
    if (!picks.empty()) return;
    const auto rank = [&](const MaskedPosition& m) { return std::pair(m.waits, adjusted(m)); };
    const auto best = std::min_element(s.masked.begin(), s.masked.end(), [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
    picks = {static_cast<int32_t>(best - s.masked.begin())};
  };
}

// Remembers the drift of the pass before.
class Klass final : public CommitControl {
 public:
  Klass(double sure, double calm, Score score) : sure_(sure), calm_(calm), score_(score) {}
  void begin(int64_t sequence) override { memory_.erase(sequence); }
  void choose(const CommitState& s, std::vector<int32_t>& picks) override {
    Memory& memory = memory_[s.sequence];
    if (memory.pass != s.pass - 1 || memory.drift.size() != static_cast<size_t>(s.length)) memory.drift.assign(static_cast<size_t>(s.length), kUnseen);
    const std::vector<float> before = std::exchange(memory.drift, std::vector<float>(memory.drift.size(), kUnseen));
    memory.pass = s.pass;
    for (const auto part : {s.masked, s.beyond})
      for (const MaskedPosition& m : part) memory.drift[m.position] = before[m.position] == kUnseen ? kUnknown : m.drift;
    const auto ready = [&](const MaskedPosition& m) { return m.confidence > sure_ && memory.drift[m.position] < calm_ && before[m.position] < calm_; };
    picks.clear();
    if (s.window_pass >= 1) pick_all(s, ready, picks);
    if (picks.empty()) pick_best(s, score_, planned_quota(s), picks);
    if (picks.size() == s.masked.size() && s.window.end >= s.length) memory_.erase(s.sequence);   // the answer is complete
  }

 private:
  // A position's first pass has no drift. The released code's is of this size then, so that only a threshold beyond all use is above it.
  static constexpr float kUnknown = 27.6f, kUnseen = 28;
  struct Memory {
    int64_t pass = -1;
    std::vector<float> drift;   // [length]
  };

  double sure_, calm_;
  Score score_;
  std::map<int64_t, Memory> memory_;   // by sequence
};

class AdaBlock final : public Rule {
 public:
  AdaBlock(double least, double sure, std::vector<int32_t> delimiters) : Rule(threshold_rule(least)), sure_(sure), delimiters_(std::move(delimiters)) {}
  CommitWindow open(const CommitState& s, CommitWindow proposed) override {
    const int64_t reach = proposed.begin + std::min(s.length / 4, s.length - proposed.begin);
    const MaskedPosition* best = nullptr;
    for (const auto part : {s.masked, s.beyond})
      for (const MaskedPosition& m : part)
        if (m.position >= proposed.begin && m.position < reach && s.tokens[m.position] < 0 && delimits(m.token) && (best == nullptr || m.confidence > best->confidence)) best = &m;
    if (best == nullptr || best->confidence < sure_) return proposed;
    return {proposed.begin, best->position + 1};
  }

 private:
  bool delimits(int32_t token) const { return std::find(delimiters_.begin(), delimiters_.end(), token) != delimiters_.end(); }
  double sure_;
  std::vector<int32_t> delimiters_;
};

class Dcd final : public Rule {
 public:
  Dcd(double least, int64_t most_masks) : Rule(threshold_rule(least)), most_masks_(most_masks) {}
  void begin(int64_t sequence) override { refreshed_.erase(sequence); }
  CommitWindow open(const CommitState& s, CommitWindow proposed) override {
    const int64_t begin = first_mask(s), reach = std::min(s.length, begin + kReach * most_masks_);
    if (begin >= s.length) return proposed;
    int64_t end = begin, masks = 0;
    for (; end < reach && (s.tokens[end] >= 0 || masks < most_masks_); ++end) masks += s.tokens[end] < 0;
    return {begin, end};
  }
  CacheRefresh refresh(const CommitState& s) override {
    const auto committed = std::count_if(s.tokens.begin(), s.tokens.end(), [](int32_t t) { return t >= 0; });
    int64_t& last = refreshed_[s.sequence];
    if (committed - last < kCommits) return CacheRefresh::kAsPlanned;
    last = committed;
    return CacheRefresh::kEverything;
  }

 private:
  static constexpr int64_t kReach = 4, kCommits = 32;
  int64_t most_masks_;
  std::map<int64_t, int64_t> refreshed_;   // by sequence: what was committed at the last refresh
};

class WeDlm final : public Rule {
 public:
  WeDlm(double most, int64_t width) : Rule(wedlm_rule(most)), width_(width) {}
  CommitWindow open(const CommitState& s, CommitWindow proposed) override {
    const int64_t begin = first_mask(s);
    return begin < s.length ? CommitWindow{begin, std::min(s.length, begin + width_)} : proposed;
  }

 private:
  int64_t width_;
};

using Numbers = std::vector<int64_t>;
using Made = std::unique_ptr<CommitControl>;

struct Kind {
  std::string name;
  Numbers published;   // the numbers where a name has none
  Numbers least;       // what they may be
  std::function<Made(const Numbers&, const CommitRuleOptions&)> make;
};

Made plain(Rule::Choose choose) { return std::make_unique<Rule>(std::move(choose)); }
double percent(int64_t number) { return static_cast<double>(number) / 100; }
double thousandth(int64_t number) { return static_cast<double>(number) / 1000; }

Made make_filtered(const Numbers& n, const CommitRuleOptions& o) {
  if (!o.filter) throw ConfigError("the rule learn2pd needs a filter: `trimtab fit learn2pd` makes one, env.filter names it");
  return make_learn2pd(o.filter, percent(n[0]));
}
Made make_adablock(const Numbers& n, const CommitRuleOptions& o) {
  if (o.delimiters.empty()) throw ConfigError("the rule adablock needs the token ids of delimiters, such as that of a new line");
  return std::make_unique<AdaBlock>(percent(n[0]), percent(n[1]), o.delimiters);
}

const std::vector<Kind>& kinds() {
  using O = const CommitRuleOptions&;
  using N = const Numbers&;
  static const std::vector<Kind> all = {
      {"random", {}, {}, [](N, O o) { return plain(random_rule(o.seed)); }},
      {"top1", {}, {}, [](N, O) { return plain(best_rule(confidence)); }},
      {"entropy1", {}, {}, [](N, O) { return plain(best_rule(certainty)); }},
      {"margin1", {}, {}, [](N, O) { return plain(best_rule(margin)); }},
      {"quota", {}, {}, [](N, O) { return plain([](const CommitState& s, std::vector<int32_t>& picks) { pick_best(s, confidence, planned_quota(s), picks); }); }},
      {"topk", {2}, {1}, [](N n, O) { return plain(topk_rule(n[0])); }},
      {"threshold", {90}, {0}, [](N n, O) { return plain(threshold_rule(percent(n[0]))); }},
      {"factor", {100}, {0}, [](N n, O) { return plain(factor_rule(percent(n[0]))); }},
      {"eb", {100}, {0}, [](N n, O) { return plain(eb_rule(thousandth(n[0]))); }},
      {"klass", {90, 10}, {0, 0}, [](N n, O) -> Made { return std::make_unique<Klass>(percent(n[0]), thousandth(n[1]), confidence); }},
      {"klass_entropy", {90, 10}, {0, 0}, [](N n, O) -> Made { return std::make_unique<Klass>(percent(n[0]), thousandth(n[1]), certainty); }},
      {"localleap", {90, 75, 4}, {0, 0, 0}, [](N n, O) { return plain(localleap_rule(percent(n[0]), percent(n[1]), n[2])); }},
      {"adablock", {90, 30}, {0, 0}, make_adablock},
      {"dcd", {90}, {0}, [](N n, O o) -> Made { return std::make_unique<Dcd>(percent(n[0]), o.window); }},
      {"wedlm", {40}, {0}, [](N n, O o) -> Made { return std::make_unique<WeDlm>(percent(n[0]), o.window); }},
      {"learn2pd", {96}, {0}, make_filtered},
  };
  return all;
}

// "localleap_90_75_4": "localleap" and 90, 75, 4.
std::pair<std::string, Numbers> parsed(std::string name) {
  Numbers numbers;
  for (size_t bar; (bar = name.rfind('_')) != std::string::npos; name.resize(bar)) {
    const std::string digits = name.substr(bar + 1);
    if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string::npos) break;
    numbers.push_back(std::stoll(digits));
  }
  std::reverse(numbers.begin(), numbers.end());
  return {name, numbers};
}

}  // namespace

std::vector<std::string> commit_rule_names(const CommitRuleOptions& options) {
  std::vector<std::string> out = {"random", "top1", "entropy1", "margin1", "quota"};
  const auto add = [&](const char* kind, std::initializer_list<const char*> numbers) {
    for (const char* n : numbers) out.push_back(fmt::format("{}_{}", kind, n));
  };
  add("topk", {"2", "3", "4", "8"});
  add("threshold", {"50", "60", "70", "80", "90", "95", "99"});
  add("factor", {"25", "50", "100", "150", "200"});
  add("eb", {"1", "10", "50", "100", "200", "500"});
  add("klass", {"60_10", "60_15", "70_10", "90_1", "90_5", "90_10"});
  add("klass_entropy", {"60_15", "90_10"});
  add("localleap", {"80_60_4", "90_75_2", "90_75_4"});
  if (!options.delimiters.empty()) add("adablock", {"90_30", "90_50"});
  add("dcd", {"80", "90"});
  add("wedlm", {"20", "40", "60"});
  if (options.filter) add("learn2pd", {"80", "90", "96"});
  return out;
}

bool slides(const std::string& rule) {
  const std::string kind = parsed(rule).first;
  return kind == "dcd" || kind == "wedlm";
}

bool looks_ahead(const std::string& rule) {
  const std::string kind = parsed(rule).first;
  return kind.starts_with("klass") || kind == "adablock" || kind == "dcd";
}

std::unique_ptr<CommitControl> make_commit_rule(const std::string& name, const CommitRuleOptions& options) {
  const auto [kind, given] = parsed(name);
  if (options.window < 1) throw ConfigError(fmt::format("a window of {} positions for the rule '{}': at least 1", options.window, name));
  for (const Kind& k : kinds()) {
    if (k.name != kind) continue;
    const Numbers& numbers = given.empty() ? k.published : given;
    if (numbers.size() != k.published.size()) throw ConfigError(fmt::format("the rule '{}' has {} numbers; {} takes {}", name, numbers.size(), kind, k.published.size()));
    for (size_t i = 0; i < numbers.size(); ++i)
      if (numbers[i] < k.least[i]) throw ConfigError(fmt::format("the rule '{}': {} is below {}", name, numbers[i], k.least[i]));
    return k.make(numbers, options);
  }
  std::string known;
  for (const Kind& k : kinds()) known += (known.empty() ? "" : ", ") + k.name;
  throw ConfigError(fmt::format("there is no rule '{}' for committing tokens: use one of {}, with numbers as in threshold_90", name, known));
}

}  // namespace trimtab
