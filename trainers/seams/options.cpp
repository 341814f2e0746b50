// Keys and ranges that both families of learners share; see options.h.
#include "trainers/seams/options.h"

#include "core/error.h"

namespace trimtab {

void ClipBlock::describe(Fields& f) {
  f.choice("kind", kind, {"none", "symmetric", "asymmetric", "dual", "dynamic"},
           "bound of the probability ratio: symmetric uses low on both sides, dual also bounds the loss of "
           "bad actions, dynamic is dual with bounds wider for rarer actions (DCPO)");
  f.number("low", low, {.low = 0, .high = 1, .doc = "the ratio is kept above 1 - low (dynamic: epsilon)"});
  f.number("high", high,
           {.low = 0, .doc = "the ratio is kept below 1 + high (asymmetric, dual; dynamic: epsilon)"});
  f.number("dual", dual,
           {.low = 1, .doc = "largest ratio that counts for a negative advantage (dual, dynamic)"});
}

ClipOptions ClipBlock::options() const {
  const ClipKind k = kind == "none"         ? ClipKind::kNone
                     : kind == "asymmetric" ? ClipKind::kAsymmetric
                     : kind == "dual"       ? ClipKind::kDual
                     : kind == "dynamic"    ? ClipKind::kDynamic
                                            : ClipKind::kSymmetric;
  return {k, low, high, dual};
}

void MismatchBlock::describe(Fields& f) {
  f.choice("kind", kind, {"none", "icepop", "truncate", "sequence_mask"},
           "what becomes of rows that trainer and sampler give different probabilities, by their ratio k");
  f.number("low", low, {.low = 0, .high = 1, .doc = "smallest k that counts (icepop)"});
  f.number("high", high, {.low = 1, .doc = "largest k that counts (icepop)"});
  f.number("truncate", truncate, {.low = 1, .doc = "largest weight of a row (truncate)"});
  f.number("sequence_max", sequence_max,
           {.low = 1, .doc = "largest product of k over a sequence that counts (sequence_mask)"});
}

MismatchOptions MismatchBlock::options() const {
  const MismatchKind k = kind == "icepop"          ? MismatchKind::kIcePop
                         : kind == "truncate"      ? MismatchKind::kTruncate
                         : kind == "sequence_mask" ? MismatchKind::kSequenceMask
                                                   : MismatchKind::kNone;
  return {k, low, high, truncate, sequence_max};
}

void ScheduleBlock::describe(Fields& f) {
  f.choice("kind", kind, {"constant", "linear", "cosine"}, "how the step size moves over a phase");
  f.number("end", end, {.low = 0, .high = 1, .doc = "last step size as a share of lr (linear, cosine)"});
  f.number("warmup", warmup,
           {.low = 0, .high = 0.9, .doc = "share of the phase over which the step size rises from 0"});
}

double ScheduleBlock::at(double start, double progress) const {
  const Schedule k = kind == "linear"   ? Schedule::kLinear
                     : kind == "cosine" ? Schedule::kCosine
                                        : Schedule::kConstant;
  return scheduled(k, start, start * end, warmup, progress);
}

void AdamBlock::describe(Fields& f) {
  f.number("beta1", beta1, {.low = 0, .high = 0.99999, .doc = "decay of the first moment"});
  f.number("beta2", beta2, {.low = 0, .high = 0.999999, .doc = "decay of the second moment"});
  f.number("epsilon", epsilon, {.low = 1e-12, .high = 1, .doc = "added to the root of the second moment"});
  f.number("weight_decay", weight_decay,
           {.low = 0, .high = 1, .doc = "decoupled weight decay, times the step size"});
}

SeamOptions SeamOptions::of_language() {
  SeamOptions options;
  options.advantage = "group_mean_std";
  options.normalise_advantage = "none";
  return options;
}

void SeamOptions::describe(Fields& f) {
  describe_advantage(f, false);
  describe_ratio(f);
  describe_aggregation(f);
  describe_coefficients(f);
  describe_language(f);
}

void SeamOptions::describe_advantage(Fields& f, bool critic) {
  std::vector<std::string> kinds = {"group_mean", "group_mean_std", "leave_one_out", "smooth", "none"};
  std::vector<std::string> scopes = {"batch", "batch_rows", "none"};
  if (critic) kinds.insert(kinds.begin(), "gae"), kinds.push_back("labels"), scopes.insert(scopes.begin(), "minibatch");
  f.choice("advantage", advantage, kinds,
           "how advantages are made; all but gae compare members of a group, smooth also with the group's "
           "past (DCPO); labels makes the environment's labels the actions and every advantage 1");
  f.choice("normalise_advantage", normalise_advantage, scopes,
           "where advantages get mean 0 and deviation 1; batch_rows is DLER's estimator over the batch");
  f.number(
      "std_epsilon", std_epsilon,
      {.low = 0, .high = 1, .doc = "added to a group's deviation (group_mean_std); verl 1e-6, TRL 1e-4"});
}

void SeamOptions::describe_ratio(Fields& f) {
  f.block("clip", clip, "bound of the probability ratio");
  f.choice("ratio", ratio, {"none", "token", "sequence", "sequence_token"},
           "what the ratio is of: one row, or the mean over its sequence (GSPO, GSPO-token); none is the plain "
           "policy gradient");
}

void SeamOptions::describe_aggregation(Fields& f) {
  f.choice("aggregation", aggregation,
           {"row_mean", "episode_mean", "constant", "group_mean", "only_token_mean", "only_token_sum"},
           "what counts alike in the loss: rows, episodes, episodes over a constant length, groups; DCPO's "
           "only-token-mean adds up a group's means (or has the mean of its sums)");
  f.number("aggregation_constant", aggregation_constant,
           {.low = 1e-9, .unit = "steps", .doc = "the constant length (constant)"});
}

void SeamOptions::describe_coefficients(Fields& f) {
  f.number("entropy", entropy, {.low = 0, .doc = "weight of the entropy bonus"});
  f.number("kl_coef", kl_coef, {.low = 0, .doc = "weight of the divergence from the sampling policy"});
}

void SeamOptions::describe_language(Fields& f) {
  f.number("correct_boost", correct_boost,
           {.low = 0, .doc = "added to the advantage of every correct response (DLER)"});
  f.block("mismatch", mismatch, "correction where sampler and trainer disagree on a probability");
  f.number("reference_kl", reference_kl,
           {.low = 0, .doc = "weight of the divergence from the reference model; 0: none is loaded"});
}

void SeamOptions::validate_ratio() const {
  if (ratio == "none" && (kl_coef > 0 || reference_kl > 0))
    throw ConfigError("kl_coef and reference_kl compare probabilities of one action; with ratio: none leave them at 0");
  if (ratio != "token" && clip.kind == "dynamic") {
    throw ConfigError("clip.kind 'dynamic' has bounds for each row's probability; it needs ratio: token");
  }
}

void SeamOptions::validate() const {
  validate_ratio();
  if (!grouped()) throw ConfigError("advantage 'gae' needs a critic, and a language model has none");
  if (normalise_advantage == "minibatch")
    throw ConfigError("normalise_advantage 'minibatch' depends on how a batch is cut; use batch or none");
}

GroupBaseline SeamOptions::group_baseline() const {
  if (advantage == "group_mean") return GroupBaseline::kMean;
  if (advantage == "group_mean_std") return GroupBaseline::kMeanStd;
  if (advantage == "leave_one_out") return GroupBaseline::kLeaveOneOut;
  return GroupBaseline::kNone;
}

Aggregation SeamOptions::aggregation_kind() const {
  if (aggregation == "episode_mean") return Aggregation::kSequenceMean;
  if (aggregation == "constant") return Aggregation::kConstant;
  if (aggregation == "group_mean") return Aggregation::kPromptMean;
  if (aggregation == "only_token_mean") return Aggregation::kOnlyTokenMean;
  if (aggregation == "only_token_sum") return Aggregation::kOnlyTokenSum;
  return Aggregation::kTokenMean;
}

RatioLevel SeamOptions::ratio_level() const {
  if (ratio == "none") return RatioLevel::kNone;
  if (ratio == "sequence") return RatioLevel::kSequence;
  if (ratio == "sequence_token") return RatioLevel::kSequenceToken;
  return RatioLevel::kToken;
}

PolicyLossOptions SeamOptions::loss_options() const {
  return {clip.options(), entropy, kl_coef, reference_kl, ratio_level()};
}

}  // namespace trimtab
