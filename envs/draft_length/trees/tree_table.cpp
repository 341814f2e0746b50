#include "envs/draft_length/trees/tree_table.h"

#include "core/error.h"
#include "core/recording.h"

namespace trimtab {
namespace {

// Nodes of the tree on the path that the text takes.
int32_t accepted_nodes(const DraftTree& tree, std::span<const int32_t> text) {
  int32_t at = -1, depth = 0;
  for (int32_t node = 0; node < static_cast<int32_t>(tree.size()) && depth < static_cast<int32_t>(text.size()); ++node)   // breadth-first: children stand behind
    if (tree.parents[node] == at && tree.tokens[node] == text[depth]) at = node, ++depth;
  return depth;
}

}  // namespace

std::vector<TokenText> read_token_texts(const std::vector<std::string>& files) {
  if (files.empty()) throw ConfigError("draft_tree needs recordings: name them under data: {train: [...]}; `trimtab record` makes them");
  std::vector<TokenText> out;
  for (const std::string& file : files) {
    const Recording r = read_recording(file, "draft_length");
    const std::span<const int64_t> tokens = r.i64("token");
    const std::span<const float> entropy = r.f32("target_entropy");
    for (const RecordedEpisode& e : r.episodes) {
      TokenText& text = out.emplace_back();
      text.tokens.assign(tokens.begin() + e.first, tokens.begin() + e.first + e.rows);
      text.entropy.assign(entropy.begin() + e.first, entropy.begin() + e.first + e.rows);
    }
  }
  return out;
}

TreeTable::TreeTable(std::vector<TokenText> texts, const DrafterOptions& options, const std::vector<int64_t>& budgets)
    : texts_(std::move(texts)), budgets_(static_cast<int64_t>(budgets.size())) {
  const std::unique_ptr<Drafter> drafter = make_drafter(options);
  int64_t positions = 0;
  for (int64_t t = 0; t < this->texts(); ++t) {
    first_.push_back(positions);
    positions += length(t);
    const std::span<const int32_t> tokens = texts_[t].tokens;
    drafter->begin(t, {});
    for (size_t p = 0; p < tokens.size(); ++p) {
      for (const int64_t budget : budgets) {
        TreeOutcome& o = outcomes_.emplace_back();
        if (budget == 0) continue;
        const DraftTree tree = drafter->draft(t, budget);
        o.nodes = static_cast<int32_t>(tree.size()), o.accepted = accepted_nodes(tree, tokens.subspan(p));
        for (const float score : tree.scores) o.expected += score;
      }
      drafter->append(t, tokens.subspan(p, 1));
    }
    drafter->finish(t);
  }
}

}  // namespace trimtab
