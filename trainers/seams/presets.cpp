// The presets without a critic: `common` is the algorithm, `yaml` what a controller needs beside it. Any key
// can be overridden.
//
// For a controller a group is a number of instances of one world, a sequence its first episode there, a row a
// decision. grpo, dr_grpo, dapo, gspo and rloo compare the reward from each step on with the group's at the
// same step, which says more about an action than one number per episode; dler and dcpo are about that number
// and keep it.
#include <string>

#include "core/registry.h"
#include "trainers/seams/preset.h"

namespace trimtab {
namespace {

// What the presets have in common beside the algorithm: whole episodes of eight instances per world, batches of replies.
const std::string kEpisodes = R"(
critic: none
group_size: 8
num_envs: 32
horizon: 0
minibatches: 4
entropy: 0.01
max_grad_norm: 10
)";
const std::string kReplies = R"(
prompts: 32
group_size: 8
lr: 1e-6
)";

}  // namespace

// Shao et al., arXiv 2402.03300.
TT_REGISTER(
    TrainerPreset, grpo,
    {.name = "grpo",
     .doc =
         "group-relative policy optimisation: no critic; episodes of one world are compared with each other",
     .yaml = kEpisodes + R"(
epochs: 4
lr: 5e-4
)",
     .language = kReplies + R"(
minibatches: 2
)",
     .common = R"(
advantage: group_mean_std
normalise_advantage: none
clip: {kind: symmetric, low: 0.2}
aggregation: row_mean
)"});

// Liu et al., arXiv 2503.20783. The constant only scales the loss; for a language model it is the longest
// response, for a controller about the length of an episode.
TT_REGISTER(TrainerPreset, dr_grpo,
            {.name = "dr_grpo",
             .doc = "grpo done right: no division by the group's deviation nor by an episode's length",
             .yaml = kEpisodes + R"(
aggregation_constant: 100
epochs: 4
lr: 5e-4
)",
             .language = kReplies + R"(
minibatches: 2
aggregation_constant: 256
)",
             .common = R"(
advantage: group_mean
normalise_advantage: none
clip: {kind: symmetric, low: 0.2}
aggregation: constant
)"});

// Yu et al., arXiv 2503.14476: clip-higher and the mean over all rows. Its dynamic sampling and its shaping
// of overlong responses belong to sampling and reward, and mean nothing to a controller.
TT_REGISTER(TrainerPreset, dapo,
            {.name = "dapo",
             .doc = "grpo with more room for likelier actions than for rarer ones (clip-higher)",
             .yaml = kEpisodes + R"(
epochs: 4
lr: 5e-4
)",
             .language = kReplies + R"(
minibatches: 2
dynamic_sampling: 10
)",
             .common = R"(
advantage: group_mean_std
normalise_advantage: none
clip: {kind: asymmetric, low: 0.2, high: 0.28}
aggregation: row_mean
)"});

// Zheng et al., arXiv 2507.18071. A controller's steps change the mean log-ratio of an episode by far more
// than 4e-4, so it gets a wider clip.
TT_REGISTER(TrainerPreset, gspo,
            {.name = "gspo",
             .doc = "grpo with one ratio per episode: the mean over its rows, clipped as a whole",
             .yaml = kEpisodes + R"(
clip: {low: 0.02, high: 0.03}
epochs: 4
lr: 5e-4
)",
             .language = kReplies + R"(
minibatches: 4
)",
             .common = R"(
advantage: group_mean_std
normalise_advantage: none
clip: {kind: asymmetric, low: 3e-4, high: 4e-4}
ratio: sequence
aggregation: episode_mean
)"});

// Ahmadian et al., arXiv 2402.14740: REINFORCE, so one pass without a clip. Its sum over an episode's rows is
// the mean over all rows but for a factor.
TT_REGISTER(TrainerPreset, rloo,
            {.name = "rloo",
             .doc = "REINFORCE against the mean of the others: one pass, no clip, no critic",
             .yaml = kEpisodes + R"(
epochs: 1
lr: 1e-3
)",
             .language = kReplies + R"(
minibatches: 1
)",
             .common = R"(
advantage: leave_one_out
normalise_advantage: none
clip: {kind: none}
aggregation: row_mean
)"});

// Liu et al., arXiv 2510.15110. What is penalised is length alone: only what a response (an episode) has
// earned within its budget of rows counts. For a controller that budget is `horizon`, decisions; reaching it
// is no fault, so nothing is taken off there. The code's small divergence from a reference model (0.0005) is
// left out.
TT_REGISTER(
    TrainerPreset, dler,
    {.name = "dler",
     .doc = "one return per episode within a budget of decisions, whitened over all rows of the batch",
     .yaml = kEpisodes + R"(
group_score: return
epochs: 4
lr: 1e-3
)",
     .language = kReplies + R"(
minibatches: 2
dynamic_sampling: 10
reward: {stop_properly: 0.1}
)",
     .common = R"(
advantage: group_mean
normalise_advantage: batch_rows
clip: {kind: dual, low: 0.2, high: 0.28, dual: 10}
aggregation: row_mean
kl_coef: 0
)"});

// Yang et al., arXiv 2509.02333, with the bounds of the paper's table (the released script has 0.2 and 0.28,
// and leaves the smoothing off). A prompt is a world: smoothing needs worlds that come back, so a controller
// trains on `worlds` of them instead of ever new ones.
TT_REGISTER(
    TrainerPreset, dcpo,
    {.name = "dcpo",
     .doc = "returns compared with all the world ever saw, bounds of the ratio wider for rarer actions",
     .yaml = kEpisodes + R"(
group_score: return
worlds: 32
epochs: 4
lr: 1e-3
)",
     .language = kReplies + R"(
minibatches: 4
prompt_pool: 1024
)",
     .common = R"(
advantage: smooth
normalise_advantage: none
clip: {kind: dynamic, low: 0.16, high: 0.20, dual: 10}
aggregation: only_token_mean
)"});

}  // namespace trimtab
