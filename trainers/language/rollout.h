// Rollouts of group-relative RL: which prompts come next, their replies, verdicts and rewards; groups that are kept, and replies that
// wait to be finished.
#pragma once

#include <deque>
#include <span>

#include "core/checkpoint.h"
#include "trainers/language/group_options.h"
#include "trainers/language/learner.h"

namespace trimtab {

struct SampledReply {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;   // of the sampler
  int64_t shared = 0;            // first tokens that are those of the reply before it (tree.h)
  Finish finish = Finish::kUnfinished;
  std::string text;
  Verdict verdict;
  double reward = 0;
};
struct SampledGroup {
  Problem problem;
  std::vector<int32_t> prompt;
  uint64_t key = 0;              // of its draws: one per visit of a prompt
  int64_t limit = 0;             // tokens
  int64_t update = 0;            // whose policy began it
  int64_t version = 0;           // updates that the weights had seen which sampled it last
  std::vector<SampledReply> replies;
  bool finished() const;
  bool has_spread() const;       // not all verdicts are equal
  double solved_share() const;
};
nlohmann::json to_json(const SampledGroup& group);   // all of it
SampledGroup sampled_group_from(const nlohmann::json& json);

class LanguageRollout {
 public:
  // `sampler` has the weights that sample, at first those of the context's model; `pool` computes. All outlive this.
  LanguageRollout(const GroupOptions& options, const LanguageContext& context, const Transformer& sampler, Pool& pool);
  struct Result {
    std::vector<SampledGroup> groups;     // to learn from
    LanguageLearner::Metrics metrics;     // of everything sampled, kept or not
  };
  // For update number `update`, with weights that have seen `version` updates. RunError naming the environment when dynamic sampling finds
  // no group to learn from.
  Result collect(int64_t update, int64_t version);
  void save(Checkpoint& checkpoint) const;
  void load(const Checkpoint& checkpoint);

 private:
  Problem next_problem();
  SampledGroup begin_group(int64_t update);
  void sample(std::vector<SampledGroup>& groups);
  void sample_tree(std::vector<SampledGroup>& groups);
  std::vector<Completion> generate(std::span<const GenerationRequest> requests);
  void score(std::vector<SampledGroup>& groups);
  bool is_refused(const SampledGroup& group);
  void record(const SampledGroup& group);
  double reward_of(const SampledGroup& group, const SampledReply& reply);
  std::vector<SampledGroup> batch(int64_t update, int64_t version);

  const GroupOptions& options_;
  const LanguageContext& context_;
  Pool& pool_;
  Generator generator_;
  uint64_t cursor_ = 0;                   // prompts drawn so far
  std::vector<uint32_t> order_;           // of the prompt pool in the present pass
  uint64_t order_pass_ = UINT64_MAX;
  std::vector<SampledGroup> waiting_;     // carried over
  DifficultyLimit limits_;
  CostHistory costs_;
  EffortControl efforts_;                 // lengths by problem, whatever effort was named
  int64_t refused_ = 0;                   // groups with a reward that is no number, left out
};

}  // namespace trimtab
