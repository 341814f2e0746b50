#include "envs/token_commit/synthetic.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "engine/diffusion/eos_guard.h"

namespace trimtab {
namespace {

constexpr int32_t kEnding = 0;

class Answer {
 public:
  Answer(const TokenCommitOptions& options, WorldKey key) : options_(&options), key_(key) { draw_world(); }

  void propose();
  bool opens() const { return opens_; }
  CommitState state() const;
  void open(CommitControl& control);
  void decide(CommitControl& control);
  bool over() const { return first_mask() >= length() || (ended_ && options_->finish_early && first_ending() < first_mask()); }
  CommitOutcome outcome() const;
  std::span<const int32_t> truth() const { return truth_; }

 private:
  int64_t length() const { return std::ssize(truth_); }
  int64_t first_mask() const { return std::find(tokens_.begin(), tokens_.end(), -1) - tokens_.begin(); }
  int64_t first_ending() const { return std::find(tokens_.begin(), tokens_.end(), kEnding) - tokens_.begin(); }
  Draws draws(int64_t what) const {
    return Draws(mix64(key_.seed + key_.episode * 0x9E3779B97F4A7C15ull), Stream::kWorld, static_cast<uint32_t>(what), static_cast<uint32_t>(passes_));
  }
  void draw_world();
  int32_t wrong(int64_t position, Draws& d) const;
  void narrow();

  const TokenCommitOptions* options_;
  WorldKey key_;
  std::vector<int32_t> truth_, tokens_, proposed_, held_;
  std::vector<std::vector<int32_t>> parents_;
  std::vector<MaskedPosition> masked_;
  size_t in_window_ = 0;
  CommitWindow window_;
  int64_t window_masks_ = 0, window_pass_ = 0, passes_ = 0, refused_ = 0, forced_ = 0;
  bool opens_ = true, ended_ = false;
};

void Answer::draw_world() {
  Draws d = draws(1'000'000);
  const int64_t n = options_->length, text = n - static_cast<int64_t>(d.below(static_cast<uint32_t>(n / 4 + 1)));
  truth_.assign(n, kEnding), tokens_.assign(n, -1), proposed_.assign(n, -1), held_.assign(n, 0), parents_.resize(n);
  std::vector<int32_t> order(text);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = text; i > 1; --i) std::swap(order[i - 1], order[d.below(static_cast<uint32_t>(i))]);
  for (int64_t k = 0; k < text; ++k) {
    truth_[order[k]] = 1 + static_cast<int32_t>(d.below(static_cast<uint32_t>(options_->synthetic.vocab - 1)));
    double left = std::exp(-options_->synthetic.depends);   // Poisson by inversion
    for (double u = d.uniform(), p = left, j = 1; u > left && std::ssize(parents_[order[k]]) < k; p *= options_->synthetic.depends / j, left += p, ++j)
      parents_[order[k]].push_back(order[d.below(static_cast<uint32_t>(k))]);
  }
}

int32_t Answer::wrong(int64_t position, Draws& d) const {
  const int64_t others = options_->synthetic.vocab - 2;
  const auto token = 1 + static_cast<int32_t>(d.below(static_cast<uint32_t>(others)));
  return token >= truth_[position] ? token + 1 : token;
}

void Answer::propose() {
  masked_.clear();
  opens_ = options_->window == "sliding" || passes_ == 0 || first_mask() >= window_.end;
  if (opens_) {
    window_ = {options_->window == "full" ? 0 : first_mask(), length()};
    if (options_->window != "full") window_.end = std::min(length(), first_mask() + (options_->window == "block" ? options_->block : options_->width));
  }
  for (int64_t p = 0; p < length(); ++p) {
    if (tokens_[p] >= 0) continue;
    Draws now = draws(p), fixed = Draws(mix64(key_.seed ^ key_.episode), Stream::kWorld, static_cast<uint32_t>(p), 7);
    int64_t known = 0, spoilt = 0;
    for (const int32_t q : parents_[p]) known += tokens_[q] >= 0, spoilt += tokens_[q] >= 0 && tokens_[q] != truth_[q];
    const bool settled = spoilt > 0 || known == std::ssize(parents_[p]);
    const double chance = settled ? 1 : 0.2 + 0.6 * static_cast<double>(known) / static_cast<double>(parents_[p].size());
    const bool right = truth_[p] == kEnding || (spoilt == 0 && now.uniform() < chance);
    MaskedPosition& m = masked_.emplace_back();
    m.position = static_cast<int32_t>(p);
    m.token = right ? truth_[p] : spoilt > 0 ? wrong(p, fixed) : wrong(p, now);
    m.confidence = now.uniform() < options_->synthetic.certain ? (settled ? now.uniform(0.9f, 1.0f) : now.uniform(0.2f, 0.8f)) : now.uniform(0.2f, 1.0f);
    m.margin = std::max(0.0f, 2 * m.confidence - 1), m.entropy = 2 * (1 - m.confidence);
    const bool same = proposed_[p] == m.token;
    m.drift = proposed_[p] < 0 ? 0 : same ? now.uniform(0.0f, 0.05f) : now.uniform(0.5f, 2.0f);
    m.held = held_[p] = same ? held_[p] + 1 : 0;
    proposed_[p] = m.token;
    m.ends = m.token == kEnding;
    m.waits = options_->eos_guard && m.ends && p != first_mask() && !(ended_ && first_ending() < p);
  }
  in_window_ = masked_.size();
  if (!opens_) narrow();
}

void Answer::narrow() {
  in_window_ = 0;
  while (in_window_ < masked_.size() && masked_[in_window_].position < window_.end) ++in_window_;
}

CommitState Answer::state() const {
  CommitState s;
  s.length = length(), s.pass = passes_, s.window = window_, s.window_masks = window_masks_, s.window_pass = window_pass_, s.window_passes = options_->passes;
  s.tokens = tokens_, s.ended = ended_, s.masked = std::span(masked_).first(in_window_);
  return s;
}

void Answer::open(CommitControl& control) {
  const CommitWindow w = control.open(state(), window_);
  window_ = {std::clamp<int64_t>(w.begin, 0, first_mask()), std::clamp<int64_t>(w.end, first_mask() + 1, length())};
  window_pass_ = 0;
  narrow();
  window_masks_ = static_cast<int64_t>(in_window_);
}

void Answer::decide(CommitControl& control) {
  const CommitState s = state();
  std::vector<int32_t> picks;
  control.choose(s, picks);
  refused_ += refuse_early_endings(s, picks);
  if (picks.empty()) {
    const int32_t best = most_confident(s);
    TT_CHECK(best >= 0 && !masked_[best].waits, "nothing can be committed");
    picks.push_back(best), ++forced_;
  }
  for (const int32_t i : picks) tokens_[masked_[i].position] = masked_[i].token, ended_ = ended_ || masked_[i].ends;
  ++passes_, ++window_pass_;
}

CommitOutcome Answer::outcome() const {
  CommitOutcome o;
  o.passes = passes_, o.refused = refused_, o.forced = forced_;
  bool right = true;
  for (int64_t p = 0; p < length(); ++p) {
    o.tokens += tokens_[p] >= 0;
    right = right && (truth_[p] == kEnding || tokens_[p] == truth_[p]);
  }
  o.correct = right && over() ? 1 : 0;
  return o;
}

class SyntheticCommits final : public CommitSource {
 public:
  SyntheticCommits(const TokenCommitOptions& options, int64_t slots) : options_(options), answers_(slots, Answer(options_, {})) {}
  int64_t slots() const override { return std::ssize(answers_); }
  void begin(int64_t slot, WorldKey key) override { answers_[slot] = Answer(options_, key); }
  void pass(std::span<const int64_t> slots) override {
    for (const int64_t slot : slots) answers_[slot].propose();
  }
  bool opens(int64_t slot) const override { return answers_[slot].opens(); }
  CommitState state(int64_t slot) const override { return answers_[slot].state(); }
  void open(int64_t slot, CommitControl& control) override { answers_[slot].open(control); }
  void decide(int64_t slot, CommitControl& control) override { answers_[slot].decide(control); }
  bool over(int64_t slot) const override { return answers_[slot].over(); }
  CommitOutcome outcome(int64_t slot) const override { return answers_[slot].outcome(); }
  std::span<const int32_t> careful(int64_t slot) override { return answers_[slot].truth(); }

 private:
  const TokenCommitOptions options_;
  std::vector<Answer> answers_;
};

}  // namespace

std::unique_ptr<CommitSource> make_synthetic_commits(const TokenCommitOptions& options, int64_t slots) { return std::make_unique<SyntheticCommits>(options, slots); }

TT_REGISTER(CommitSourceEntry, synthetic,
            {.name = "synthetic", .doc = "made-up answers whose tokens depend on each other",
             .make = [](const TokenCommitOptions& o, const std::vector<std::string>&, int64_t slots) { return make_synthetic_commits(o, slots); }});

}  // namespace trimtab
