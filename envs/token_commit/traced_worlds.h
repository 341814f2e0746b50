// Made-up answers for tests of traces, and of what is fitted to them: a stream of CommitStates as a generator makes them.
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/random.h"
#include "envs/token_commit/traces.h"

namespace trimtab {

// Which proposals are stable, and which confidence they show.
struct TracedWorld {
  int64_t length = 20, block = 0, beyond = 0, hidden = 0, endings = 3;   // block 0: one window; endings: up to so many at the end
  std::function<bool(const MaskedPosition&, bool neighbour)> stable =    // neighbour: the position left of it is committed
      [](const MaskedPosition& m, bool neighbour) { return m.entropy < 1.2f && (m.held >= 3 || neighbour); };
  std::function<float(bool stable, Draws&)> confidence = [](bool stable, Draws& d) { return stable ? d.uniform(0.4f, 1.0f) : d.uniform(0.3f, 0.95f); };
};

// One answer. Every pass commits one or two stable proposals; where there is none the first is made so.
class FakeAnswer {
 public:
  static constexpr int32_t kEnding = 0;

  FakeAnswer(const TracedWorld& world, int64_t sequence, uint64_t seed) : world_(world), draws_(seed, Stream::kTest, static_cast<uint32_t>(sequence), 97) {
    state_.sequence = sequence, state_.length = world.length;
    tokens_.assign(world.length, -1), truth_.assign(world.length, kEnding);
    const int64_t words = world.length - static_cast<int64_t>(draws_.below(static_cast<uint32_t>(world.endings + 1)));
    for (int64_t p = 0; p < words; ++p) truth_[p] = 1 + static_cast<int32_t>(draws_.below(9));
  }

  bool over() const { return first_mask() == world_.length || truth_[std::max<int64_t>(0, first_mask() - 1)] == kEnding; }   // an ending ends it early
  const std::vector<int32_t>& canvas() const { return tokens_; }
  const std::vector<int32_t>& truth() const { return truth_; }
  const std::vector<int32_t>& picks() const { return picks_; }
  bool forced() const { return forced_; }

  const CommitState& propose() {
    const int64_t first = first_mask();
    if (first >= state_.window.end) {
      state_.window = world_.block > 0 ? CommitWindow{first, std::min(world_.length, first + world_.block)} : CommitWindow{0, world_.length};
      state_.window_pass = 0, state_.window_masks = std::count(tokens_.begin() + state_.window.begin, tokens_.begin() + state_.window.end, -1);
    }
    masked_.clear(), beyond_.clear(), hidden_.assign(world_.length * world_.hidden, 0);
    for (float& x : hidden_) x = draws_.normal();
    for (int64_t p = first; p < std::min(world_.length, state_.window.end + world_.beyond); ++p)
      if (tokens_[p] < 0) (p < state_.window.end ? masked_ : beyond_).push_back(proposal(p, first));
    choose();
    state_.tokens = tokens_, state_.masked = masked_, state_.beyond = beyond_;
    return state_;
  }
  void commit() {
    for (const int32_t i : picks_) tokens_[masked_[i].position] = masked_[i].token, state_.ended |= masked_[i].ends;
    ++state_.pass, ++state_.window_pass;
  }

 private:
  int64_t first_mask() const { return std::find(tokens_.begin(), tokens_.end(), -1) - tokens_.begin(); }
  void settle(MaskedPosition& m, bool stable) {
    m.token = stable ? truth_[m.position] : 10 + static_cast<int32_t>(draws_.below(9));
    m.confidence = world_.confidence(stable, draws_);
  }
  MaskedPosition proposal(int64_t p, int64_t first) {
    MaskedPosition m;
    m.position = static_cast<int32_t>(p), m.margin = draws_.uniform(-0.1f, 0.4f), m.entropy = draws_.uniform(0, 2), m.drift = draws_.uniform(0, 0.1f);
    m.held = static_cast<int32_t>(draws_.below(6)), m.ends = truth_[p] == kEnding;
    m.waits = m.ends && p != first && !state_.ended;
    settle(m, m.ends || world_.stable(m, p == 0 || tokens_[p - 1] >= 0));
    if (world_.hidden > 0) m.hidden = std::span(hidden_).subspan(p * world_.hidden, world_.hidden);
    return m;
  }
  void choose() {
    picks_.clear();
    const auto stable = [&](const MaskedPosition& m) { return m.token == truth_[m.position] && !m.waits; };
    const size_t most = 1 + draws_.below(2);
    for (size_t i = 0; i < masked_.size() && picks_.size() < most; ++i)
      if (stable(masked_[i])) picks_.push_back(static_cast<int32_t>(i));
    forced_ = picks_.empty();
    if (!forced_) return;
    masked_[0].entropy = 0.1f, masked_[0].held = 5, settle(masked_[0], true);
    picks_ = {0};
  }

  const TracedWorld& world_;
  Draws draws_;
  CommitState state_;
  std::vector<int32_t> tokens_, truth_, picks_;
  std::vector<MaskedPosition> masked_, beyond_;
  std::vector<float> hidden_;
  bool forced_ = false;
};

inline Recording record_world(const TracedWorld& world, int64_t answers, uint64_t seed, CommitTraceOptions options = {}, int64_t from = 0) {
  CommitTraces traces(options);
  for (int64_t a = 0; a < answers; ++a) {
    FakeAnswer answer(world, a, seed);
    traces.begin(a, {{"prompt", std::to_string(a)}}, from);
    while (!answer.over()) {
      const CommitState& state = answer.propose();
      traces.see(state, answer.picks(), answer.forced()), answer.commit();
    }
    traces.end(a, answer.canvas());
  }
  return traces.recording({{"producer", "test"}});
}

inline std::string write_world(const std::filesystem::path& file, const TracedWorld& world, int64_t answers, uint64_t seed, CommitTraceOptions options = {}) {
  write_recording(file, record_world(world, answers, seed, options));
  return file.string();
}

}  // namespace trimtab
