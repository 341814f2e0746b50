#include "engine/drafters/suffix_drafter.h"

#include <algorithm>
#include <cmath>

#include "engine/drafters/option_ranges.h"

namespace trimtab {
namespace {

constexpr double kRounding = 1e-6;   // of a sum of products

}  // namespace

void SuffixOptions::describe(Fields& f) {
  f.integer("depth", depth, {.low = 2, .high = 256, .unit = "tokens", .doc = "of the trees: matched and drafted tokens together"});
  f.number("factor", factor, {.low = 0, .high = 256, .doc = "nodes of a draft per matched token"});
  f.number("offset", offset, {.low = -256, .high = 256, .unit = "nodes", .doc = "added to that"});
  f.number("min_prob", min_prob, {.low = 1e-3, .high = 1, .doc = "a drafted node's estimate is at least this"});
  f.choice("shape", shape, {"chain", "tree"}, "the most frequent continuation, or several at once");
  f.integer("cached_sequences", cached_sequences,
            {.low = 0, .high = 1 << 24, .doc = "finished outputs that are remembered, the newest; 0: none"});
  f.number("cached_mib", cached_mib, {.low = 1, .high = 1 << 16, .unit = "MiB", .doc = "their memory in use, at most"});
  f.integer("history", history,
            {.low = 128, .high = 1 << 28, .unit = "tokens", .doc = "of a sequence kept at most; beyond that its older half is forgotten"});
}

void SuffixOptions::validate() const {
  if (history < 2 * depth) throw ConfigError(fmt::format("history = {} is less than twice depth = {}", history, depth));
  if (factor == 0 && offset < 1) throw ConfigError("factor = 0 and offset < 1, so that nothing is ever drafted");
}

SuffixDrafter::SuffixDrafter(const SuffixOptions& options) : options_(checked(options)), cache_(options.depth) {}

void SuffixDrafter::begin(int64_t sequence, std::span<const int32_t> prompt) {
  check_tokens(prompt);
  State& state = sequences_.open(sequence, options_.depth);
  for (const int32_t token : prompt) {
    ++state.prompt_left;
    add(state, token);
  }
}

void SuffixDrafter::append(int64_t sequence, std::span<const int32_t> tokens) {
  State& state = sequences_.at(sequence);
  check_tokens(tokens);
  for (const int32_t token : tokens) add(state, token);
}

void SuffixDrafter::add(State& state, int32_t token) {
  state.own.append(token);
  state.match.advance(cache_, state.own.open_text());
  if (state.own.tokens() > options_.history) forget_older_half(state);
}

void SuffixDrafter::forget_older_half(State& state) const {
  const int64_t kept = options_.history / 2;
  SuffixTree newer(options_.depth);
  for (const int32_t token : state.own.open_text().last(kept)) newer.append(token);
  state.prompt_left = std::max<int64_t>(0, state.prompt_left - (state.own.tokens() - kept));
  state.own = std::move(newer);
}

void SuffixDrafter::finish(int64_t sequence) {
  const State& state = sequences_.at(sequence);
  if (options_.cached_sequences > 0) remember(state.own.open_text().subspan(state.prompt_left));
  sequences_.close(sequence);
}

void SuffixDrafter::remember(std::span<const int32_t> output) {
  const auto most = static_cast<int64_t>(options_.cached_mib * (1 << 20));
  output = output.last(std::min<size_t>(output.size(), most / SuffixTree::kBytesPerToken));   // should one be as long as that
  if (output.empty()) return;
  const int64_t room = most - std::ssize(output) * SuffixTree::kBytesPerToken;
  while (cache_.closed_texts() >= options_.cached_sequences || cache_.bytes() > room) {
    if (cache_.closed_texts() == 0) break;   // the root alone
    cache_.drop_oldest();
  }
  for (const int32_t token : output) cache_.append(token);
  cache_.close();
}

DraftTree SuffixDrafter::draft(int64_t sequence, int64_t max_nodes) {
  State& state = sequences_.at(sequence);
  check_room(max_nodes);
  state.match.refresh(cache_, state.own.open_text());
  best_.score = 0, best_.match = 0;
  best_.nodes.tokens.clear(), best_.nodes.parents.clear(), best_.nodes.scores.clear();
  best_guess(state.own, state.own.repeated(), max_nodes);
  best_guess(cache_, state.match.loci(), max_nodes);
  return breadth_first(best_.nodes);
}

int64_t SuffixDrafter::nodes_after(int64_t match, int64_t max_nodes) const {
  const double nodes = std::floor(options_.factor * static_cast<double>(match) + options_.offset);
  return std::min(static_cast<int64_t>(std::max(nodes, 0.0)), max_nodes);
}

// Matches by falling bound of their score, so that the rest need not be looked at once the best beats it: each node adds 1 at most, and
// so does each level of the tree left below the match. The bound rises with the match's length, then falls.
void SuffixDrafter::best_guess(SuffixTree& tree, std::span<const SuffixTree::Locus> loci, int64_t max_nodes) {
  const auto bound = [&](int64_t match) { return std::min(nodes_after(match, max_nodes), options_.depth - match); };
  const int64_t longest = std::ssize(loci);
  int64_t peak = 1;
  while (peak < longest && bound(peak + 1) >= bound(peak)) ++peak;
  for (int64_t shorter = std::min(peak, longest), longer = shorter + 1; shorter >= 1 || longer <= longest;) {
    const bool up = shorter < 1 || (longer <= longest && bound(longer) >= bound(shorter));
    const int64_t match = up ? longer++ : shorter--;
    if (bound(match) == 0 || static_cast<double>(bound(match)) < best_.score - kRounding) return;
    guess_.match = match;
    guess_from(tree, loci[match - 1], nodes_after(match, max_nodes));
    if (guess_.score > best_.score || (guess_.score == best_.score && match > best_.match)) std::swap(guess_, best_);
  }
}

void SuffixDrafter::guess_from(SuffixTree& tree, SuffixTree::Locus at, int64_t num_nodes) {
  guess_.score = 0;
  guess_.nodes.tokens.clear(), guess_.nodes.parents.clear(), guess_.nodes.scores.clear();
  if (options_.shape == "tree") {
    guess_tree(tree, at, num_nodes);
  } else {
    guess_chain(tree, at, num_nodes);
  }
}

void SuffixDrafter::choose(int32_t token, int32_t parent, double probability) {
  guess_.nodes.tokens.push_back(token);
  guess_.nodes.parents.push_back(parent);
  guess_.nodes.scores.push_back(static_cast<float>(probability));
  guess_.score += probability;
}

// Whether nodes of at most `probability` cannot bring the guess to the best one any more; it may then be left as it is.
bool SuffixDrafter::is_beaten(double probability, int64_t num_nodes) const {
  return guess_.score + probability * static_cast<double>(num_nodes - guess_.nodes.size()) < best_.score - kRounding;
}

void SuffixDrafter::guess_chain(SuffixTree& tree, SuffixTree::Locus at, int64_t num_nodes) {
  double probability = 1;
  const auto size = [&] { return guess_.nodes.size(); };
  while (true) {
    const auto rest = tree.rest_of_edge(at);
    for (const int32_t token : rest.first(std::min<size_t>(rest.size(), num_nodes - size()))) {
      choose(token, static_cast<int32_t>(size()) - 1, probability);
    }
    const int32_t child = size() == num_nodes ? SuffixTree::kNone : tree.likeliest_child(at.node);
    if (child == SuffixTree::kNone) return;
    probability *= static_cast<double>(tree.node(child).count) / tree.node(at.node).continued;
    if (probability < options_.min_prob || is_beaten(probability, std::min(num_nodes, options_.depth - guess_.match))) return;
    choose(tree.node(child).token, static_cast<int32_t>(size()) - 1, probability);
    at = {child, 1};
  }
}

bool SuffixDrafter::Candidate::operator<(const Candidate& other) const {
  if (probability != other.probability) return probability < other.probability;
  if (depth != other.depth) return depth > other.depth;
  if (parent != other.parent) return parent > other.parent;
  return token > other.token;
}

void SuffixDrafter::guess_tree(SuffixTree& tree, SuffixTree::Locus at, int64_t num_nodes) {
  candidates_.clear();
  add_candidates(tree, {.probability = 1, .depth = 0, .parent = -1, .token = -1, .at = at}, num_nodes);
  while (!candidates_.empty() && guess_.nodes.size() < num_nodes) {
    std::pop_heap(candidates_.begin(), candidates_.end());
    Candidate chosen = candidates_.back();
    candidates_.pop_back();
    if (is_beaten(chosen.probability, num_nodes)) return;
    choose(chosen.token, chosen.parent, chosen.probability);
    chosen.parent = static_cast<int32_t>(guess_.nodes.size()) - 1;
    add_candidates(tree, chosen, num_nodes - guess_.nodes.size());
  }
}

// The children of `parent`, whose own index stands in its `parent`.
void SuffixDrafter::add_candidates(SuffixTree& tree, const Candidate& parent, int64_t num_nodes) {
  const auto add = [&](int32_t token, double probability, SuffixTree::Locus at) {
    if (probability < options_.min_prob) return;
    candidates_.push_back({probability, parent.depth + 1, parent.parent, token, at});
    std::push_heap(candidates_.begin(), candidates_.end());
  };
  const auto add_child = [&](int32_t child) {
    const double share = static_cast<double>(tree.node(child).count) / tree.node(parent.at.node).continued;
    add(tree.node(child).token, parent.probability * share, {child, 1});
  };
  if (const auto rest = tree.rest_of_edge(parent.at); !rest.empty()) {
    add(rest.front(), parent.probability, {parent.at.node, parent.at.offset + 1});
  } else if (num_nodes == 1) {   // the last node to choose: no look at all the siblings, of which there may be many
    if (const int32_t child = tree.likeliest_child(parent.at.node); child != SuffixTree::kNone) add_child(child);
  } else {
    for (int32_t child = tree.node(parent.at.node).first_child; child != SuffixTree::kNone; child = tree.node(child).next) add_child(child);
  }
}

}  // namespace trimtab
