#include "trainers/language/packing.h"

#include <algorithm>

namespace trimtab {
namespace {

// One micro-batch while it grows.
struct Builder {
  Trie trie;
  std::vector<int64_t> tokens, predictor, scored, row;

  int64_t add_segment(int64_t parent, std::span<const int32_t> ids) {
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    return trie.add(parent, static_cast<int64_t>(ids.size()));
  }
  void add_reply(int64_t parent, const PackedReply& reply) {
    const int64_t segment = add_segment(parent, reply.tokens);
    const int64_t first = trie.segments[segment].first, before = trie.predictor_of_first(segment);
    for (int64_t t = reply.loss_begin; t < reply.loss_end; ++t) {
      const int64_t from = t > 0 ? first + t - 1 : before;
      if (from < 0) continue;
      predictor.push_back(from);
      scored.push_back(first + t);
      row.push_back(reply.first_row + t);
    }
  }
  MicroBatch take() {
    MicroBatch out{.trie = std::move(trie),
                   .tokens = at::tensor(tokens, at::kLong),
                   .predictor = at::tensor(predictor, at::kLong),
                   .scored = at::tensor(scored, at::kLong),
                   .row = std::move(row)};
    *this = {};
    return out;
  }
};

struct Unit {   // what is packed as a whole: the prompt and one reply of a group
  const PackedGroup* group;
  const PackedReply* reply;
  bool new_prompt;   // the first of its group, or every one without a shared prefix
};

std::vector<Unit> units_of(std::span<const PackedGroup> groups, bool shared) {
  std::vector<Unit> out;
  for (const PackedGroup& group : groups) {
    bool first = true;
    for (const PackedReply& reply : group.replies) {
      if (reply.loss_begin >= reply.loss_end) continue;
      out.push_back({&group, &reply, first || !shared});
      first = false;
    }
  }
  return out;
}

int64_t size_of(const Unit& unit, bool with_prompt) {
  return static_cast<int64_t>((with_prompt ? unit.group->prompt.size() : 0) + unit.reply->tokens.size());
}

}  // namespace

std::vector<MicroBatch> pack(std::span<const PackedGroup> groups, const PackingOptions& options) {
  const std::vector<Unit> units = units_of(groups, options.shared_prefix);
  int64_t total = 0;
  for (const Unit& unit : units) total += size_of(unit, unit.new_prompt);
  const int64_t parts = std::max<int64_t>(options.at_least, (total + options.token_budget - 1) / options.token_budget);
  const int64_t wanted = (total + parts - 1) / parts;   // a part closes when it has reached this
  std::vector<MicroBatch> out;
  Builder builder;
  int64_t prompt = -1;
  for (const Unit& unit : units) {
    const int64_t so_far = static_cast<int64_t>(builder.tokens.size());
    const int64_t more = size_of(unit, unit.new_prompt);
    // Rather at the border of a group than inside it: a cut group computes its prompt twice.
    const bool full = so_far + more > options.token_budget || (unit.new_prompt && so_far >= wanted - more / 2);
    const bool cut = so_far > 0 && full;
    if (cut) out.push_back(builder.take());
    if (cut || unit.new_prompt) prompt = builder.add_segment(-1, unit.group->prompt);
    builder.add_reply(prompt, *unit.reply);
  }
  if (!builder.tokens.empty()) out.push_back(builder.take());
  return out;
}

}  // namespace trimtab
