// Keys that controllers and language models share: what makes an on-policy algorithm, whoever acts. Each
// family's options embed SeamOptions and add what is its own (how it samples, its optimiser, its critics).
#pragma once

#include <cstdint>
#include <string>

#include "core/options.h"
#include "trainers/advantage/advantage.h"
#include "trainers/aggregation/aggregation.h"
#include "trainers/fit/adam.h"
#include "trainers/fit/schedule.h"
#include "trainers/ratio/mismatch.h"
#include "trainers/ratio/policy_loss.h"

namespace trimtab {

struct ClipBlock {
  std::string kind = "symmetric";
  double low = 0.2, high = 0.2, dual = 3.0;
  void describe(Fields& f);
  ClipOptions options() const;
};
struct MismatchBlock {
  std::string kind = "none";
  double low = 0.5, high = 5, truncate = 2, sequence_max = 3;
  void describe(Fields& f);
  MismatchOptions options() const;
};
struct ScheduleBlock {
  std::string kind = "constant";
  double end = 0, warmup = 0;
  void describe(Fields& f);
  double at(double start, double progress) const;  // progress through the phase, 0 to 1
};
struct AdamBlock {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-5, weight_decay = 0;
  void describe(Fields& f);
  AdamOptions options() const { return {beta1, beta2, epsilon, weight_decay}; }
};

struct SeamOptions {
  // advantage
  std::string advantage = "gae", normalise_advantage = "minibatch";
  double std_epsilon = 1e-6;
  double correct_boost = 0;  // language models
  // ratio and clip
  ClipBlock clip;
  std::string ratio = "token";
  MismatchBlock mismatch;  // language models
  // aggregation
  std::string aggregation = "row_mean";
  double aggregation_constant = 1;
  // coefficients
  double entropy = 0, kl_coef = 0;
  double reference_kl = 0;  // language models

  // What a language model starts from: no critic, so advantages within the group and no minibatch moments.
  static SeamOptions of_language();

  void describe(Fields& f);  // every key of a language model's
  void validate() const;     // of a language model's
  // The parts of it, for a family that lists keys of its own in between.
  void describe_advantage(Fields& f, bool critic);  // critic: gae and minibatch are choices too
  void describe_ratio(Fields& f);                   // clip, ratio
  void describe_aggregation(Fields& f);
  void describe_coefficients(Fields& f);
  void describe_language(Fields& f);  // correct_boost, mismatch, reference_kl
  void validate_ratio() const;

  bool labelled() const { return advantage == "labels"; }  // supervised
  bool grouped() const { return advantage != "gae" && !labelled(); }
  // Compares members of a group, so that a group of one is a mistake: the caller refuses it.
  bool needs_group() const { return grouped() && advantage != "none"; }
  bool smooth() const { return advantage == "smooth"; }
  GroupBaseline group_baseline() const;  // of all but gae and smooth
  Aggregation aggregation_kind() const;
  RatioLevel ratio_level() const;
  PolicyLossOptions loss_options() const;
};

}  // namespace trimtab
