// Rules and controllers compared on recorded traces: what would they have committed in every stored pass, and would it have lasted? Nobody's commits
// change what comes next, so it says how well a control tells stable proposals from others in the states that were visited, not what its answers
// would be worth: for that, decode with it (live/).
//
// Windows are the recorded ones: open() is not asked. Recall is of all words of the window, also of those that a control of few items is not shown.
// Controls that remember (klass) see stored passes only.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "envs/token_commit/trace_lock.h"
#include "envs/token_commit/traces.h"

namespace trimtab {

struct ReplayFigures {
  CommitScores scores;          // of what the control picked against stability: words, endings left out, as in trace_lock.h
  double premature = 0;         // share of commits whose token is not the final one; what the guard leaves counts, endings and forced ones included
  double commits_per_pass = 0;  // the same commits, and those of unknown stability
  int64_t passes = 0, forced = 0;
};

// The generator's guard is applied where proposals wait, and so is its forced commit.
ReplayFigures replay(CommitControl& control, const CommitTraceReader& traces);

std::string replay_table(const std::vector<std::pair<std::string, ReplayFigures>>& rows);   // a line each, below a heading

}  // namespace trimtab
