#include "trainers/language/rollout.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "trainers/language/prompt.h"
#include "trainers/language/shared_work.h"

namespace trimtab {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

LanguageLearner::Metrics metrics_of(const std::vector<SampledGroup>& groups) {
  double replies = 0, reward = 0, outcome = 0, solved = 0, tokens = 0, longest = 0, truncated = 0, formed = 0, flat = 0;
  for (const SampledGroup& g : groups) {
    flat += !g.has_spread();
    for (const SampledReply& r : g.replies) {
      const double length = static_cast<double>(r.tokens.size());
      ++replies, reward += r.reward, outcome += r.verdict.outcome, solved += r.verdict.outcome >= 1, formed += r.verdict.well_formed;
      tokens += length, longest = std::max(longest, length), truncated += r.finish == Finish::kLength;
    }
  }
  const double n = std::max(replies, 1.0);
  return {{"train/reward", reward / n}, {"train/outcome", outcome / n}, {"train/solved", solved / n}, {"train/well_formed", formed / n},
          {"train/response_tokens", tokens / n}, {"train/response_tokens_max", longest}, {"train/truncated", truncated / n},
          {"train/zero_spread", flat / std::max<double>(1.0, static_cast<double>(groups.size()))}, {"train/replies", replies}};
}

// Share of the replies' tokens that an earlier reply of the tree has computed already.
double shared_share(const std::vector<SampledGroup>& groups) {
  double shared = 0, tokens = 0;
  for (const SampledGroup& g : groups)
    for (const SampledReply& r : g.replies) shared += static_cast<double>(r.shared), tokens += static_cast<double>(r.tokens.size());
  return shared / std::max(tokens, 1.0);
}

// A token budget is of all ranks together.
int64_t share_of(int64_t tokens, const Ranks& ranks) { return (tokens + ranks.size() - 1) / ranks.size(); }

}  // namespace

bool SampledGroup::finished() const {
  return std::none_of(replies.begin(), replies.end(), [](const SampledReply& r) { return r.finish == Finish::kUnfinished; });
}
bool SampledGroup::has_spread() const {
  return std::any_of(replies.begin(), replies.end(), [&](const SampledReply& r) { return r.verdict.outcome != replies[0].verdict.outcome; });
}
double SampledGroup::solved_share() const {
  double solved = 0;
  for (const SampledReply& r : replies) solved += r.verdict.outcome >= 1;
  return solved / static_cast<double>(replies.size());
}

LanguageRollout::LanguageRollout(const GroupOptions& options, const LanguageContext& context, const Transformer& sampler, Pool& pool)
    : options_(options),
      context_(context),
      pool_(pool),
      generator_(sampler, {.max_sequences = 256, .token_budget = share_of(options.carry_over.tokens, *context.ranks)}),
      limits_({.start = options.sampling.max_tokens, .low = std::min(options.difficulty.low, options.sampling.max_tokens),
               .high = options.sampling.max_tokens, .factor = options.difficulty.factor, .decay = options.difficulty.decay}) {}

// A pool is gone through in passes, each in an order of its own.
Problem LanguageRollout::next_problem() {
  const uint64_t visit = cursor_++;
  const int64_t size = context_.environment->size(Split::kTrain);
  uint64_t pool = options_.prompt_pool > 0 ? static_cast<uint64_t>(options_.prompt_pool) : static_cast<uint64_t>(size);
  if (size > 0) pool = std::min(pool, static_cast<uint64_t>(size));
  if (pool == 0) return context_.environment->problem(Split::kTrain, context_.seed, (context_.phase << 48) + visit);
  const uint64_t pass = visit / pool;
  if (pass != order_pass_) {
    order_.resize(pool);
    for (uint32_t i = 0; i < pool; ++i) order_[i] = i;
    Draws draws(context_.seed, Stream::kShuffle, static_cast<uint32_t>(context_.phase), static_cast<uint32_t>(pass), 1);
    for (uint64_t i = pool; i > 1; --i) std::swap(order_[i - 1], order_[draws.below(static_cast<uint32_t>(i))]);
    order_pass_ = pass;
  }
  return context_.environment->problem(Split::kTrain, context_.seed, order_[visit % pool]);
}

SampledGroup LanguageRollout::begin_group(int64_t update) {
  SampledGroup group;
  group.key = (context_.phase << 48) + cursor_;
  group.problem = next_problem();
  group.prompt = context_.environment->prompt_tokens(*context_.model->tokenizer, group.problem);
  group.limit = options_.difficulty.enabled ? limits_.limit(group.problem.id) : options_.sampling.max_tokens;
  check_prompt(group.prompt, group.limit, *context_.model->transformer, "training, " + named(group.problem));
  group.update = update;
  group.replies.resize(options_.group_size);
  return group;
}

void LanguageRollout::sample(std::vector<SampledGroup>& groups) {
  std::vector<GenerationRequest> requests;
  std::vector<size_t> group_of;
  for (size_t g = 0; g < groups.size(); ++g) {
    const SampledGroup& group = groups[g];
    const auto open = [&](const SampledReply& r) { return r.finish == Finish::kUnfinished; };
    const bool fresh = std::all_of(group.replies.begin(), group.replies.end(), [&](const SampledReply& r) { return open(r) && r.tokens.empty(); });
    GenerationRequest request;
    request.prompt = group.prompt, request.key = group.key, request.max_tokens = group.limit;
    if (fresh) {
      request.samples = static_cast<int64_t>(group.replies.size());
      requests.push_back(request), group_of.push_back(g);
      continue;
    }
    for (size_t i = 0; i < group.replies.size(); ++i) {   // what is left of a group that was carried over
      if (!open(group.replies[i])) continue;
      request.first_sample = static_cast<int64_t>(i);
      request.begun = {{group.replies[i].tokens, group.replies[i].logprobs}};
      requests.push_back(request), group_of.push_back(g);
    }
  }
  for (Completion& c : generate(requests)) {
    SampledReply& reply = groups[group_of[c.request]].replies[c.sample];
    reply.tokens = std::move(c.tokens), reply.logprobs = std::move(c.logprobs), reply.finish = c.finish;
  }
}

std::vector<Completion> LanguageRollout::generate(std::span<const GenerationRequest> requests) {
  const StopRules stop{context_.environment->stop_ids(*context_.model->tokenizer), context_.environment->stop_strings(),
                       context_.model->tokenizer.get()};
  return complete_over_ranks(requests, *context_.ranks, [&](std::span<const GenerationRequest> own) {
    return generator_.generate(own, options_.sampling, stop, context_.seed, pool_);
  });
}

// Level by level: the first reply of every branch is sampled up to the next branching point, and the others of the branch take over its
// tokens. Draws belong to (sample, position), and the samples of one level have numbers and positions of their own.
void LanguageRollout::sample_tree(std::vector<SampledGroup>& groups) {
  const TreeBlock& tree = options_.tree;
  for (int64_t level = 0; level <= tree.depth; ++level) {
    const int64_t stride = tree.leaves(tree.depth - level);   // replies of one branch
    std::vector<GenerationRequest> requests;
    for (const SampledGroup& g : groups) {
      requests.push_back({.prompt = g.prompt, .samples = options_.group_size / stride, .key = g.key,
                          .max_tokens = level < tree.depth ? tree.branching_point(level, g.limit) : g.limit});
      for (int64_t i = 0; level > 0 && i < options_.group_size; i += stride) requests.back().begun.push_back({g.replies[i].tokens, g.replies[i].logprobs});
    }
    for (Completion& c : generate(requests)) {
      SampledReply* branch = &groups[c.request].replies[c.sample * stride];
      branch->tokens = std::move(c.tokens), branch->logprobs = std::move(c.logprobs), branch->finish = c.finish;
      const auto length = static_cast<int64_t>(branch->tokens.size());
      for (int64_t k = 1; k < stride; ++k)
        branch[k].tokens = branch->tokens, branch[k].logprobs = branch->logprobs, branch[k].finish = branch->finish, branch[k].shared = length;
    }
  }
}

void LanguageRollout::score(std::vector<SampledGroup>& groups) {
  std::vector<Problem> problems;
  std::vector<std::string> texts;
  for (SampledGroup& g : groups) {
    for (SampledReply& r : g.replies) {
      r.text = context_.model->tokenizer->decode(r.tokens, {.skip_special = true});
      problems.push_back(g.problem), texts.push_back(r.text);
    }
  }
  const std::vector<Verdict> verdicts = score_over_ranks(*context_.environment, problems, texts, *context_.ranks);
  size_t i = 0;
  for (SampledGroup& g : groups)
    for (SampledReply& r : g.replies) r.verdict = verdicts[i++];
  std::erase_if(groups, [&](const SampledGroup& g) { return is_refused(g); });
  for (SampledGroup& g : groups) {
    record(g);
    for (SampledReply& r : g.replies) {
      costs_.record(static_cast<double>(r.tokens.size()));
      r.reward = reward_of(g, r);
    }
    if (options_.difficulty.enabled) limits_.record(g.problem.id, g.solved_share());
  }
}

// A reward that is no number ends the run or leaves its group out, in which the others' advantages are relative to it; nothing remembers the group.
bool LanguageRollout::is_refused(const SampledGroup& group) {
  const auto bad = std::find_if(group.replies.begin(), group.replies.end(), [](const SampledReply& r) { return !std::isfinite(r.verdict.outcome); });
  if (bad == group.replies.end()) return false;
  const std::filesystem::path file = context_.run_folder / "nonfinite.json";
  if (context_.ranks->is_main() && !context_.run_folder.empty()) write_file_atomically(file, to_json(group).dump(1));
  const std::string what = fmt::format("the reward of problem {} is {}: give a finite number for every reply; the group is in {}", group.problem.id, bad->verdict.outcome, file.string());
  if (options_.guard.non_finite == "stop") throw RunError(what + "; trainer.guard.non_finite=skip leaves such groups out");
  ++refused_;
  if (context_.ranks->is_main()) fmt::print(stderr, "trimtab: {}; it is left out ({} so far)\n", what, refused_);
  return true;
}

// What rewards are measured by has to know the whole group first.
void LanguageRollout::record(const SampledGroup& group) {
  if (group.problem.effort <= 0) return;
  std::vector<int64_t> lengths;
  for (const SampledReply& r : group.replies) lengths.push_back(static_cast<int64_t>(r.tokens.size()));
  efforts_.record(group.problem.id, lengths);
}

double LanguageRollout::reward_of(const SampledGroup& group, const SampledReply& reply) {
  const ShapingBlock& shaping = options_.reward;
  const auto length = static_cast<int64_t>(reply.tokens.size());
  const double format = reply.verdict.well_formed ? shaping.format : 0;
  double outcome = reply.verdict.outcome;   // the named effort decides on what a right reply earns, not on the format's part
  if (group.problem.effort > 0 && outcome > 0) outcome = efforts_.reward(group.problem.id, true, length, group.problem.effort, outcome);
  double reward = shaping.kind == "hierarchical"
                      ? hierarchical_reward(reply.verdict.well_formed, outcome, format, costs_.score(static_cast<double>(length)), shaping.cost_share)
                      : outcome + format;
  reward = stop_properly(reward, reply.finish == Finish::kStop, shaping.stop_properly);
  if (shaping.overlong_cache > 0) reward += soft_overlong(length, group.limit, shaping.overlong_cache);
  if (group.problem.budget > 0) reward += budget_barrier(length, group.problem.budget, shaping.budget_softness, shaping.budget_weight);
  return reward;
}

// One batch of groups whose replies are all finished; those with open ones go to waiting_, the stale ones are dropped.
std::vector<SampledGroup> LanguageRollout::batch(int64_t update, int64_t version) {
  std::vector<SampledGroup> groups = std::move(waiting_), done;
  waiting_.clear();
  std::erase_if(groups, [&](const SampledGroup& g) { return update - g.update > options_.carry_over.staleness; });
  while (static_cast<int64_t>(groups.size()) < options_.prompts) groups.push_back(begin_group(update));
  options_.tree.enabled() ? sample_tree(groups) : sample(groups);
  for (SampledGroup& g : groups) g.version = version;
  for (SampledGroup& g : groups) (g.finished() ? done : waiting_).push_back(std::move(g));
  score(done);
  return done;
}

LanguageRollout::Result LanguageRollout::collect(int64_t update, int64_t version) {
  const auto start = std::chrono::steady_clock::now();
  Result out;
  std::vector<SampledGroup> all;
  double tokens = 0;
  const int64_t tries = std::max<int64_t>(1, options_.dynamic_sampling);
  int64_t batches = 0;
  while (batches < tries && static_cast<int64_t>(out.groups.size()) < options_.prompts) {
    for (SampledGroup& g : batch(update, version)) {
      for (const SampledReply& r : g.replies) tokens += static_cast<double>(static_cast<int64_t>(r.tokens.size()) - r.shared);
      const bool keep = (options_.dynamic_sampling == 0 || g.has_spread()) && static_cast<int64_t>(out.groups.size()) < options_.prompts;
      if (keep) out.groups.push_back(g);
      all.push_back(std::move(g));
    }
    ++batches;
  }
  if (options_.dynamic_sampling > 0 && out.groups.empty())
    throw RunError(fmt::format("{} batches of {} prompts held no group with both right and wrong replies (solved {:.0f} % of the last, such as '{}'); choose "
                               "easier or harder problems in env, a larger group_size, or a better model to start from",
                               batches, options_.prompts, all.empty() ? 0.0 : 100 * all.back().solved_share(),
                               all.empty() ? std::string() : all.back().problem.prompt.substr(0, 60)));
  out.metrics = metrics_of(all);
  const double seconds = seconds_since(start);
  out.metrics.push_back({"train/batches", static_cast<double>(batches)});
  if (options_.tree.enabled()) out.metrics.push_back({"train/tree_shared", shared_share(all)});
  out.metrics.push_back({"train/waiting", static_cast<double>(waiting_.size())});
  if (options_.guard.non_finite == "skip") out.metrics.push_back({"guard/refused_groups", static_cast<double>(refused_)});
  out.metrics.push_back({"time/rollout_s", seconds});
  out.metrics.push_back({"time/rollout_tokens_per_s", tokens / std::max(seconds, 1e-9)});
  return out;
}

nlohmann::json to_json(const SampledGroup& g) {
  nlohmann::json replies = nlohmann::json::array();
  for (const SampledReply& r : g.replies)
    replies.push_back({{"tokens", r.tokens}, {"logprobs", r.logprobs}, {"shared", r.shared}, {"finish", static_cast<int>(r.finish)}, {"text", r.text},
                       {"outcome", r.verdict.outcome}, {"well_formed", r.verdict.well_formed}, {"reward", r.reward}});
  return {{"id", g.problem.id}, {"prompt", g.problem.prompt}, {"answer", g.problem.answer}, {"tier", g.problem.tier}, {"effort", g.problem.effort}, {"budget", g.problem.budget},
          {"tokens", g.prompt}, {"key", g.key}, {"limit", g.limit}, {"update", g.update}, {"version", g.version}, {"replies", replies}};
}

SampledGroup sampled_group_from(const nlohmann::json& json) {
  SampledGroup g;
  g.problem = {.id = json.at("id"), .prompt = json.at("prompt"), .answer = json.at("answer"), .tier = json.at("tier"), .effort = json.value("effort", 0.0), .budget = json.value("budget", int64_t{0})};
  g.prompt = json.at("tokens").get<std::vector<int32_t>>();
  g.key = json.at("key"), g.limit = json.at("limit"), g.update = json.at("update"), g.version = json.value("version", g.update);
  for (const nlohmann::json& r : json.at("replies")) {
    SampledReply reply;
    reply.tokens = r.at("tokens").get<std::vector<int32_t>>();
    reply.logprobs = r.at("logprobs").get<std::vector<float>>();
    reply.shared = r.value("shared", int64_t{0});
    reply.finish = static_cast<Finish>(r.at("finish").get<int>());
    reply.text = r.value("text", "");
    reply.verdict = {.outcome = r.value("outcome", 0.0), .well_formed = r.value("well_formed", false)};
    reply.reward = r.value("reward", 0.0);
    g.replies.push_back(std::move(reply));
  }
  return g;
}

void LanguageRollout::save(Checkpoint& checkpoint) const {
  nlohmann::json waiting = nlohmann::json::array();
  for (const SampledGroup& g : waiting_) waiting.push_back(to_json(g));
  checkpoint.counters["rollout"] = {{"cursor", cursor_}, {"waiting", waiting}, {"limits", limits_.to_json()}, {"costs", costs_.to_json()}, {"efforts", efforts_.to_json()}, {"refused", refused_}};
}

void LanguageRollout::load(const Checkpoint& checkpoint) {
  const nlohmann::json& json = checkpoint.counters.at("rollout");
  cursor_ = json.at("cursor").get<uint64_t>();
  limits_.restore(json.at("limits"));
  costs_ = CostHistory::from_json(json.at("costs"));
  efforts_ = EffortControl::from_json(json.value("efforts", nlohmann::json::object()));
  refused_ = json.value("refused", int64_t{0});
  waiting_.clear();
  for (const nlohmann::json& w : json.at("waiting")) waiting_.push_back(sampled_group_from(w));
}

}  // namespace trimtab
