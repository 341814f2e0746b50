// Options of PromptLookup (prompt_lookup.h).
#pragma once

#include "core/options.h"

namespace trimtab {

struct PromptLookupOptions {
  int64_t max_ngram = 4, min_ngram = 2;   // lengths of the suffix that is looked for, the longest first
  int64_t num_tokens = 10;                // of a draft, at most
  int64_t history = 131072;               // tokens of a sequence that are kept at most; beyond that its older half is forgotten
  void describe(Fields& f);
  void validate() const;
};

}  // namespace trimtab
