// The loop of a language run: phases, updates, evaluations on validation problems, checkpoints, and going on from one.
//
// Beside its checkpoints a run keeps `model/`, a Hugging Face folder of the best model so far (of the latest, where nothing is
// evaluated), which `generate`, `eval`, another run's `policy.model` and transformers read. Where an adapter trains, it is merged in
// there and lies alone in `adapter/`, as PEFT has it.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <malloc.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <optional>

#include "core/checkpoint_writer.h"
#include "core/error.h"
#include "core/files.h"
#include "core/launch.h"
#include "core/run_folder.h"
#include "trainers/language/device_sum.h"
#include "trainers/language/evaluate.h"
#include "trainers/language/job.h"
#include "trainers/language/plan.h"
#include "trainers/run/family.h"

namespace trimtab {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr uint64_t kEvaluationSeed = 20240229;   // the same validation problems and draws in every run

std::string_view bytes_of(const at::Tensor& flat) { return {reinterpret_cast<const char*>(flat.data_ptr<float>()), static_cast<size_t>(flat.numel()) * sizeof(float)}; }

class LanguageRun {
 public:
  LanguageRun(const Config& config, const TrainHooks& hooks)
      : hooks_(hooks), ranks_(*hooks.ranks), job_(config), pool_(thread_count(job_.run.threads)), model_(job_.make_model()),
        folder_(hooks.run_folder / "checkpoints"), writer_(folder_), resumed_(folder_.load_latest()) {
    at::set_num_threads(1);   // threads are ours, so that sums have one order (scorer.h)
    // Activations come and go by the megabyte: kept by the allocator, their pages are not mapped anew each time (a tenth of an update).
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    expect_same_on_all(ranks_, "checkpoint to go on from", resumed_ ? fmt::format("step {}", resumed_->step) : "none");
    if (resumed_) restore();
    if (ranks_.size() > 1) expect_same_on_all(ranks_, "model", hash_bytes(bytes_of(model_.transformer->trainable())));
    if (!ranks_.is_main()) return;
    if (resumed_) folder_.go_on_from(resumed_->step, best_step_ == resumed_->step);
    if (hooks.on_start) hooks.on_start(steps_);
    metrics_ = std::make_unique<Metrics>(hooks.run_folder, steps_);
    if (hooks.progress) progress_ = std::make_unique<Progress>(job_.run.name, job_.total_steps(), "updates");
  }

  TrainResult run() {
    const auto start = std::chrono::steady_clock::now();
    const int64_t first = steps_;
    while (phase_ < static_cast<int64_t>(job_.phases.size())) run_phase(job_.phases[phase_]);
    writer_.finish();
    if (metrics_) metrics_->flush();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {.steps = steps_, .seconds = seconds, .steps_per_second = static_cast<double>(steps_ - first) / std::max(seconds, 1e-9),
            .last_return = last_reward_, .best_score = best_score_, .best_step = best_step_, .resumed = resumed_.has_value()};
  }

 private:
  void restore() {
    const std::span<const float> saved = resumed_->state.at("parameters").as_f32();
    const at::Tensor& flat = model_.transformer->trainable();
    if (static_cast<int64_t>(saved.size()) != flat.numel())
      throw CheckpointError(fmt::format("the checkpoint has {} parameters, the model of this configuration {}", saved.size(), flat.numel()));
    std::copy(saved.begin(), saved.end(), flat.data_ptr<float>());
    const nlohmann::json& c = resumed_->counters;
    steps_ = resumed_->step;
    phase_ = c.at("phase").get<int64_t>();
    phase_steps_ = c.at("phase_steps").get<int64_t>();
    best_step_ = c.at("best_step").get<int64_t>();
    if (best_step_ >= 0) best_score_ = c.at("best_score").get<double>();
    last_reward_ = c.value("last_return", 0.0);   // not in checkpoints of before 2026-11
  }

  void begin(const LanguagePhase& phase) {
    environment_ = job_.make_environment(phase.env);
    learner_ = learner_of(phase.trainer)
                   .make(phase.trainer, {.model = &model_, .environment = environment_.get(), .pool = &pool_,
                                         .seed = static_cast<uint64_t>(job_.run.seed), .phase = static_cast<uint64_t>(phase_),
                                         .run_folder = hooks_.run_folder, .compute = on_own_device(job_.compute(), ranks_), .load_start = [this] { return job_.make_model(); }, .ranks = &ranks_,
                                         .start_name = job_.policy.model});
    problems_.clear();
    const int64_t size = environment_->size(Split::kValidation);
    const int64_t wanted = size > 0 || environment_->size(Split::kTrain) > 0 ? std::min(job_.eval.episodes, size) : job_.eval.episodes;
    for (int64_t i = 0; i < wanted; ++i) problems_.push_back(environment_->problem(Split::kValidation, kEvaluationSeed, i));
    if (resumed_ && phase_steps_ > 0 && steps_ == resumed_->step) {
      learner_->load(*resumed_);
      return;
    }
    best_score_ = kNone;   // scores of different phases may be of different environments
    best_step_ = -1;
  }

  void run_phase(const LanguagePhase& phase) {
    begin(phase);
    if (steps_ == 0 && !job_.policy.model.empty()) evaluate_start();
    for (bool last = false; !last;) {
      const auto start = std::chrono::steady_clock::now();
      ranks_.during(fmt::format("update {}", steps_ + 1));
      LanguageLearner::Metrics values =
          learner_->update(phase_steps_, static_cast<double>(phase_steps_) / static_cast<double>(phase.options.steps));
      values.push_back({"time/update_s", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
      values.push_back({"phase", static_cast<double>(phase_)});
      ++phase_steps_, ++steps_;
      last = phase_steps_ >= phase.options.steps;
      bool improved = false;
      if (last || steps_ % job_.eval.every == 0) improved = evaluate(values, last);
      report(values);
      if (last) ++phase_, phase_steps_ = 0;
      double asked = interrupted() ? 1 : 0;   // of any rank
      ranks_.sum(std::span<double>(&asked, 1));
      const bool stop = asked > 0;
      if (improved || last || stop || steps_ % job_.checkpoint.every == 0) save(improved);
      if (stop && phase_ < static_cast<int64_t>(job_.phases.size())) {
        if (metrics_) metrics_->flush();
        writer_.finish();
        ranks_.barrier();   // mpirun ends all ranks when the first one leaves: not before the checkpoint is whole
        throw Interrupted(fmt::format("stopped at update {}; the same command goes on from there", steps_));
      }
    }
  }

  // Evaluation before training: what the figures after it are compared with. Where every update is worse, the best model is the start.
  void evaluate_start() {
    LanguageLearner::Metrics values;
    bool last = false;
    if (evaluate(values, last) && ranks_.is_main()) model_of_now()();
    if (values.empty()) return;
    if (metrics_) metrics_->log(0, values);
    if (hooks_.on_metrics) hooks_.on_metrics(0, values);
  }

  // True when the score, sampled reward (or what the learner judges by, or the greedy accuracy the phase waits for), is the best of the phase. Sets `last` when the phase's threshold is reached.
  bool evaluate(LanguageLearner::Metrics& values, bool& last) {
    if (problems_.empty()) return false;
    learner_->settle();
    std::optional<double> judged;
    for (auto& own : learner_->evaluate()) {
      if (own.first == learner_->judged_by()) judged = own.second;
      values.push_back(std::move(own));
    }
    const auto sampled = evaluate_at(learner_->temperature(), job_.eval.samples);
    values.push_back({"eval/reward", sampled.mean_outcome()});
    values.push_back({"eval/accuracy", sampled.accuracy()});
    values.push_back({"eval/tokens", sampled.mean_tokens()});
    values.push_back({"eval/truncated", sampled.truncated_share()});
    double score = judged.value_or(sampled.mean_outcome());
    if (job_.eval.greedy || learner_->until_accuracy() > 0) {
      const auto greedy = learner_->temperature() == 0 && job_.eval.samples == 1 ? sampled : evaluate_at(0, 1);
      values.push_back({"eval/greedy_accuracy", greedy.accuracy()});
      values.push_back({"eval/greedy_tokens", greedy.mean_tokens()});
      if (learner_->until_accuracy() > 0) {   // what the phase is after
        score = greedy.accuracy();
        last = last || score >= learner_->until_accuracy();
      }
    }
    if (score < best_score_ || (score == best_score_ && best_step_ > 0)) return false;   // a tie with the start goes to what was trained
    best_score_ = score;
    best_step_ = steps_;
    return true;
  }

  LanguageEvaluation evaluate_at(double temperature, int64_t samples) {
    const int64_t own = learner_->answer_tokens(), most = own > 0 ? own : job_.eval.max_tokens;
    return evaluate_language(model_, *environment_,
                             {.problems = problems_, .samples = samples,
                              .sampling = {.max_tokens = most, .temperature = temperature}, .seed = kEvaluationSeed, .progress = {}, .ranks = &ranks_},
                             pool_);
  }

  void report(const LanguageLearner::Metrics& values) {
    if (metrics_) metrics_->log(steps_, values);
    std::string status;
    for (const auto& [name, value] : values) {
      if (name == "train/reward") last_reward_ = value;
      if (name == "train/loss") status += fmt::format("loss {:.4f} ", value);
      if (name == "train/reward") status += fmt::format("reward {:.3f} ", value);
      if (name == "train/solved") status += fmt::format("solved {:.3f} ", value);
      if (name == "train/response_tokens") status += fmt::format("tokens {:.1f} ", value);
      if (name == "eval/accuracy") last_eval_ = fmt::format("eval {:.3f}", value);
    }
    if (progress_) progress_->update(steps_, status + last_eval_);
    if (hooks_.on_metrics) hooks_.on_metrics(steps_, values);
  }

  // Writes the model of now, whatever has become of it meanwhile. The tokenizer does not change.
  std::function<void()> model_of_now() const {
    const auto copy = std::make_shared<Transformer>(model_.transformer->copy_as(model_.transformer->flat().options()));
    return [this, copy] {
      at::set_num_threads(1);   // of this thread: merging an adapter gives the same bits
      save_model(*copy, *model_.tokenizer, hooks_.run_folder / "model");
      if (copy->adapter()) save_adapter(*copy, hooks_.run_folder / "adapter");
    };
  }

  void save(bool best) {
    for (const auto& [name, parameter] : model_.transformer->trainable_parameters())
      if (!parameter.detach().isfinite().all().item<bool>())
        throw RunError(fmt::format("the weight '{}' is not finite after update {}: no checkpoint is written, the last one stays; lower trainer.lr and run again", name, steps_));
    Checkpoint checkpoint;
    checkpoint.step = steps_;
    const at::Tensor& flat = model_.transformer->trainable();
    checkpoint.state.tensors["parameters"] = Tensor::f32({flat.numel()}, {flat.data_ptr<float>(), static_cast<size_t>(flat.numel())});
    learner_->save(checkpoint);
    checkpoint.counters["phase"] = phase_;
    checkpoint.counters["phase_steps"] = phase_steps_;
    checkpoint.counters["best_step"] = best_step_;
    if (best_step_ >= 0) checkpoint.counters["best_score"] = best_score_;
    if (std::isfinite(last_reward_)) checkpoint.counters["last_return"] = last_reward_;
    if (!ranks_.is_main()) return;
    metrics_->flush();
    writer_.save(std::move(checkpoint), job_.checkpoint.keep, best, best || best_step_ < 0 ? model_of_now() : std::function<void()>());
  }

  const TrainHooks& hooks_;
  Ranks& ranks_;
  LanguageJob job_;
  Pool pool_;
  LanguageModel model_;
  CheckpointFolder folder_;
  CheckpointWriter writer_;
  std::optional<Checkpoint> resumed_;
  int64_t phase_ = 0, phase_steps_ = 0, steps_ = 0, best_step_ = -1;
  double best_score_ = kNone, last_reward_ = 0;
  std::string last_eval_;
  std::unique_ptr<TextEnvironment> environment_;
  std::unique_ptr<LanguageLearner> learner_;
  std::vector<Problem> problems_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Progress> progress_;
};

TT_REGISTER(LearnerFamily, language,
            {.name = "language",
             .doc = "transformers by supervised training and by RL from verifiable rewards",
             .trains = [](const std::string& environment) { return Registry<TextEnvironmentEntry>::instance().has(environment); },
             .resolve = [](const Config& config) { return LanguageJob(config).resolved(); },
             .train = [](const Config& config, const TrainHooks& hooks) { return LanguageRun(config, hooks).run(); },
             .plan = [](const Config& config) { return plan_of(LanguageJob(config)); }});

}  // namespace
}  // namespace trimtab
