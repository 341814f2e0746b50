// Options of SuffixDrafter (suffix_drafter.h).
#pragma once

#include <string>

#include "core/options.h"

namespace trimtab {

struct SuffixOptions {
  int64_t depth = 24;              // of the trees: matched and drafted tokens together
  double factor = 1, offset = 0;   // a match of m tokens drafts floor(factor m + offset) nodes at most
  double min_prob = 0.1;           // a drafted node's estimate is at least this
  std::string shape = "chain";     // or "tree"
  int64_t cached_sequences = 10000;   // finished outputs that are remembered; 0: none
  double cached_mib = 256;            // and their memory in use
  int64_t history = 131072;        // tokens of a running sequence that are kept at most; beyond that its older half is forgotten
  void describe(Fields& f);
  void validate() const;
};

}  // namespace trimtab
