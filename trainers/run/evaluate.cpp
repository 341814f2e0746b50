// Evaluation during training; see evaluate.h.
#include "trainers/run/evaluate.h"

#include <algorithm>
#include <numeric>

#include "trainers/policy_gradient/statistics.h"
#include "trainers/policy_gradient/store.h"

namespace trimtab {
namespace {

constexpr uint64_t kWorldSeed = 0x7A11DA7E;  // apart from every training seed a user would choose
constexpr int64_t kParts = 4;                // logical parts: what they hold does not depend on the threads
constexpr int64_t kLongestEpisode = 1'000'000;  // for environments without a time limit

}  // namespace

Evaluation::Evaluation(const Make& make, int64_t episodes, Ranks& ranks) {
  const int64_t num = std::min(std::max<int64_t>(kParts, ranks.size()), episodes);
  const auto [own, end] = piece_of(num, ranks.rank(), ranks.size());
  for (int64_t p = own; p < end; ++p) {
    Part& part = parts_.emplace_back();
    part.first = episodes * p / num;
    const int64_t size = episodes * (p + 1) / num - part.first;
    part.env = make(size);
    part.total.resize(size);
    part.length.resize(size);
  }
}

void Evaluation::run_part(Part& part,
                          const std::function<const Controller&(const std::string&)>& policy) const {
  BatchEnvironment& env = *part.env;
  const EnvSpec& spec = env.spec();
  const int64_t n = env.size();
  std::vector<WorldKey> keys(n);
  for (int64_t i = 0; i < n; ++i) keys[i] = {kWorldSeed, static_cast<uint64_t>(part.first + i)};
  env.reset(keys, uint64_t{1} << 32);
  env.take_statistics();
  std::vector<ObservationStore> views;
  std::vector<std::unique_ptr<ControllerWorkspace>> workspaces;
  size_t widest = 1;
  for (const AgentSpec& agent : spec.agents) {
    views.emplace_back(agent.observation, n);
    workspaces.push_back(policy(agent.name).workspace(n));
    widest = std::max<size_t>(widest, agent.head.width());
  }
  ObservationStore ended(spec.critic, n);
  std::vector<float> action(n * widest), reward(n), terms(n * std::max<size_t>(spec.reward_terms.size(), 1));
  std::vector<uint8_t> terminated(n), truncated(n), done(n, 0);
  std::fill(part.total.begin(), part.total.end(), 0.0);
  std::fill(part.length.begin(), part.length.end(), 0);
  int64_t left = n;
  for (int64_t step = 0; left > 0 && step < kLongestEpisode; ++step) {
    for (size_t a = 0; a < spec.agents.size(); ++a) {
      env.observe(static_cast<int>(a), views[a].rows(0));
      policy(spec.agents[a].name).mode(views[a].batch(0, n), action.data(), *workspaces[a]);
      env.act(static_cast<int>(a), action.data());
    }
    env.step({reward.data(), terms.data(), terminated.data(), truncated.data(), ended.rows(0)});
    for (int64_t i = 0; i < n; ++i) {
      if (done[i]) continue;
      part.total[i] += reward[i];
      ++part.length[i];
      if (terminated[i] | truncated[i]) done[i] = 1, --left;
    }
  }
  part.statistics = env.take_statistics();
}

Evaluation::Result Evaluation::run(const std::function<const Controller&(const std::string&)>& policy,
                                   Pool& pool, Ranks& ranks) {
  pool.run(static_cast<int64_t>(parts_.size()), [&](int64_t p) { run_part(parts_[p], policy); });
  double sums[3] = {};   // returns, lengths, episodes
  Statistics all;
  for (const Part& part : parts_) {
    sums[0] += std::accumulate(part.total.begin(), part.total.end(), 0.0);
    sums[1] += static_cast<double>(std::accumulate(part.length.begin(), part.length.end(), int64_t{0}));
    sums[2] += static_cast<double>(part.total.size());
    for (const BatchEnvironment::Statistic& s : part.statistics) add_statistic(all, s);
  }
  ranks.sum(std::span<double>(sums));
  all = over_ranks(std::move(all), ranks);
  Result result{.mean_return = sums[0] / sums[2], .mean_length = sums[1] / sums[2], .statistics = {}};
  for (const BatchEnvironment::Statistic& s : all) {
    if (s.name == "return" || s.name == "length" || s.count == 0)
      continue;  // counted above, one episode per instance
    result.statistics.push_back({s.name, s.sum / static_cast<double>(s.count)});
  }
  return result;
}

}  // namespace trimtab
