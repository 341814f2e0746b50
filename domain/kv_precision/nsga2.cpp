#include "domain/kv_precision/nsga2.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr int kPopulation = 20;

struct Member {
  KvAllocation pairs;
  double kl = 0;
  int64_t bytes = 0;
  int64_t over = 0;       // bytes beyond the budget
  int rank = 0;           // 0: nothing is better
  double crowding = 0;    // room around it on its front
  // Deb's rule for constraints: what meets the budget is better than what does not, of two that do not the one nearer to it.
  bool dominates(const Member& other) const {
    if (over != other.over) return over < other.over;
    return kl <= other.kl && bytes <= other.bytes && (kl < other.kl || bytes < other.bytes);
  }
  bool beats(const Member& other) const { return rank != other.rank ? rank < other.rank : crowding > other.crowding; }
};

Member judged(const KvSensitivity& t, int64_t budget, KvAllocation pairs) {
  const double kl = surrogate_kl(t, pairs);
  const int64_t bytes = allocation_bytes(t, pairs);
  return {std::move(pairs), kl, bytes, std::max<int64_t>(0, bytes - budget)};
}

void rank_fronts(std::vector<Member>& members) {
  std::vector<bool> ranked(members.size());
  size_t done = 0;
  for (int rank = 0; done < members.size(); ++rank) {
    std::vector<size_t> front;
    for (size_t i = 0; i < members.size(); ++i) {
      if (ranked[i]) continue;
      bool beaten = false;
      for (size_t j = 0; j < members.size() && !beaten; ++j) beaten = !ranked[j] && members[j].dominates(members[i]);
      if (!beaten) front.push_back(i);
    }
    for (const size_t i : front) ranked[i] = true, members[i].rank = rank;
    done += front.size();
  }
}

template <class Value>
void add_crowding(std::vector<Member*>& front, const Value& value) {
  std::sort(front.begin(), front.end(), [&](const Member* a, const Member* b) { return value(*a) < value(*b); });
  const double span = value(*front.back()) - value(*front.front());
  front.front()->crowding = front.back()->crowding = std::numeric_limits<double>::infinity();
  for (size_t i = 1; span > 0 && i + 1 < front.size(); ++i) front[i]->crowding += (value(*front[i + 1]) - value(*front[i - 1])) / span;
}

void sort_members(std::vector<Member>& members) {
  rank_fronts(members);
  int last = 0;
  for (Member& m : members) m.crowding = 0, last = std::max(last, m.rank);
  for (int rank = 0; rank <= last; ++rank) {
    std::vector<Member*> front;
    for (Member& m : members)
      if (m.rank == rank) front.push_back(&m);
    add_crowding(front, [](const Member& m) { return m.kl; });
    add_crowding(front, [](const Member& m) { return static_cast<double>(m.bytes); });
  }
  std::stable_sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.beats(b); });
}

KvAllocation child(const KvSensitivity& t, const std::vector<Member>& parents, Draws& draws) {
  const auto tournament = [&]() -> const Member& {
    const Member &a = parents[draws.below(static_cast<uint32_t>(parents.size()))], &b = parents[draws.below(static_cast<uint32_t>(parents.size()))];
    return b.beats(a) ? b : a;
  };
  const Member &mother = tournament(), &father = tournament();
  KvAllocation out(t.units());
  for (int64_t u = 0; u < t.units(); ++u) {
    out[u] = draws.below(2) == 0 ? mother.pairs[u] : father.pairs[u];
    if (draws.below(static_cast<uint32_t>(t.units())) == 0) out[u] = static_cast<int>(draws.below(static_cast<uint32_t>(t.pairs.size())));
  }
  return out;
}

}  // namespace

KvAllocation nsga2_allocation(const KvSensitivity& t, int64_t budget, int64_t trials, uint64_t seed) {
  if (budget < least_bytes(t))
    throw ConfigError(fmt::format("a budget of {:.3f} bits cannot be met: the cheapest widths take {:.3f}", t.bits(budget), t.bits(least_bytes(t))));
  Draws draws(seed, Stream::kWorld, 1);
  Member best = judged(t, budget, uniform_allocation(t, cheapest_pair(t)));
  std::vector<Member> members;
  for (int64_t i = 0; i < trials; ++i) {
    KvAllocation pairs(t.units());
    if (i < static_cast<int64_t>(t.pairs.size()) && i < kPopulation)
      pairs = uniform_allocation(t, static_cast<int>(i));
    else if (i < kPopulation)
      for (int& p : pairs) p = static_cast<int>(draws.below(static_cast<uint32_t>(t.pairs.size())));
    else
      pairs = child(t, members, draws);
    members.push_back(judged(t, budget, std::move(pairs)));
    const Member& now = members.back();
    if (now.over == 0 && now.kl < best.kl) best = now;
    if (members.size() < 2 * kPopulation && i + 1 != kPopulation) continue;
    sort_members(members);
    members.resize(std::min<size_t>(members.size(), kPopulation));
  }
  return best.pairs;
}

}  // namespace trimtab
