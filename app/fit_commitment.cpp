// `trimtab fit commitment` and `trimtab fit learn2pd`: controllers of token commitment from recorded traces (envs/token_commit/trace_lock.h, learn2pd.h),
// compared with rules on the validation traces (replay.h).
#include <charconv>
#include <cstdio>

#include "app/fit.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "envs/token_commit/learn2pd.h"
#include "envs/token_commit/replay.h"
#include "envs/token_commit/rules.h"
#include "envs/token_commit/trace_lock.h"

namespace trimtab {
namespace {

constexpr const char* kRules[] = {"top1", "threshold_90", "factor_100", "eb_100", "klass", "localleap"};
constexpr double kThresholds[] = {0.5, 0.7, 0.8, 0.9, 0.95, 0.99};

using Rows = std::vector<std::pair<std::string, ReplayFigures>>;

std::vector<int64_t> widths(const std::string& text) {
  std::vector<int64_t> out;
  for (const std::string& word : split(text, ',')) {
    int64_t& width = out.emplace_back(0);
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), width);
    if (error != std::errc() || end != word.data() + word.size()) throw ConfigError(fmt::format("--hidden {}: give whole numbers with commas, as in 32,64", text));
  }
  return out;
}

void say(const CommitTraceReader& train, const CommitTraceReader& validation) {
  fmt::print("To learn from: {} passes of {} answers; to validate on: {} of {}\n", train.passes(), train.answers(), validation.passes(), validation.answers());
  std::fflush(stdout);
}
void add_rules(const CommitTraceReader& traces, Rows& rows) {
  for (const char* name : kRules) rows.emplace_back(name, replay(*make_commit_rule(name), traces));
}
void add_filter(const std::shared_ptr<const Learn2PdFilter>& filter, const CommitTraceReader& traces, Rows& rows) {
  for (const double threshold : {0.9, kLearn2PdThreshold, 0.99})
    rows.emplace_back(fmt::format("learn2pd at {}", threshold), replay(*make_learn2pd(filter, threshold), traces));
}
void print_table(const Rows& rows) {
  fmt::print("\nOn the validation traces, pass by pass as they were recorded:\n{}", replay_table(rows));
}

std::string hashes(const std::vector<std::string>& files) {
  std::vector<std::string> out;
  for (const std::string& file : files) out.push_back(sha256_file(file));
  return join(out, " ");
}

void fit_commitment(const FitArguments& a) {
  if (!a.out.ends_with(".safetensors")) throw ConfigError(fmt::format("--out {}: an artefact's name ends in .ttc.safetensors", a.out));
  TraceLockOptions o;
  o.hidden = widths(a.hidden), o.attention = a.attention, o.seed = static_cast<uint64_t>(a.seed);
  o.view = {.items = a.items, .projected = a.projected, .codes = a.codes, .places = a.places, .committed = a.committed};
  o.epochs = or_default(a.epochs, o.epochs), o.batch = or_default(a.batch, o.batch), o.learning_rate = or_default(a.learning_rate, o.learning_rate);
  o.threshold = or_default(a.threshold, o.threshold);
  o.validate();
  const auto filter = a.filter.empty() ? nullptr : std::make_shared<const Learn2PdFilter>(Learn2PdFilter::load(a.filter));
  const CommitTraceReader train(a.data), validation(a.validation);
  say(train, validation);
  const auto lock = std::make_shared<const TraceLock>(fit_trace_lock(train, validation, o, [&](const TraceLockEpoch& e) {
    fmt::print("epoch {} of {}: loss {:.4f}; on validation {:.4f}, at {} precision {:.4f}, recall {:.4f}, F0.5 {:.4f}{}\n", e.epoch, o.epochs, e.train,
               e.validation, o.threshold, e.scores.precision, e.scores.recall, e.scores.f05, e.best ? ", the best so far" : "");
    std::fflush(stdout);
  }));
  export_trace_lock(a.out, a.header, *lock, hashes(a.data));
  fmt::print("Written: {}, {} parameters{}\n", a.out, lock->policy->parameters().size(), a.header.empty() ? "" : "; " + a.header);
  Rows rows;
  for (const double threshold : kThresholds) rows.emplace_back(fmt::format("fitted at {}", threshold), replay(*make_trace_lock_control(lock, threshold), validation));
  if (filter != nullptr) add_filter(filter, validation, rows);
  add_rules(validation, rows);
  print_table(rows);
}

void fit_filter(const FitArguments& a) {
  Learn2PdOptions o;
  o.block = a.block, o.epochs = or_default(a.epochs, o.epochs), o.learning_rate = or_default(a.learning_rate, o.learning_rate);
  o.validate();
  const CommitTraceReader train(a.data), validation(a.validation);
  say(train, validation);
  const auto filter = std::make_shared<const Learn2PdFilter>(fit_learn2pd(train, validation, o, [&](const Learn2PdEpoch& e) {
    fmt::print("epoch {} of {}: loss {:.4f}, on validation {:.4f}{}\n", e.epoch, o.epochs, e.train, e.validation, e.best ? ", the best so far" : "");
    std::fflush(stdout);
  }));
  filter->save(a.out);
  fmt::print("Written: {}, a filter of blocks of {}\n", a.out, filter->block);
  Rows rows;
  add_filter(filter, validation, rows), add_rules(validation, rows);
  print_table(rows);
}

TT_REGISTER(Fit, commitment,
            {.name = "commitment", .doc = "a controller that says which proposals of a masked diffusion model will stay",
             .options = {"--header", "--hidden", "--attention", "--items", "--projected", "--codes", "--places", "--committed", "--threshold", "--filter", "--batch", "--seed"},
             .example = "--data TRAIN.safetensors --validation VALIDATION.safetensors --out CONTROLLER.ttc.safetensors", .run = fit_commitment});
TT_REGISTER(Fit, learn2pd,
            {.name = "learn2pd", .doc = "Learn2PD's filter on a block's confidences", .options = {"--block"},
             .example = "--data TRAIN.safetensors --validation VALIDATION.safetensors --out FILTER.safetensors", .run = fit_filter});

}  // namespace
}  // namespace trimtab
