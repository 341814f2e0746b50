// Who decides how many tokens are drafted. What a decision may look at keeps decoding lossless: the drafts' own distributions and what
// was verified before, never the target's distribution of tokens that are not verified yet.
#pragma once

#include <cstdint>
#include <span>

namespace trimtab {

struct DraftedToken {
  int32_t token = 0;
  float logprob = 0;                          // ln q(token)
  float entropy = 0, top = 0, margin = 0;     // of q (token_distribution.h)
  std::span<const float> hidden = {};         // the draft's final hidden state that q came from; empty: not asked for
};

// A sequence at the start of a round, and after every drafted token.
struct DraftState {
  int64_t sequence = 0;          // number of the completion
  int64_t batch = 1;             // sequences decoded at the same time
  int64_t committed = 0;         // tokens of the answer so far
  int64_t most = 0;              // drafted tokens this round, at most
  int64_t last_drafted = 0, last_accepted = 0;   // of the round before; -1 accepted: there was none
  float acceptance = 1;          // share of drafted tokens accepted, moving average
  double token_ms = 0;           // that the next drafted token would take; 0: not known
  float last_entropy = 0;        // of the target's distribution that the last committed token came from
  std::span<const DraftedToken> drafted = {};
};

// The moving average of acceptance after a round: what came behind the first rejection was never judged.
inline float acceptance_after(float before, int64_t drafted, int64_t accepted) {
  constexpr float kAverageOver = 0.9f;   // per judged token
  for (int64_t i = 0; i < drafted && i <= accepted; ++i) before = kAverageOver * before + (i < accepted ? 1 - kAverageOver : 0);
  return before;
}

class DraftControl {
 public:
  virtual ~DraftControl() = default;
  // Whether to draft one more token. With a drafter that drafts all at once only `limit` is asked.
  virtual bool go_on(const DraftState& state) = 0;
  // Tokens to draft at most in the round that begins, 0 for none.
  virtual int64_t limit(const DraftState& state) { return state.most; }
  // What became of a round.
  virtual void learn(const DraftState& state, int64_t accepted) { (void)state, (void)accepted; }
};

// The same number of tokens in every round.
class FixedDraft final : public DraftControl {
 public:
  explicit FixedDraft(int64_t tokens) : tokens_(tokens) {}
  bool go_on(const DraftState& s) override { return static_cast<int64_t>(s.drafted.size()) < tokens_; }
  int64_t limit(const DraftState&) override { return tokens_; }

 private:
  int64_t tokens_;
};

}  // namespace trimtab
