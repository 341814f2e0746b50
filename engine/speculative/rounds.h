// One generate() call of speculative decoding: who is decoded, what is drafted, what the target makes of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/generation/ending.h"
#include "engine/speculative/model_runner.h"
#include "engine/speculative/speculative.h"
#include "engine/speculative/token_distribution.h"
#include "kernels/speculative_verify/speculative_verify.h"

namespace trimtab {

struct RoundInputs {
  std::span<const GenerationRequest> requests;
  const SamplingOptions& sampling;
  const StopRules& stop;
  const SpeculativeOptions& options;
  uint64_t seed = 0;
  DraftControl& control;
  Drafter* drafter = nullptr;   // without weights; null: a model drafts
};

class SpeculativeRounds {
 public:
  SpeculativeRounds(const RoundInputs& in, ModelRunner& target, ModelRunner* draft);
  std::vector<SpeculativeCompletion> run(Team& team, SpeculativeTimes& times);

 private:
  struct Sequence {
    int64_t number = 0, slot = 0, max_tokens = 0;
    int64_t target_read = 0, draft_read = 0;   // tokens of the text whose keys are right
    std::string tail;                          // of Ending
    DraftState state;
    bool drafting = false;
    int32_t last_token = 0;                    // of the text, when the round began
    DraftTree tree;                            // this round's drafts; a chain too
    std::vector<DraftedToken> drafted;         // of a model
    std::vector<float> q;                      // [most, vocab] their distributions, of a model that samples
    std::vector<float> target_logits;          // [1 + nodes, logits_size]: after the text, after every node
  };

  bool greedy() const { return in_.sampling.temperature == 0; }
  bool trees() const { return in_.options.tree_nodes > 0; }
  const GenerationRequest& request(const Sequence& s) const { return in_.requests[completions_[s.number].completion.request]; }
  int64_t prompt_size(const Sequence& s) const { return static_cast<int64_t>(request(s).prompt.size()); }
  int64_t text_size(const Sequence& s) const { return prompt_size(s) + static_cast<int64_t>(completions_[s.number].completion.tokens.size()); }
  int32_t text_token(const Sequence& s, int64_t index) const;
  double uniform(const Sequence& s, int64_t position, uint32_t purpose) const;

  void admit();
  void read_texts(ModelRunner& runner, int64_t Sequence::* read, Team& team);
  void begin_round();
  void draft_with_model(Team& team);
  void take_draft(Sequence& s, float* logits, std::span<const float> hidden);
  void draft_without_model();
  void fit_into_round(DraftTree& tree, int64_t most_depth) const;
  void verify(Team& team);
  void add_target_rows(Sequence& s);
  void judge(Sequence& s);
  std::vector<int64_t> accepted_path(Sequence& s, int32_t& next);
  SpeculativeVerdict verify_chain(const Sequence& s, std::vector<int64_t>& path) const;
  SpeculativeVerdict verify_tree(const Sequence& s, std::vector<int64_t>& path);
  void teach_drafter(const Sequence& s);
  void commit(Sequence& s, const std::vector<int64_t>& path, int32_t next);
  void close(Sequence& s);

  RoundInputs in_;
  ModelRunner& target_;
  ModelRunner* draft_;
  int64_t vocab_;
  Ending ending_;
  TokenDistribution target_law_, draft_law_;
  std::vector<SpeculativeCompletion> completions_;
  std::vector<Sequence> open_;
  std::vector<int64_t> free_slots_;
  int64_t next_ = 0;
  SpeculativeTimes* times_ = nullptr;
  std::vector<float> draft_logits_, draft_hidden_, p_, scratch_;
  std::vector<int32_t> order_;
};

}  // namespace trimtab
