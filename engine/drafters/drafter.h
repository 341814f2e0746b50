// Drafters without a model: they guess the tokens that come next from text alone, for a target model to verify (speculative decoding,
// Leviathan et al., arXiv 2211.17192). A guess can be wrong in any way and the output is still the target's; only speed depends on it.
//
// The engine tells a drafter committed tokens only, so nothing is ever taken back. A drafter serves many sequences, one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/options.h"
#include "engine/drafters/prompt_lookup_options.h"
#include "engine/drafters/suffix_options.h"
#include "engine/drafters/token_recycling_options.h"

namespace trimtab {

// Guessed tokens, breadth-first (a parent before its children, shallow before deep); a chain is a tree of one branch.
struct DraftTree {
  std::vector<int32_t> tokens = {};    // [nodes]
  std::vector<int32_t> parents = {};   // [nodes], -1: child of the text's last token
  std::vector<float> scores = {};      // [nodes], the drafter's estimate that the node and all above it are accepted, in (0, 1]
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
};

int64_t draft_depth(const DraftTree& tree, int64_t node);   // 1 for a child of the text's last token
// The one path, from the top to a leaf, of the largest sum of scores: the most tokens accepted, as far as the drafter knows. A tie
// goes to the lower token id. Empty for an empty tree.
DraftTree best_chain(const DraftTree& tree);
DraftTree breadth_first(const DraftTree& tree);   // of nodes in any order that has a parent before its children

class Drafter {
 public:
  virtual ~Drafter() = default;

  // Ids are the caller's; one in use, an unknown one, a negative token and max_nodes below 1 are errors of ours (TT_CHECK).
  virtual void begin(int64_t sequence, std::span<const int32_t> prompt) = 0;
  virtual void append(int64_t sequence, std::span<const int32_t> tokens) = 0;
  // What may follow the text so far; empty when the drafter has no idea.
  virtual DraftTree draft(int64_t sequence, int64_t max_nodes) = 0;
  virtual void finish(int64_t sequence) = 0;

  // How many of the target's likeliest next tokens update() takes per token; 0: it needs none.
  virtual int64_t candidates() const { return 0; }
  // The target's likeliest successors of `token`, likeliest first, wherever it was computed (rejected drafts, too).
  virtual void update(int32_t token, std::span<const int32_t> likeliest);
};

struct DrafterOptions {
  std::string method = "suffix";   // "prompt_lookup", "suffix" or "token_recycling"
  PromptLookupOptions prompt_lookup = {};
  SuffixOptions suffix = {};
  TokenRecyclingOptions token_recycling = {};
  void describe(Fields& f);
};

// ConfigError for an unknown method and for options of that method that are out of range.
std::unique_ptr<Drafter> make_drafter(const DrafterOptions& options);

}  // namespace trimtab
