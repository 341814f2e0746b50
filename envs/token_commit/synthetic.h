// Made-up answers for token_commit, whose tokens depend on each other: to test trainers against, and to try options without a model.
//
// The last e positions, e drawn up to a quarter of the answer, are endings, known at once. Every other token depends on a Poisson number (mean
// `depends`) of tokens that come before it in a random order of the answer. While one of those is masked, its proposal is right with a
// probability that grows with the share committed, drawn anew in every pass; once all are committed right it is right for good, and once one of them is committed wrong it is
// wrong for good. Confidence is high where a proposal is for good, with probability `certain`, else drawn anyhow: so a threshold errs,
// while what a proposal was in the passes before (held, drift) says more. An answer is correct when all of its tokens are.
#pragma once

#include <memory>

#include "envs/token_commit/source.h"

namespace trimtab {

std::unique_ptr<CommitSource> make_synthetic_commits(const TokenCommitOptions& options, int64_t slots);

}  // namespace trimtab
