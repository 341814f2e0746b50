#include "trainers/language/packing.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>

#include "trainers/language/tree.h"

namespace trimtab {
namespace {

struct Unit {   // what is packed as a whole: one reply of a group, as far as it is not shared
  const PackedGroup* group;
  const PackedReply* reply;
  bool new_prompt;   // the first of its group, or every one without a shared prefix
  int64_t shared;    // tokens in common with the unit before it

  int64_t size() const { return static_cast<int64_t>((new_prompt ? group->prompt.size() : 0) + reply->tokens.size()) - shared; }
};

// One micro-batch while it grows.
struct Builder {
  Trie trie;
  std::vector<int64_t> tokens, before, scored_as;    // [T]; the row that predicts it; which of `scored` it is, -1: none
  std::vector<int64_t> predictor, scored, place, row;

  int64_t add_segment(int64_t parent, std::span<const int32_t> ids) {
    const int64_t segment = trie.add(parent, static_cast<int64_t>(ids.size()));
    for (size_t k = 0; k < ids.size(); ++k) before.push_back(k > 0 ? static_cast<int64_t>(tokens.size() + k) - 1 : trie.predictor_of_first(segment));
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    scored_as.resize(tokens.size(), -1);
    return segment;
  }
  void add_row(int64_t token, int64_t update_row) {
    if (before[token] < 0) return;
    if (scored_as[token] < 0) {
      scored_as[token] = static_cast<int64_t>(scored.size());
      predictor.push_back(before[token]), scored.push_back(token);
    }
    place.push_back(scored_as[token]);
    row.push_back(update_row);
  }
  // The prompt of the units, their segments, and a row for every token of every reply.
  void add_group(std::span<const Unit> units) {
    if (units.empty()) return;
    std::vector<SharedReply> replies;
    for (const Unit& unit : units) replies.push_back({static_cast<int64_t>(unit.reply->tokens.size()), unit.shared});
    const int64_t prompt = add_segment(-1, units[0].group->prompt);
    std::vector<std::vector<int64_t>> token_of(units.size());   // by reply and position
    std::vector<int64_t> index;                                 // of each segment in the trie
    for (const TreeSegment& s : tree_segments(replies)) {
      index.push_back(add_segment(s.parent < 0 ? prompt : index[s.parent], units[s.first].reply->tokens.subspan(s.begin, s.end - s.begin)));
      for (int64_t reply = s.first; reply < s.last; ++reply)
        for (int64_t t = 0; t < s.end - s.begin; ++t) token_of[reply].push_back(trie.segments[index.back()].first + t);
    }
    for (size_t i = 0; i < units.size(); ++i) {
      const PackedReply& reply = *units[i].reply;
      for (int64_t t = reply.loss_begin; t < reply.loss_end; ++t) add_row(token_of[i][t], reply.first_row + t);
    }
  }
  MicroBatch take() {
    MicroBatch out{.trie = std::move(trie),
                   .tokens = at::tensor(tokens, at::kLong),
                   .predictor = at::tensor(predictor, at::kLong),
                   .scored = at::tensor(scored, at::kLong),
                   .target = {},
                   .place = place.size() == scored.size() ? at::Tensor() : at::tensor(place, at::kLong),
                   .row = std::move(row)};
    *this = {};
    return out;
  }
};

std::vector<Unit> units_of(std::span<const PackedGroup> groups, bool shared) {
  std::vector<Unit> out;
  for (const PackedGroup& group : groups) {
    bool first = true;
    int64_t common = 0;   // with the last unit, whatever was left out in between
    for (const PackedReply& reply : group.replies) {
      common = std::min(common, reply.shared);
      if (reply.loss_begin >= reply.loss_end) continue;
      out.push_back({&group, &reply, first || !shared, shared ? common : 0});
      first = false;
      common = INT64_MAX;
    }
  }
  return out;
}

// Tokens from a group's first unit to its last.
int64_t block_size(std::span<const Unit> units) {
  int64_t out = units[0].size();
  for (size_t i = 1; i < units.size() && !units[i].new_prompt; ++i) out += units[i].size();
  return out;
}

}  // namespace

std::vector<MicroBatch> pack(std::span<const PackedGroup> groups, const PackingOptions& options) {
  const std::vector<Unit> units = units_of(groups, options.shared_prefix);
  int64_t total = 0;
  for (const Unit& unit : units) total += unit.size();
  EvenParts parts(total, options);
  std::vector<MicroBatch> out;
  Builder builder;
  std::vector<Unit> open;   // of one group, in the present part
  const auto close_group = [&] { builder.add_group(open), open.clear(); };
  for (size_t i = 0; i < units.size(); ++i) {
    Unit unit = units[i];
    // Rather at the border of a group than inside it: a cut group computes its prompt and the cut reply's stem twice.
    const bool cut = parts.full_before(unit.size()) || (unit.new_prompt && parts.even_before(block_size(std::span(units).subspan(i))));
    if (cut || unit.new_prompt) close_group();
    if (cut) {
      out.push_back(builder.take());
      parts.close();
      unit.new_prompt = true, unit.shared = 0;
    }
    parts.add(unit.size());
    open.push_back(unit);
  }
  close_group();
  if (!builder.tokens.empty()) out.push_back(builder.take());
  return out;
}

}  // namespace trimtab
