// The ways draft lengths are chosen today, as DraftControls (engine/speculative/draft_control.h): what a learned controller is compared
// with, live or on a recording.
//
//   none, fixed_K          no drafts; K in every round
//   hf                     transformers' heuristic: from 5, two more when all are accepted, else one fewer (SpecDec++, 2405.19715, its baseline)
//   confidence_P           stop behind a token whose draft's likeliest has probability below P percent (llama.cpp's p_min)
//   entropy_E              stop behind a token whose draft's entropy exceeds E hundredths of a nat
//   path_P                 stop when the product of the likeliest's probabilities falls below P percent
//   specdec_H              stop when the acceptance head gives a rejection so far more than H percent (SpecDec++, 2405.19715); with a head only
//   smartspec              the length of most expected tokens per time at the average acceptance (SmartSpec, 2406.14066)
//   diffuspec              a moving average of the accepted length, and more where all were accepted (DiffuSpec, 2510.02358, rho 0.5)
//   sglang                 tiers by a moving average of accepted lengths, with hysteresis (SGLang's adaptive steps)
//   ucb1, exp3, thompson   bandits over lengths, rewarded with tokens - lambda time (BanditSpec, 2505.15141)
//   linucb                 the same with what is known at the start of a round as context
//   tapout                 UCB over stopping rules (TapOut, 2511.02017)
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/speculative/draft_control.h"
#include "envs/draft_length/acceptance_head.h"
#include "envs/draft_length/cost.h"

namespace trimtab {

struct DraftRuleOptions {
  int64_t most_drafted = 0;
  DraftCost cost;
  int64_t batch = 1;
  double rate = 1;       // tokens per ms: what bandits' rewards are measured from
  uint64_t seed = 1;
  std::shared_ptr<const AcceptanceHead> head = nullptr;   // of specdec_H
};

std::vector<std::string> draft_rule_names(int64_t most_drafted, bool with_head = false);
bool learns_while_running(const std::string& rule);   // its choices depend on the texts before
std::unique_ptr<DraftControl> make_draft_rule(const std::string& name, const DraftRuleOptions& options);   // ConfigError for an unknown one

}  // namespace trimtab
