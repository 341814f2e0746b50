#include "trainers/language/tree.h"

#include <algorithm>
#include <map>

namespace trimtab {
namespace {

// Segments of the replies [first, last), whose first `begin` tokens are told already.
void grow(std::span<const SharedReply> replies, int64_t first, int64_t last, int64_t begin, int64_t parent, std::vector<TreeSegment>& out) {
  int64_t common = replies[first].length;
  for (int64_t i = first + 1; i < last; ++i) common = std::min(common, replies[i].shared);
  if (common > begin) {
    out.push_back({parent, first, last, begin, common});
    parent = static_cast<int64_t>(out.size()) - 1;
  }
  if (last - first == 1) return;
  for (int64_t i = first + 1, start = first; i <= last; ++i) {
    if (i < last && replies[i].shared > common) continue;
    grow(replies, start, i, common, parent, out);
    start = i;
  }
}

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

}  // namespace

std::vector<TreeSegment> tree_segments(std::span<const SharedReply> replies) {
  std::vector<TreeSegment> out;
  if (replies.empty()) return out;
  grow(replies, 0, static_cast<int64_t>(replies.size()), 0, -1, out);
  return out;
}

void sibling_advantages(std::span<const SharedReply> replies, std::span<const double> rewards, GroupBaseline baseline, double std_epsilon,
                        const std::function<void(int64_t, int64_t, int64_t, double)>& give) {
  const std::vector<TreeSegment> segments = tree_segments(replies);
  std::map<int64_t, std::vector<int64_t>> siblings;   // by parent
  for (size_t s = 0; s < segments.size(); ++s) siblings[segments[s].parent].push_back(static_cast<int64_t>(s));
  for (const auto& [parent, family] : siblings) {
    const auto n = static_cast<int64_t>(family.size());
    std::vector<double> value, advantage(n);
    for (const int64_t s : family) value.push_back(mean(rewards.subspan(segments[s].first, segments[s].last - segments[s].first)));
    const std::vector<uint8_t> all(n, 1);
    group_advantage(baseline, n, 1, value.data(), all.data(), advantage.data(), std_epsilon);
    for (int64_t k = 0; k < n; ++k) {
      const TreeSegment& s = segments[family[k]];
      for (int64_t reply = s.first; reply < s.last; ++reply) give(reply, s.begin, s.end, advantage[k]);
    }
  }
}

}  // namespace trimtab
