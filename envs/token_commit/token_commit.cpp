#include "envs/token_commit/token_commit.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "envs/token_commit/picks.h"

namespace trimtab {
namespace {

constexpr CacheRefresh kRefreshes[] = {CacheRefresh::kNothing, CacheRefresh::kWindow, CacheRefresh::kEverything};

constexpr uint32_t kBudget = 1;   // tells draws of budgets from those of problems

enum Term { kAnswer, kPasses, kStability, kTerms };

// Decisions are kept, so that a saved answer is decoded anew when it is read.
struct Decisions {
  float window = 0, refresh = 0;
  std::vector<float> commit;
  void serialise(Archive& a) { a(window), a(refresh), a(commit); }
};

class TokenCommit final : public BatchEnvironment {
 public:
  TokenCommit(const TokenCommitOptions& options, std::unique_ptr<CommitSource> source)
      : options_(options), source_(std::move(source)),
        view_(commit_view_options(options, source_->hidden_size())), spec_(token_commit_spec(options, view_)),
        slots_(source_->slots()), actions_(options) {}

  const EnvSpec& spec() const override { return spec_; }
  int64_t size() const override { return std::ssize(slots_); }

  void reset(std::span<const WorldKey> keys, uint64_t stride) override {
    TT_CHECK_EQ(std::ssize(keys), size());
    stride_ = stride;
    std::vector<int64_t> all;
    for (int64_t i = 0; i < size(); ++i) begin(i, keys[i]), all.push_back(i);
    pass(all);
  }
  void observe(int agent, ObservationRows out) override { observe_all(spec_.agents[agent].observation, out); }
  void observe_critic(ObservationRows out) override { observe_all(spec_.critic, out); }

  void act(int agent, const float* actions) override {
    const std::string& name = spec_.agents[agent].name;
    const int width = spec_.agents[agent].head.width();
    for (int64_t i = 0; i < size(); ++i) {
      Decisions& now = slots_[i].now;
      const float* action = actions + i * width;
      if (name == "window") now.window = action[0], open(i);
      else if (name == "refresh") now.refresh = action[0];
      else now.commit.assign(action, action + width);
    }
  }

  void step(OutcomeRows out) override {
    std::vector<int64_t> going;
    for (int64_t i = 0; i < size(); ++i) {
      Slot& slot = slots_[i];
      float* terms = out.terms + i * kTerms;
      std::fill_n(terms, kTerms, 0.0f);
      terms[kStability] = decide(i);
      const bool cut = !source_->over(i) && slot.budget > 0 && std::ssize(slot.past) >= slot.budget;
      const bool over = source_->over(i) || cut;
      if (over) judge(i, cut, terms);
      out.reward[i] = terms[kAnswer] + terms[kPasses] + terms[kStability];
      slot.total += out.reward[i];
      out.terminated[i] = over, out.truncated[i] = 0;
      if (over) {
        show(i, row(out.final_critic, spec_.critic, i));
        finish(i, cut);
        begin(i, {slot.key.seed, slot.key.episode + stride_});
      }
      going.push_back(i);
    }
    pass(going);
  }

  void serialise(Archive& archive) override;
  std::vector<Statistic> take_statistics() override { return std::exchange(statistics_, {}); }

 private:
  struct Slot {
    WorldKey key;
    double total = 0;
    int64_t budget = 0;   // passes; 0: any number
    int64_t forced = 0;   // passes in which the commit agent left everything out
    Decisions now;
    std::vector<Decisions> past;
  };

  static ObservationRows row(ObservationRows rows, const ObservationSpec& s, int64_t i) {
    return {rows.context + i * s.context_size(), rows.items + i * s.max_items * s.item_size(), rows.mask + i * s.max_items};
  }
  void observe_all(const ObservationSpec& s, ObservationRows out) {
    for (int64_t i = 0; i < size(); ++i) show(i, row(out, s, i));
  }
  void show(int64_t i, ObservationRows out) const {
    CommitState s = source_->state(i);
    s.budget = slots_[i].budget;
    view_.show(s, out);
  }

  void begin(int64_t i, WorldKey key) {
    slots_[i] = {.key = key, .total = 0, .budget = budget_of(key), .forced = 0, .now = {}, .past = {}};
    source_->begin(i, key);
  }
  int64_t budget_of(WorldKey key) const {
    if (options_.least_budget == 0) return options_.budget;
    Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32), kBudget);
    return options_.least_budget + draws.below(static_cast<uint32_t>(options_.budget - options_.least_budget + 1));
  }
  // Windows open here where no agent decides.
  void pass(std::span<const int64_t> slots) {
    source_->pass(slots);
    if (options_.decide_window) return;
    for (const int64_t i : slots) open(i);
  }
  void open(int64_t i) {
    if (!source_->opens(i)) return;
    actions_.set_window(slots_[i].now.window);
    source_->open(i, actions_);
  }
  float decide(int64_t i);
  void judge(int64_t i, bool cut, float* terms) const;
  void finish(int64_t i, bool cut);
  void count(const char* name, double value);

  TokenCommitOptions options_;
  std::unique_ptr<CommitSource> source_;
  CommitView view_;
  EnvSpec spec_;
  std::vector<Slot> slots_;
  CommitActions actions_;
  uint64_t stride_ = 1;
  std::vector<Statistic> statistics_;
};

// Compares what an agent commits with the careful answer.
class Watched final : public CommitControl {
 public:
  Watched(CommitControl& control, std::span<const int32_t> careful) : control_(control), careful_(careful) {}
  void choose(const CommitState& s, std::vector<int32_t>& picks) override {
    control_.choose(s, picks);
    for (const int32_t i : picks) {
      const auto position = static_cast<size_t>(s.masked[i].position);
      if (careful_.empty() || s.masked[i].waits) continue;
      balance += position < careful_.size() && careful_[position] == s.masked[i].token ? 1 : -1;
    }
  }
  CacheRefresh refresh(const CommitState& s) override { return control_.refresh(s); }
  int64_t balance = 0;

 private:
  CommitControl& control_;
  std::span<const int32_t> careful_;
};

float TokenCommit::decide(int64_t i) {
  Slot& slot = slots_[i];
  actions_.set_commit(slot.now.commit), actions_.set_refresh(slot.now.refresh);
  Watched watched(actions_, options_.stability > 0 ? source_->careful(i) : std::span<const int32_t>());
  const double length = static_cast<double>(source_->state(i).length);
  source_->decide(i, watched);
  slot.forced += actions_.chose_nothing();
  slot.past.push_back(std::exchange(slot.now, {}));
  return static_cast<float>(options_.stability * static_cast<double>(watched.balance) / length);
}

void TokenCommit::judge(int64_t i, bool cut, float* terms) const {
  const CommitOutcome o = source_->outcome(i);
  const auto most = static_cast<double>(source_->state(i).length);
  const double correct = cut ? 0 : o.correct, used = std::min(1.0, static_cast<double>(o.passes) / most);
  if (options_.reward == "product") {
    terms[kAnswer] = static_cast<float>(correct * std::pow(1 - used, options_.alpha));
  } else {
    terms[kAnswer] = static_cast<float>(correct), terms[kPasses] = static_cast<float>(-options_.pass_price * used);
  }
}

void TokenCommit::finish(int64_t i, bool cut) {
  const CommitOutcome o = source_->outcome(i);
  count("return", slots_[i].total);
  count("length", static_cast<double>(slots_[i].past.size()));
  count("correct", cut ? 0 : o.correct);
  count("passes", static_cast<double>(o.passes));
  count("tokens_per_pass", static_cast<double>(o.tokens) / static_cast<double>(std::max<int64_t>(1, o.passes)));
  count("forced", static_cast<double>(slots_[i].forced + o.forced) / static_cast<double>(std::max<int64_t>(1, o.passes)));
  count("refused", static_cast<double>(o.refused));
}

void TokenCommit::count(const char* name, double value) {
  for (Statistic& s : statistics_)
    if (s.name == name) return s.sum += value, ++s.count, void();
  statistics_.push_back({name, value, 1});
}

void TokenCommit::serialise(Archive& archive) {
  int64_t slots = size();
  archive(slots);
  if (slots != size()) throw CheckpointError(fmt::format("saved state holds {} instances, this run has {}", slots, size()));
  archive(stride_);
  for (int64_t i = 0; i < size(); ++i) {
    Slot saved = slots_[i];
    archive(saved.key), archive(saved.total), archive(saved.past);
    if (!archive.reading()) continue;
    begin(i, saved.key);
    pass({&i, 1});
    for (Decisions& d : saved.past) {
      slots_[i].now = d;
      open(i);
      decide(i);
      pass({&i, 1});
    }
    slots_[i].total = saved.total;
  }
}

}  // namespace

std::vector<int64_t> parse_windows(const std::string& text) {
  std::vector<int64_t> out;
  for (const std::string& part : split(text, ',')) {
    int64_t n = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), n);
    if (error != std::errc() || end != part.data() + part.size() || n < 1) throw ConfigError(fmt::format("windows = '{}': '{}' is no length of a window; give rising numbers such as 8,16,32", text, part));
    if (!out.empty() && n <= out.back()) throw ConfigError(fmt::format("windows = '{}': {} does not rise; give rising numbers such as 8,16,32", text, n));
    out.push_back(n);
  }
  if (out.size() < 2) throw ConfigError(fmt::format("windows = '{}' leaves nothing to decide: give two lengths or more, as in 8,16,32", text));
  return out;
}

EnvSpec token_commit_spec(const TokenCommitOptions& o, const CommitView& view) {
  EnvSpec spec;
  spec.name = "token_commit", spec.critic = view.spec(), spec.reward_terms = {"answer", "passes", "stability"};
  spec.time_limit = o.budget > 0 ? o.budget : o.most_tokens();   // a pass commits one token at least: answers end by themselves
  const int items = view.spec().max_items;
  if (o.decide_window)
    spec.agents.push_back({"window", view.spec(), {.kind = HeadKind::kCategorical, .size = static_cast<int>(parse_windows(o.windows).size())}});
  HeadSpec commit{.kind = HeadKind::kSubset, .size = items};
  if (o.action == "order") commit.kind = HeadKind::kOrder, commit.picks = static_cast<int>(std::min(o.picks, o.items));
  spec.agents.push_back({"commit", view.spec(), commit});
  if (o.decide_refresh) spec.agents.push_back({"refresh", view.spec(), {.kind = HeadKind::kCategorical, .size = 3}});
  return spec;
}

std::unique_ptr<BatchEnvironment> make_token_commit(const TokenCommitOptions& options, std::unique_ptr<CommitSource> source) {
  return std::make_unique<TokenCommit>(options, std::move(source));
}

CommitActions::CommitActions(const TokenCommitOptions& options) : options_(options) {
  if (options.decide_window) windows_ = parse_windows(options.windows);
}

CommitWindow CommitActions::open(const CommitState&, CommitWindow proposed) {
  if (windows_.empty()) return proposed;
  const auto index = std::clamp<int64_t>(std::lround(window_), 0, std::ssize(windows_) - 1);
  return {proposed.begin, proposed.begin + windows_[index]};
}

int32_t CommitActions::best(const CommitState& s) const {
  int32_t best = -1;
  const auto rank = [&](int32_t i) { return std::pair(static_cast<size_t>(i) < commit_.size() ? commit_[i] : 0.0f, s.masked[i].confidence); };
  for (int32_t i = 0; i < std::ssize(s.masked); ++i)
    if (!s.masked[i].waits && (best < 0 || rank(i) > rank(best))) best = i;
  return best;
}

void CommitActions::choose_subset(const CommitState& s, std::vector<int32_t>& picks) const {
  const auto shown = std::min(std::ssize(s.masked), std::ssize(commit_));
  for (int32_t i = 0; i < shown; ++i)
    if (commit_[i] >= static_cast<float>(options_.threshold)) picks.push_back(i);
  keep_most(s, commit_, options_.most, picks);
}

void CommitActions::choose(const CommitState& s, std::vector<int32_t>& picks) {
  picks.clear();
  if (options_.action == "order") {
    for (const float pick : commit_)
      if (pick >= 0 && pick < static_cast<float>(s.masked.size())) picks.push_back(static_cast<int32_t>(pick));
    nothing_ = picks.empty();
    return;
  }
  choose_subset(s, picks);
  const auto commits = [&] { return std::any_of(picks.begin(), picks.end(), [&](int32_t i) { return !s.masked[i].waits; }); };
  nothing_ = !commits();
  if (options_.planned) add_planned(s, picks);
  if (nothing_ && !commits())
    if (const int32_t i = best(s); i >= 0) picks.push_back(i);
}

CacheRefresh CommitActions::refresh(const CommitState&) {
  if (!options_.decide_refresh) return CacheRefresh::kAsPlanned;
  return kRefreshes[std::clamp<int64_t>(std::lround(refresh_), 0, 2)];
}

TT_REGISTER(EnvironmentEntry, token_commit,
            {.name = "token_commit",
             .doc = "which proposals of a masked diffusion model become tokens",
             .make = [](const Config& config, const EnvironmentData& data, int64_t size) -> std::unique_ptr<BatchEnvironment> {
               const TokenCommitOptions options = token_commit_options(config);
               return make_token_commit(options, open_commit_source(options, data.files, size));
             },
             .help = [] { return help_of<TokenCommitOptions>(); },
             .resolved = [](const Config& config) { return yaml_of(token_commit_options(config)); },
             .preferred_batch = 64});

}  // namespace trimtab
