#include "engine/drafters/drafter.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/registry.h"
#include "engine/drafters/prompt_lookup.h"
#include "engine/drafters/suffix_drafter.h"
#include "engine/drafters/token_recycling.h"

namespace trimtab {

int64_t draft_depth(const DraftTree& tree, int64_t node) {
  TT_CHECK(node >= 0 && node < tree.size(), "node {} of {}", node, tree.size());
  int64_t depth = 1;
  while ((node = tree.parents[node]) >= 0) ++depth;
  return depth;
}

DraftTree best_chain(const DraftTree& tree) {
  const int64_t n = tree.size();
  std::vector<double> sums(n);                 // of a node and the best path below it
  std::vector<int64_t> best(n + 1, -1);        // child on that path; [n]: of the text's last token
  for (int64_t node = n - 1; node >= 0; --node) {   // children stand behind their parents
    if (best[node] >= 0) sums[node] = sums[best[node]];
    sums[node] += tree.scores[node];
    int64_t& rival = best[tree.parents[node] < 0 ? n : tree.parents[node]];
    const bool wins = rival < 0 || sums[node] > sums[rival] || (sums[node] == sums[rival] && tree.tokens[node] < tree.tokens[rival]);
    if (wins) rival = node;
  }
  DraftTree chain;
  for (int64_t node = best[n]; node >= 0; node = best[node]) {
    chain.parents.push_back(static_cast<int32_t>(chain.size()) - 1);
    chain.tokens.push_back(tree.tokens[node]);
    chain.scores.push_back(tree.scores[node]);
  }
  return chain;
}

DraftTree breadth_first(const DraftTree& tree) {
  const int64_t n = tree.size();
  std::vector<int32_t> depths(n), order(n), place(n);
  for (int64_t node = 0; node < n; ++node) depths[node] = tree.parents[node] < 0 ? 1 : depths[tree.parents[node]] + 1;
  if (std::is_sorted(depths.begin(), depths.end())) return tree;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return depths[a] < depths[b]; });
  DraftTree sorted;
  for (const int32_t node : order) {
    place[node] = static_cast<int32_t>(sorted.size());
    sorted.tokens.push_back(tree.tokens[node]);
    sorted.parents.push_back(tree.parents[node] < 0 ? -1 : place[tree.parents[node]]);
    sorted.scores.push_back(tree.scores[node]);
  }
  return sorted;
}

void Drafter::update(int32_t, std::span<const int32_t>) {}

void DrafterOptions::describe(Fields& f) {
  f.choice("method", method, {"prompt_lookup", "suffix", "token_recycling"}, "where drafts come from");
  f.block("prompt_lookup", prompt_lookup, "what followed the text's ending before");
  f.block("suffix", suffix, "what followed it most often, in finished outputs too");
  f.block("token_recycling", token_recycling, "the target's likeliest successors of every token");
}

std::unique_ptr<Drafter> make_drafter(const DrafterOptions& options) {
  if (options.method == "prompt_lookup") return std::make_unique<PromptLookup>(options.prompt_lookup);
  if (options.method == "suffix") return std::make_unique<SuffixDrafter>(options.suffix);
  if (options.method == "token_recycling") return std::make_unique<TokenRecycling>(options.token_recycling);
  const std::string near = nearest(options.method, {"prompt_lookup", "suffix", "token_recycling"});
  throw ConfigError(fmt::format("unknown drafter '{}'{}", options.method, near.empty() ? "" : fmt::format(", did you mean '{}'?", near)));
}

}  // namespace trimtab
