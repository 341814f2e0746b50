// Options of TokenRecycling (token_recycling.h).
#pragma once

#include <vector>

#include "core/options.h"

namespace trimtab {

struct TokenRecyclingOptions {
  int64_t vocab = 0;                              // token ids are below this; whoever makes the drafter sets it
  int64_t candidates = 8;                         // successors remembered of each token
  std::vector<int64_t> children = {4, 2, 1, 1};   // of every node, level by level; none more than `candidates`
  void describe(Fields& f);
  void validate() const;
};

}  // namespace trimtab
