#include "engine/drafters/prompt_lookup.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/drafters/option_ranges.h"

namespace trimtab {

void PromptLookupOptions::describe(Fields& f) {
  f.integer("max_ngram", max_ngram, {.low = 1, .high = 64, .unit = "tokens", .doc = "longest ending of the text that is looked for"});
  f.integer("min_ngram", min_ngram, {.low = 1, .high = 64, .unit = "tokens", .doc = "shortest ending of the text that is looked for"});
  f.integer("num_tokens", num_tokens, {.low = 1, .high = 4096, .unit = "tokens", .doc = "longest draft"});
  f.integer("history", history,
            {.low = 128, .high = 1 << 28, .unit = "tokens", .doc = "of a sequence kept at most; beyond that its older half is forgotten"});
}

void PromptLookupOptions::validate() const {
  if (min_ngram > max_ngram) throw ConfigError(fmt::format("min_ngram = {} is more than max_ngram = {}", min_ngram, max_ngram));
}

void NgramIndex::append(int32_t token) {
  text_.push_back(token);
  const int64_t length = static_cast<int64_t>(text_.size()), longest = std::min<int64_t>(length, here_.size() - 1);
  for (int64_t n = longest; n >= 1; --n) {   // downwards: here_[n - 1] must still be that of the token before
    int32_t node = children_.find(nodes_, here_[n - 1], token);
    if (node == ChildTable<Node>::kNone) {
      node = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({.parent = here_[n - 1], .token = token});
      children_.insert(nodes_, node);
    }
    earlier_[n] = std::exchange(nodes_[node].last_end, static_cast<int32_t>(length));
    here_[n] = node;
  }
}

PromptLookup::PromptLookup(const PromptLookupOptions& options) : options_(checked(options)), tallies_(options.max_ngram + 1) {}

void PromptLookup::begin(int64_t sequence, std::span<const int32_t> prompt) {
  check_tokens(prompt);
  sequences_.open(sequence, options_.max_ngram);
  append(sequence, prompt);
}

void PromptLookup::append(int64_t sequence, std::span<const int32_t> tokens) {
  NgramIndex& index = sequences_.at(sequence);
  check_tokens(tokens);
  for (const int32_t token : tokens) {
    tally(index, token);
    index.append(token);
    if (static_cast<int64_t>(index.text().size()) > options_.history) forget_older_half(index);
  }
}

int64_t PromptLookup::match_length(const NgramIndex& index) const {
  for (int64_t n = options_.max_ngram; n >= options_.min_ngram; --n) {
    if (index.earlier(n) >= 0) return n;
  }
  return 0;
}

void PromptLookup::tally(const NgramIndex& index, int32_t token) {
  constexpr double kMemory = 4096;   // drafts; beyond, old ones lose weight
  const int64_t n = match_length(index);
  if (n == 0) return;
  Tally& t = tallies_[n];
  if (t.trials >= kMemory) t.trials /= 2, t.hits /= 2;
  t.trials += 1;
  if (index.text()[index.earlier(n)] == token) t.hits += 1;
}

void PromptLookup::forget_older_half(NgramIndex& index) const {
  NgramIndex newer(options_.max_ngram);
  for (const int32_t token : std::span(index.text()).last(options_.history / 2)) newer.append(token);
  index = std::move(newer);
}

DraftTree PromptLookup::draft(int64_t sequence, int64_t max_nodes) {
  const NgramIndex& index = sequences_.at(sequence);
  check_room(max_nodes);
  int64_t match = match_length(index);
  if (match == 0) return {};
  const auto after = std::span(index.text()).subspan(index.earlier(match));
  const auto tokens = after.first(std::min<size_t>(after.size(), std::min(max_nodes, options_.num_tokens)));
  DraftTree tree;
  tree.tokens.assign(tokens.begin(), tokens.end());
  double score = 1;
  for (int32_t node = 0; node < tree.size(); ++node) {   // if all before it came true, it has a longer match
    score *= tallies_[std::min(match++, options_.max_ngram)].share();
    tree.parents.push_back(node - 1);
    tree.scores.push_back(std::max(static_cast<float>(score), std::numeric_limits<float>::min()));
  }
  return tree;
}

}  // namespace trimtab
