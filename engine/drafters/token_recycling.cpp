#include "engine/drafters/token_recycling.h"

#include <algorithm>
#include <limits>

#include "engine/drafters/option_ranges.h"

namespace trimtab {

void TokenRecyclingOptions::describe(Fields& f) {
  f.integer("vocab", vocab, {.low = 0, .high = 1 << 24, .unit = "tokens", .doc = "token ids are below this; 0: as the model has it"});
  f.integer("candidates", candidates, {.low = 1, .high = 64, .unit = "tokens", .doc = "successors remembered of each token"});
  f.integers("children", children, {.low = 1, .high = 64, .doc = "of every node of the draft, level by level"});
}

void TokenRecyclingOptions::validate() const {
  constexpr int64_t kMostNodes = 4096;
  if (children.empty()) throw ConfigError("children is empty, but a draft needs one level or more");
  int64_t level = 1, nodes = 0;
  for (const int64_t count : children) {
    if (count > candidates) throw ConfigError(fmt::format("children has {}, but only {} candidates are remembered", count, candidates));
    nodes += level *= count;
    if (nodes > kMostNodes) throw ConfigError(fmt::format("children makes a tree of more than {} nodes", kMostNodes));
  }
}

TokenRecycling::TokenRecycling(const TokenRecyclingOptions& options)
    : options_(checked(options)), table_(options.vocab * options.candidates, -1), hits_(options.candidates) {
  if (options.vocab == 0) throw ConfigError("vocab = 0, but a drafter needs the number of the model's token ids");
}

void TokenRecycling::begin(int64_t sequence, std::span<const int32_t> prompt) {
  check_tokens(prompt, options_.vocab);
  sequences_.open(sequence).token = prompt.empty() ? -1 : prompt.back();   // a prompt says nothing about what the target would draw
}

void TokenRecycling::append(int64_t sequence, std::span<const int32_t> tokens) {
  Last& last = sequences_.at(sequence);
  check_tokens(tokens, options_.vocab);
  for (const int32_t token : tokens) {
    if (last.token >= 0) tally(last.token, token);
    last.token = token;
  }
}

void TokenRecycling::update(int32_t token, std::span<const int32_t> likeliest) {
  check_tokens({&token, 1}, options_.vocab);
  check_tokens(likeliest, options_.vocab);
  const auto taken = likeliest.first(std::min<size_t>(likeliest.size(), options_.candidates));
  const auto to = table_.begin() + token * options_.candidates;
  std::fill(std::copy(taken.begin(), taken.end(), to), to + options_.candidates, -1);
}

std::span<const int32_t> TokenRecycling::row(int32_t token) const {
  const auto all = std::span(table_).subspan(token * options_.candidates, options_.candidates);
  return all.first(std::find(all.begin(), all.end(), -1) - all.begin());
}

void TokenRecycling::tally(int32_t before, int32_t token) {
  constexpr double kMemory = 4096;   // tokens; beyond, old ones lose weight
  const auto known = row(before);
  if (known.empty()) return;
  if (trials_ >= kMemory) {
    trials_ /= 2;
    for (double& hits : hits_) hits /= 2;
  }
  trials_ += 1;
  const auto rank = std::find(known.begin(), known.end(), token) - known.begin();
  if (rank < std::ssize(known)) hits_[rank] += 1;
}

DraftTree TokenRecycling::draft(int64_t sequence, int64_t max_nodes) {
  const Last& last = sequences_.at(sequence);
  check_room(max_nodes);
  DraftTree tree;
  if (last.token < 0) return tree;
  const double all = trials_ + static_cast<double>(options_.candidates) + 1;   // each rank and "none of them" begin with one hit
  int64_t first = -1, end = 0;   // the nodes of the level above; -1 is the text's last token
  for (const int64_t children : options_.children) {
    for (int64_t parent = first; parent < end; ++parent) {
      const auto known = row(parent < 0 ? last.token : tree.tokens[parent]);
      const double score = parent < 0 ? 1 : tree.scores[parent];
      for (int64_t rank = 0; rank < std::min(children, std::ssize(known)); ++rank) {
        if (tree.size() == max_nodes) return tree;
        tree.tokens.push_back(known[rank]);
        tree.parents.push_back(static_cast<int32_t>(parent));
        tree.scores.push_back(std::max(static_cast<float>(score * (hits_[rank] + 1) / all), std::numeric_limits<float>::min()));
      }
    }
    first = end, end = tree.size();
  }
  return tree;
}

}  // namespace trimtab
