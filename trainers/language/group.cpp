// Group-relative RL of a language model: GRPO and its relatives, as choices over the seams that controllers use too.
//
// One update: a rollout (rollout.h), advantages per reply spread over its tokens, minibatches of whole groups, and for each the clipped
// surrogate over packed tries with the prompt computed once (packing.h, scorer.h). The sampler's log-probabilities are the old ones:
// it is our own, in the trainer's precision, and how far it is from the trainer is measured in the first minibatch of every update.
#include <ATen/ATen.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "core/append_file.h"
#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/registry.h"
#include "core/text.h"
#include "policies/language/verify_prefix.h"
#include "trainers/advantage/smooth.h"
#include "trainers/language/async_rollouts.h"
#include "trainers/language/rollout.h"
#include "trainers/language/scorer.h"
#include "trainers/language/tree.h"
#include "trainers/seams/preset.h"

namespace trimtab {
namespace {

// All rows (tokens of replies) of one update.
struct UpdateRows {
  std::vector<int64_t> sequence_begin = {0};   // [replies + 1]
  std::vector<int32_t> sequence, group;        // [rows] the row's reply; [replies] the reply's group
  std::vector<float> logp_sampler, logp_old, advantage, surrogate_weight, logp_reference;
  std::vector<uint8_t> mask, correct;          // [rows]
  int64_t rows() const { return sequence_begin.back(); }
  bool has_advantage(int64_t reply) const {
    return std::any_of(advantage.begin() + sequence_begin[reply], advantage.begin() + sequence_begin[reply + 1], [](float a) { return a != 0; });
  }
};

std::vector<double> rewards_of(const SampledGroup& group) {
  std::vector<double> out;
  for (const SampledReply& r : group.replies) out.push_back(r.reward);
  return out;
}

std::vector<SharedReply> shape_of(const SampledGroup& group) {
  std::vector<SharedReply> out;
  for (const SampledReply& r : group.replies) out.push_back({static_cast<int64_t>(r.tokens.size()), r.shared});
  return out;
}

UpdateRows rows_of(const std::vector<SampledGroup>& groups, bool filter) {
  UpdateRows out;
  for (size_t g = 0; g < groups.size(); ++g) {
    for (const SampledReply& r : groups[g].replies) {
      const auto n = static_cast<int64_t>(r.tokens.size());
      out.sequence.insert(out.sequence.end(), n, static_cast<int32_t>(out.group.size()));
      out.group.push_back(static_cast<int32_t>(g));
      out.sequence_begin.push_back(out.rows() + n);
      out.logp_sampler.insert(out.logp_sampler.end(), r.logprobs.begin(), r.logprobs.end());
      out.mask.insert(out.mask.end(), n, !(filter && r.finish == Finish::kLength));
      out.correct.insert(out.correct.end(), n, r.verdict.outcome >= 1);
    }
  }
  out.logp_old = out.logp_sampler;
  return out;
}

double peak_gib() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
}

// Keeps the whole lines of samples.jsonl from before an update of a phase.
void drop_later_samples(const std::filesystem::path& file, uint64_t phase, int64_t update) {
  std::string kept;
  if (std::filesystem::exists(file)) {
    std::istringstream lines(read_file(file));
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
      if (!json.is_object() || !json.contains("phase") || !json.contains("update")) continue;   // cut short by a kill
      if (std::pair(json["phase"].get<uint64_t>(), json["update"].get<int64_t>()) < std::pair(phase, update)) kept += line + "\n";
    }
  }
  write_file_atomically(file, kept);
}

class GroupLearner final : public LanguageLearner {
 public:
  GroupLearner(GroupOptions options, const LanguageContext& context)
      : options_(std::move(options)),
        context_(context),
        rollout_(options_.async.staleness > 0 ? nullptr : std::make_unique<LanguageRollout>(options_, context_, *context.model->transformer, *context.pool)),
        async_(options_.async.staleness > 0 ? std::make_unique<AsyncRollouts>(options_, context_) : nullptr),
        scorer_(*context.model->transformer, {.shards = options_.shards, .forward = {.recompute_layers = options_.checkpoint_activations}, .compute = context.compute, .ranks = context.ranks}),
        optimiser_(*context.model->transformer, options_.adam.options(), options_.guard, *context.ranks) {
    if (options_.seams.reference_kl > 0) reference_ = std::make_unique<LanguageModel>(context.load_start());
  }

  Metrics update(int64_t update, double progress) override {
    LanguageRollout::Result rollout = async_ ? async_->collect(update) : rollout_->collect(update, update);
    log_samples(update, rollout.groups);
    const auto start = std::chrono::steady_clock::now();
    UpdateRows rows = rows_of(rollout.groups, options_.reward.filter_truncated);
    const double used = set_advantages(rollout.groups, rows);
    watch_patience(used, rollout.groups);
    score_before(rollout.groups, rows);
    Sums sums;
    const double lr = options_.schedule.at(options_.lr, progress);
    for (int64_t epoch = 0; epoch < options_.epochs; ++epoch)
      for (const std::vector<int64_t>& part : minibatches(static_cast<int64_t>(rollout.groups.size()), update, epoch))
        step(rollout.groups, part, rows, lr, sums);
    return metrics(std::move(rollout.metrics), sums, used, lr, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }

  void save(Checkpoint& checkpoint) override {
    optimiser_.save(checkpoint);
    async_ ? async_->save(checkpoint) : rollout_->save(checkpoint);
    checkpoint.counters["smooth"] = smooth_.to_json();
    checkpoint.counters["idle"] = idle_;
  }
  void load(const Checkpoint& checkpoint) override {
    optimiser_.load(checkpoint);
    async_ ? async_->load(checkpoint) : rollout_->load(checkpoint);
    smooth_ = SmoothStatistics::from_json(checkpoint.counters.at("smooth"));
    idle_ = checkpoint.counters.at("idle").get<int64_t>();
    verified_ = true;
  }
  void settle() override {
    if (async_) async_->settle();
  }
  int64_t steps() const override { return options_.steps; }
  double temperature() const override { return options_.sampling.temperature; }

 private:
  struct Sums {
    PolicyLossSums loss;
    MismatchSums mismatch;
    double grad_norm = 0, tokens = 0;
    int64_t steps = 0;
    int64_t bad_row = -1;   // whose log-probability is not finite
  };

  // Advantage of every row: that of its reply, or of its segment. Returns the share of replies that have one.
  double set_advantages(const std::vector<SampledGroup>& groups, UpdateRows& rows) {
    rows.advantage.assign(rows.rows(), 0);
    size_t first = 0, used = 0;   // the group's first reply
    for (const SampledGroup& g : groups) {
      const auto give = [&](int64_t reply, int64_t begin, int64_t end, double advantage) {
        const auto row = rows.advantage.begin() + rows.sequence_begin[first + reply];
        std::fill(row + begin, row + end, static_cast<float>(advantage));
      };
      if (options_.tree.siblings()) {
        sibling_advantages(shape_of(g), rewards_of(g), options_.seams.group_baseline(), options_.seams.std_epsilon, give);
      } else {
        const std::vector<double> a = advantages_of(g);
        for (size_t i = 0; i < a.size(); ++i) give(static_cast<int64_t>(i), 0, static_cast<int64_t>(g.replies[i].tokens.size()), a[i]);
      }
      for (size_t end = first + g.replies.size(); first < end; ++first) used += rows.has_advantage(static_cast<int64_t>(first));
    }
    const size_t reply = first;
    const std::string& where = options_.seams.normalise_advantage;
    if (where != "none" && used > 0)
      whiten(rows.rows(), rows.mask.data(), rows.advantage.data(), one_process(), where == "batch_rows" ? Whitening::kBessel : Whitening::kPopulation);
    if (options_.seams.correct_boost > 0) boost_correct(rows.rows(), rows.correct.data(), options_.seams.correct_boost, rows.advantage.data());
    return reply == 0 ? 0 : static_cast<double>(used) / static_cast<double>(reply);
  }

  std::vector<double> advantages_of(const SampledGroup& group) {
    const auto n = static_cast<int64_t>(group.replies.size());
    const std::vector<double> rewards = rewards_of(group);
    std::vector<double> out(n);
    const std::vector<uint8_t> all(n, 1);
    if (options_.seams.smooth()) {
      const SmoothVisit visit = smooth_.visit(group.problem.id, group_moments<double>(n, 1, rewards.data(), nullptr));
      for (int64_t i = 0; i < n; ++i) out[i] = visit.advantage(rewards[i]);
    } else {
      group_advantage(options_.seams.group_baseline(), n, 1, rewards.data(), all.data(), out.data(), options_.seams.std_epsilon);
    }
    return out;
  }

  void watch_patience(double used, const std::vector<SampledGroup>& groups) {
    idle_ = used > 0 ? 0 : idle_ + 1;
    if (idle_ < options_.patience) return;
    throw RunError(fmt::format("{} updates in a row had no group with different rewards (problems such as '{}'): there is nothing to learn from; choose easier or "
                               "harder problems in env, a larger group_size, or a better model to start from", idle_,
                               groups.empty() ? std::string() : groups[0].problem.prompt.substr(0, 60)));
  }

  // What needs a forward before the first step: a correction for the sampler, a reference model.
  void score_before(const std::vector<SampledGroup>& groups, UpdateRows& rows) {
    rows.surrogate_weight.assign(rows.rows(), 1);
    std::vector<int64_t> all(groups.size());
    std::iota(all.begin(), all.end(), 0);
    const auto score_with = [&](Scorer& scorer, std::vector<float>& into) {
      into.assign(rows.rows(), 0);
      scorer.score(pack(packed(groups, all, rows, false), packing()), options_.sampling.temperature,
                   [&](int64_t, const Scorer::Rows& r) { for (size_t k = 0; k < r.row.size(); ++k) into[r.row[k]] = r.logp[k]; }, *context_.pool);
      context_.ranks->sum(std::span<float>(into));   // zero where it is another rank's
    };
    if (options_.seams.mismatch.kind != "none") {
      score_with(scorer_, rows.logp_old);
      mismatch_weights(options_.seams.mismatch.options(), rows.sequence_begin, rows.logp_old.data(), rows.logp_sampler.data(), rows.mask.data(),
                       rows.surrogate_weight.data());
    }
    if (!reference_) return;
    Scorer reference(*reference_->transformer, {.shards = options_.shards, .compute = context_.compute, .ranks = context_.ranks});
    score_with(reference, rows.logp_reference);
  }

  std::vector<std::vector<int64_t>> minibatches(int64_t groups, int64_t update, int64_t epoch) const {
    std::vector<int64_t> order(groups);
    std::iota(order.begin(), order.end(), 0);
    Draws draws(context_.seed, Stream::kShuffle, static_cast<uint32_t>(context_.phase), static_cast<uint32_t>(update), static_cast<uint32_t>(2 + epoch));
    for (int64_t i = groups; i > 1; --i) std::swap(order[i - 1], order[draws.below(static_cast<uint32_t>(i))]);
    const int64_t parts = std::min(options_.minibatches, groups);
    std::vector<std::vector<int64_t>> out;
    for (int64_t p = 0; p < parts; ++p) out.emplace_back(order.begin() + p * groups / parts, order.begin() + (p + 1) * groups / parts);
    return out;
  }

  PackingOptions packing() const {
    return {.token_budget = options_.token_budget, .at_least = options_.shards, .shared_prefix = options_.shared_prefix};
  }
  // Replies without any effect on the gradient are left out when `only_useful`.
  std::vector<PackedGroup> packed(const std::vector<SampledGroup>& groups, const std::vector<int64_t>& part, const UpdateRows& rows, bool only_useful) const {
    const bool everywhere = options_.seams.entropy > 0 || options_.seams.kl_coef > 0 || options_.seams.reference_kl > 0;
    std::vector<PackedGroup> out;
    for (const int64_t g : part) {
      PackedGroup packed{.prompt = groups[g].prompt, .replies = {}};
      bool any = false;
      for (size_t i = 0; i < groups[g].replies.size(); ++i) {
        const int64_t reply = g * options_.group_size + static_cast<int64_t>(i), first = rows.sequence_begin[reply];
        const auto n = static_cast<int64_t>(groups[g].replies[i].tokens.size());
        const bool useful = n > 0 && rows.mask[first] && (everywhere || rows.has_advantage(reply));
        const int64_t scored = useful || !only_useful ? n : 0;
        packed.replies.push_back({groups[g].replies[i].tokens, first, 0, scored, groups[g].replies[i].shared});
        any = any || scored > 0;
      }
      if (any) out.push_back(std::move(packed));
    }
    return out;
  }

  // Weights of the rows of one minibatch: its normaliser counts every row that is not masked, also those left out of the packing.
  std::vector<float> weights(const std::vector<int64_t>& part, const UpdateRows& rows) const {
    std::vector<uint8_t> mask(rows.rows(), 0);
    for (const int64_t g : part) {
      const int64_t first = rows.sequence_begin[g * options_.group_size], end = rows.sequence_begin[(g + 1) * options_.group_size];
      std::copy(rows.mask.begin() + first, rows.mask.begin() + end, mask.begin() + first);
    }
    std::vector<float> out(rows.rows());
    row_weights(options_.seams.aggregation_kind(), options_.seams.aggregation_constant, std::span<const uint8_t>(mask), std::span<const int32_t>(rows.sequence),
                static_cast<int64_t>(rows.group.size()), std::span<const int32_t>(rows.group), static_cast<int64_t>(rows.group.size()) / options_.group_size, out.data());
    return out;
  }

  void step(const std::vector<SampledGroup>& groups, const std::vector<int64_t>& part, const UpdateRows& rows, double lr, Sums& sums) {
    const std::vector<PackedGroup> chosen = packed(groups, part, rows, true);
    if (chosen.empty()) return;
    const std::vector<MicroBatch> batches = pack(chosen, packing());
    verify(chosen);
    const std::vector<float> weight = weights(part, rows);
    std::vector<Sums> each(batches.size());
    const bool measure = sums.steps == 0;   // the weights are still those that sampled (async: staleness updates later)
    scorer_.backward(batches, options_.sampling.temperature,
                     [&](int64_t i, const Scorer::Rows& r) { each[i] = loss_of(r, rows, weight, measure); }, *context_.pool);
    scorer_.share(each);
    for (size_t i = 0; i < each.size(); ++i) {
      sums.loss.add(each[i].loss), sums.mismatch.add(each[i].mismatch);
      sums.tokens += static_cast<double>(batches[i].tokens.numel());
    }
    double loss = 0;
    int64_t bad = -1;
    for (const Sums& s : each) {
      loss += s.loss.loss;
      if (bad < 0) bad = s.bad_row;
    }
    if (bad >= 0) loss = NAN;   // a clipped ratio may hide it
    sums.grad_norm += optimiser_.step(lr, options_.max_grad_norm, loss, [&] { return dump_groups(part, groups, rows, bad); });
    ++sums.steps;
  }

  // The minibatch, to RUN/nonfinite.json; its name, and the token whose log-probability is not finite where that is what is wrong.
  std::string dump_groups(const std::vector<int64_t>& part, const std::vector<SampledGroup>& groups, const UpdateRows& rows, int64_t bad) const {
    nlohmann::json dump = nlohmann::json::array();
    for (const int64_t g : part)
      for (const SampledReply& r : groups[g].replies)
        dump.push_back({{"prompt", groups[g].prompt}, {"tokens", r.tokens}, {"logprobs", r.logprobs}, {"reward", r.reward}});
    const std::filesystem::path file = context_.run_folder / "nonfinite.json";
    write_file_atomically(file, dump.dump(1));
    if (bad < 0) return file.string();
    const int64_t reply = rows.sequence[bad];
    return fmt::format("{} (the log-probability of token {} of reply {} to '{}')", file.string(), bad - rows.sequence_begin[reply], reply % options_.group_size,
                       groups[rows.group[reply]].problem.id);
  }

  Sums loss_of(const Scorer::Rows& r, const UpdateRows& rows, const std::vector<float>& weight, bool measure) const {
    const size_t n = r.row.size();
    std::vector<float> old(n), advantage(n), w(n), surrogate(n), reference(rows.logp_reference.empty() ? 0 : n), sampler(n);
    std::vector<int64_t> begin;
    for (size_t k = 0; k < n; ++k) {
      const int64_t row = r.row[k];
      old[k] = rows.logp_old[row], advantage[k] = rows.advantage[row], w[k] = weight[row], surrogate[k] = rows.surrogate_weight[row];
      sampler[k] = rows.logp_sampler[row];
      if (!reference.empty()) reference[k] = rows.logp_reference[row];
      if (k == 0 || rows.sequence[row] != rows.sequence[r.row[k - 1]]) begin.push_back(static_cast<int64_t>(k));
    }
    const auto sequences = static_cast<int64_t>(begin.size());
    begin.push_back(static_cast<int64_t>(n));
    Sums out;
    for (size_t k = n; k-- > 0;)
      if (!std::isfinite(r.logp[k])) out.bad_row = r.row[k];
    out.loss = policy_loss<float>({.rows = static_cast<int64_t>(n), .logp = r.logp.data(), .logp_old = old.data(), .entropy = r.entropy.data(),
                                   .advantage = advantage.data(), .weight = w.data(), .logp_ref = reference.empty() ? nullptr : reference.data(),
                                   .surrogate_weight = surrogate.data(), .sequence_begin = begin.data(), .num_sequences = sequences},
                                  options_.seams.loss_options(), r.d_logp.data(), r.d_entropy.data());
    if (measure) {
      const std::vector<uint8_t> mask(n, 1);
      std::vector<float> unused(n);
      out.mismatch = mismatch_weights<float>(options_.seams.mismatch.options(), begin, r.logp.data(), sampler.data(), mask.data(), unused.data());
    }
    return out;
  }

  void verify(const std::vector<PackedGroup>& chosen);

  Metrics metrics(Metrics out, const Sums& sums, double used, double lr, double seconds) const {
    const double n = std::max<double>(1, static_cast<double>(sums.steps));
    const auto add = [&](const char* name, double value) { out.push_back({name, value}); };
    add("train/used_replies", used);
    add("train/loss", sums.loss.loss / n);
    add("train/entropy", sums.loss.entropy / n);
    add("train/clipped_low", sums.loss.clipped_low / n);
    add("train/clipped_high", sums.loss.clipped_high / n);
    add("train/clipped_dual", sums.loss.clipped_dual / n);
    add("train/kl", sums.loss.kl / n);
    if (reference_) add("train/reference_kl", sums.loss.reference_kl / n);
    add("train/mismatch", sums.mismatch.mean());
    add("train/mismatch_max", sums.mismatch.largest);
    if (options_.seams.mismatch.kind != "none") add("train/mismatch_masked", sums.mismatch.masked_share());
    add("train/grad_norm", sums.grad_norm / n);
    add("train/lr", lr);
    add("time/train_s", seconds);
    add("time/train_tokens_per_s", sums.tokens / std::max(seconds, 1e-9));
    add("memory/peak_gib", peak_gib());
    return optimiser_.with_guard(std::move(out));
  }

  void log_samples(int64_t update, const std::vector<SampledGroup>& groups);

  GroupOptions options_;
  LanguageContext context_;
  std::unique_ptr<LanguageRollout> rollout_;
  std::unique_ptr<AsyncRollouts> async_;   // in place of it
  Scorer scorer_;
  FlatOptimiser optimiser_;
  std::unique_ptr<LanguageModel> reference_;
  SmoothStatistics smooth_;
  int64_t idle_ = 0;       // updates in a row without anything to learn from
  bool verified_ = false;
  bool logged_ = false;    // samples, since this process began
};

// Samples people read: the first two replies of an update's first group, in samples.jsonl. A run that goes on drops what it had logged of
// updates that it makes again.
void GroupLearner::log_samples(int64_t update, const std::vector<SampledGroup>& groups) {
  if (context_.run_folder.empty() || groups.empty() || !context_.ranks->is_main()) return;
  const std::filesystem::path file = context_.run_folder / "samples.jsonl";
  if (!logged_) drop_later_samples(file, context_.phase, update);
  logged_ = true;
  const SampledGroup& g = groups[0];
  std::string lines;
  for (size_t i = 0; i < std::min<size_t>(2, g.replies.size()); ++i)
    lines += nlohmann::json({{"phase", context_.phase}, {"update", update}, {"prompt", g.problem.prompt}, {"reply", g.replies[i].text}, {"reward", g.replies[i].reward}}).dump() + "\n";
  AppendFile(file).append(lines);
}

// Both forwards of the first group, compared (policies/language/verify_prefix.h).
void GroupLearner::verify(const std::vector<PackedGroup>& chosen) {
  const bool wanted = options_.verify_shared_prefix == "always" || (options_.verify_shared_prefix == "first" && !verified_);
  if (!options_.shared_prefix || !wanted) return;
  verified_ = true;
  const std::vector<MicroBatch> batch = pack(std::span(chosen).first(1), {.token_budget = INT64_MAX / 2});
  verify_shared_prefix(scorer_.computing(), {.tokens = batch[0].tokens, .trie = batch[0].trie, .rows = batch[0].scored,
                                             .d_logp = at::ones({batch[0].scored.size(0)}), .d_entropy = {}, .temperature = options_.sampling.temperature});
}

GroupOptions read(const Config& trainer) {
  GroupOptions options;
  trainer.read(options, {"preset"});
  return options;
}

LanguageBatch batch_of(const GroupOptions& o) {
  return {.prompts = o.prompts, .replies = o.group_size, .max_tokens = o.sampling.max_tokens, .tries = std::max<int64_t>(1, o.dynamic_sampling),
          .minibatches = o.minibatches, .epochs = o.epochs, .token_budget = o.token_budget, .shards = o.shards, .shared_prefix = o.shared_prefix,
          .reference = o.seams.reference_kl > 0};
}

TT_REGISTER(LanguageLearnerEntry, group,
            {.name = "group",
             .doc = "group-relative RL from verifiable rewards",
             .make = [](const Config& trainer, const LanguageContext& context) -> std::unique_ptr<LanguageLearner> {
               return std::make_unique<GroupLearner>(read(trainer), context);
             },
             .resolved = [](const Config& trainer) { return yaml_of(read(trainer)); },
             .steps = [](const Config& trainer) { return read(trainer).steps; },
             .batch = [](const Config& trainer) { return batch_of(read(trainer)); },
             .help =
                 [](const std::string& preset) {
                   GroupOptions options;
                   language_preset(Registry<TrainerPreset>::instance().get(preset, "trainer preset")).read(options);
                   return help_of(options);
                 }});

}  // namespace
}  // namespace trimtab
