// The episodes of an evaluation: every policy, training seed, file and episode, run on threads, gathered in a
// fixed order.
#pragma once

#include "app/evaluation.h"
#include "app/summary.h"

namespace trimtab {

Gathered gather(const EvaluationRequest& request);

}  // namespace trimtab
