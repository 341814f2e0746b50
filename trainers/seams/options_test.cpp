// The keys both families share, and the presets' part of them.
#include "trainers/seams/options.h"

#include <gtest/gtest.h>

#include "core/config.h"
#include "core/error.h"
#include "core/registry.h"
#include "trainers/seams/preset.h"

namespace trimtab {
namespace {

SeamOptions read(const std::string& yaml) {
  SeamOptions options = SeamOptions::of_language();
  Config::parse(yaml, "test").read(options);
  return options;
}

SeamOptions common(const std::string& preset) {
  return read(Registry<TrainerPreset>::instance().get(preset, "trainer preset").common);
}

TEST(Presets, CommonKeysAreSeamKeysOfALanguageModel) {
  for (const char* name : {"grpo", "dr_grpo", "dapo", "gspo", "rloo", "dler", "dcpo"})
    EXPECT_NO_THROW(common(name)) << name;
}

TEST(Presets, AreThePublishedAlgorithms) {
  EXPECT_EQ(common("grpo").group_baseline(), GroupBaseline::kMeanStd);
  EXPECT_EQ(common("grpo").loss_options().clip.kind, ClipKind::kSymmetric);
  EXPECT_EQ(common("dr_grpo").group_baseline(), GroupBaseline::kMean);
  EXPECT_EQ(common("dr_grpo").aggregation_kind(), Aggregation::kConstant);
  EXPECT_EQ(common("dapo").loss_options().clip.high, 0.28);
  EXPECT_EQ(common("gspo").ratio_level(), RatioLevel::kSequence);
  EXPECT_EQ(common("gspo").loss_options().clip.low, 3e-4);
  EXPECT_EQ(common("gspo").aggregation_kind(), Aggregation::kSequenceMean);
  EXPECT_EQ(common("rloo").group_baseline(), GroupBaseline::kLeaveOneOut);
  EXPECT_EQ(common("rloo").loss_options().clip.kind, ClipKind::kNone);
  EXPECT_EQ(common("dler").group_baseline(), GroupBaseline::kMean);
  EXPECT_EQ(common("dler").normalise_advantage, "batch_rows");
  EXPECT_EQ(common("dler").loss_options().clip.dual, 10);
  EXPECT_TRUE(common("dcpo").smooth());
  EXPECT_EQ(common("dcpo").loss_options().clip.kind, ClipKind::kDynamic);
  EXPECT_EQ(common("dcpo").loss_options().clip.low, 0.16);
  EXPECT_EQ(common("dcpo").aggregation_kind(), Aggregation::kOnlyTokenMean);
}

TEST(Presets, AFamilyWithoutKeysIsRefused) {
  const TrainerPreset both{.name = "both", .doc = "", .yaml = "a: 1", .language = "a: 2", .common = "b: 3"};
  EXPECT_EQ(controller_preset(both).text("a", ""), "1");
  EXPECT_EQ(language_preset(both).text("a", ""), "2");
  EXPECT_EQ(language_preset(both).text("b", ""), "3");
  const TrainerPreset one{.name = "one", .doc = "", .yaml = "a: 1"};
  EXPECT_EQ(controller_preset(one).text("a", ""), "1");
  EXPECT_THROW(language_preset(one), ConfigError);
  const TrainerPreset other{.name = "other", .doc = "", .language = "a: 1"};
  EXPECT_THROW(controller_preset(other), ConfigError);
}

TEST(SeamOptions, EveryKeyReachesItsOption) {
  const SeamOptions s = read(R"(
advantage: smooth
std_epsilon: 1e-4
correct_boost: 0.1
clip: {kind: dual, low: 0.1, high: 0.3, dual: 5}
ratio: sequence_token
mismatch: {kind: sequence_mask, sequence_max: 4}
aggregation: only_token_sum
entropy: 0.01
kl_coef: 0.02
reference_kl: 0.03
)");
  EXPECT_TRUE(s.smooth() && s.needs_group());
  EXPECT_EQ(s.std_epsilon, 1e-4);
  EXPECT_EQ(s.correct_boost, 0.1);
  const PolicyLossOptions loss = s.loss_options();
  EXPECT_EQ(loss.clip.kind, ClipKind::kDual);
  EXPECT_EQ(loss.clip.high, 0.3);
  EXPECT_EQ(loss.level, RatioLevel::kSequenceToken);
  EXPECT_EQ(loss.entropy_coef, 0.01);
  EXPECT_EQ(loss.kl_coef, 0.02);
  EXPECT_EQ(loss.reference_coef, 0.03);
  EXPECT_EQ(s.mismatch.options().kind, MismatchKind::kSequenceMask);
  EXPECT_EQ(s.mismatch.options().sequence_max, 4);
  EXPECT_EQ(s.aggregation_kind(), Aggregation::kOnlyTokenSum);
  EXPECT_FALSE(read("advantage: none").needs_group());
}

TEST(SeamOptions, ContradictionsAreRefused) {
  EXPECT_THROW(read("advantage: gae"), ConfigError);
  EXPECT_THROW(read("normalise_advantage: minibatch"), ConfigError);
  EXPECT_THROW(read("{ratio: sequence, clip: {kind: dynamic}}"), ConfigError);
  EXPECT_THROW(read("mismatch: {kind: icepops}"), ConfigError);
}

}  // namespace
}  // namespace trimtab
