#include "envs/token_commit/replay.h"

#include <algorithm>

#include "core/error.h"
#include "engine/diffusion/eos_guard.h"

namespace trimtab {
namespace {

struct Counts {
  int64_t right = 0, picked = 0, stable = 0;   // words
  int64_t commits = 0, known = 0, premature = 0;
};

void count_words(const TracedPass& p, const std::vector<int32_t>& picks, Counts& n) {
  for (size_t i = 0; i < p.state.masked.size(); ++i)
    if (!p.state.masked[i].ends) n.stable += stability(p.state.masked[i], p.final_tokens[i]) == 1;
  for (const int32_t i : picks) {
    TT_CHECK(i >= 0 && i < std::ssize(p.state.masked), "a control picks {} of {} masked positions", i, p.state.masked.size());
    if (p.state.masked[i].ends) continue;
    ++n.picked, n.right += stability(p.state.masked[i], p.final_tokens[i]) == 1;
  }
}
void count_commits(const TracedPass& p, const std::vector<int32_t>& picks, Counts& n) {
  for (const int32_t i : picks) {
    const int label = stability(p.state.masked[i], p.final_tokens[i]);
    ++n.commits, n.known += label >= 0, n.premature += label == 0;
  }
}
double per(int64_t part, int64_t all) { return all > 0 ? static_cast<double>(part) / static_cast<double>(all) : 0; }

}  // namespace

ReplayFigures replay(CommitControl& control, const CommitTraceReader& traces) {
  ReplayFigures out;
  Counts n;
  TracedPass p;
  std::vector<int32_t> picks;
  int64_t answer = -1;
  for (int64_t i = 0; i < traces.passes(); ++i) {
    traces.look(i, p);
    if (p.answer != answer) control.begin(answer = p.answer);
    picks.clear();
    control.choose(p.state, picks);
    count_words(p, picks, n);
    refuse_early_endings(p.state, picks);
    if (picks.empty()) picks.push_back(most_confident(p.state)), ++out.forced;
    count_commits(p, picks, n);
  }
  out.scores = commit_scores(n.right, n.picked, n.stable), out.passes = traces.passes();
  out.premature = per(n.premature, n.known), out.commits_per_pass = per(n.commits, out.passes);
  return out;
}

std::string replay_table(const std::vector<std::pair<std::string, ReplayFigures>>& rows) {
  size_t width = 7;
  for (const auto& [name, figures] : rows) width = std::max(width, name.size());
  std::string out = fmt::format("{:<{}}  precision  recall    F0.5  premature  commits/pass  forced\n", "control", width);
  for (const auto& [name, f] : rows)
    out += fmt::format("{:<{}}  {:9.4f}  {:6.4f}  {:6.4f}  {:9.4f}  {:12.2f}  {:6}\n", name, width, f.scores.precision, f.scores.recall, f.scores.f05, f.premature,
                       f.commits_per_pass, f.forced);
  return out;
}

}  // namespace trimtab
