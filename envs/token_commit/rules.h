// The ways masked diffusion models commit tokens today, as CommitControls (engine/diffusion/commit_control.h): what a learned controller is
// compared with, live or on recorded passes.
//
//   random                   one position drawn uniformly
//   top1, entropy1, margin1  the one position of most confidence, least entropy, most margin (LLaDA, 2502.09992; Dream, 2508.15487)
//   quota                    LLaDA's schedule: of n masks and T planned passes, floor(n / T) in each and one more in the first n mod T, by
//                            confidence; without a plan one per pass
//   topk_K                   the same at K tokens per pass: T = ceil(n / K)
//   threshold_P              all of confidence at least P percent (Fast-dLLM, 2505.22618)
//   factor_F                 the most confident n, n the largest with (n + 1)(1 - c_n) <= F hundredths; 100 is theorem 1's bound (Fast-dLLM;
//                            its released code differs at the edge)
//   eb_G                     by rising entropy, the most whose entropies but the largest sum to at most G thousandths of a nat (EB-Sampler, 2505.24857)
//   klass_C_K                confidence above C percent, and drift below K thousandths of a nat in this pass and the one before, from a
//                            window's second pass on; where there is none, the quota by confidence (KLASS, 2511.05664, with H = 2)
//   klass_entropy_C_K        the same with the quota by least entropy (the released code takes the most)
//   localleap_P_R_D          confidence at least P percent, or R percent within D positions of one that has P (LocalLeap, 2510.07081)
//   adablock_P_D             threshold_P in windows that end behind the most confident delimiter of the next quarter of the answer, if the
//                            model is at least D percent sure of it (AdaBlock, 2509.26432); else the window that is proposed
//   dcd_P                    threshold_P in a window from the first mask as far as it holds `window` masks in four times as many positions
//                            (DCD, 2601.02076; the extension of its cache's blocks is left out); all is computed anew every 32 commits
//   learn2pd_P               all of which a fitted filter is at least P percent sure (learn2pd.h, arXiv 2509.25188)
//   wedlm_H                  all of entropy + 0.02 (distance from the first mask) below H hundredths of a nat, in a window of that many
//                            positions from the first mask (WeDLM, 2512.22737)
//
// Windows of adablock, dcd and wedlm may be wider than the generator's: proposals must reach as far.
// Numbers may be others than those of commit_rule_names, or be left out for the published ones: threshold is threshold_90. Every rule picks at
// least one position itself: where nothing meets its test, the best by its own score. So what a generator forces comes from its guards alone.
// Of equal scores the leftmost goes first. A rule may serve several answers in turns.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/diffusion/commit_control.h"

namespace trimtab {

struct Learn2PdFilter;

struct CommitRuleOptions {
  std::vector<int32_t> delimiters = {};   // token ids; adablock needs them
  int64_t window = 16;                    // of wedlm, positions; of dcd, masks
  uint64_t seed = 1;                      // of random
  std::shared_ptr<const Learn2PdFilter> filter = {};   // learn2pd needs one
};

std::vector<std::string> commit_rule_names(const CommitRuleOptions& options = {});   // without delimiters, no adablock
bool slides(const std::string& rule);        // its windows do: it wants to be asked for one in every pass
bool looks_ahead(const std::string& rule);   // at proposals behind the window: the generator has to make them
std::unique_ptr<CommitControl> make_commit_rule(const std::string& name, const CommitRuleOptions& options = {});   // ConfigError

}  // namespace trimtab
