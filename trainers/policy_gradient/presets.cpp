// The presets of the policy-gradient learner: a few lines each over TrainerOptions, any key of which can be
// overridden.
#include "core/registry.h"
#include "trainers/policy_gradient/options.h"

namespace trimtab {

// Schulman et al., arXiv 1707.06347, with the defaults that Stable-Baselines3 uses for classic control.
TT_REGISTER(
    TrainerPreset, ppo,
    {.name = "ppo",
     .doc = "proximal policy optimisation: one critic, clipped ratio, several passes over small minibatches",
     .yaml = R"(
critic: central
advantage: gae
num_envs: 8
horizon: 2048
minibatch_size: 64
epochs: 10
lr: 3e-4
max_grad_norm: 0.5
value: {coef: 0.5}
)"});

// Independent learners (de Witt et al., arXiv 2011.09533): each agent has a critic over its own view.
TT_REGISTER(TrainerPreset, ippo,
            {.name = "ippo",
             .doc = "independent PPO: every agent has a critic of its own over what it sees itself",
             .yaml = R"(
critic: local
advantage: gae
num_envs: 32
horizon: 200
minibatches: 4
epochs: 5
lr: 5e-4
entropy: 0.01
max_grad_norm: 10
value: {loss: huber, huber_delta: 10, normalise: true}
)"});

// Yu et al., arXiv 2103.01955: central critic, value normalisation, few passes, large minibatches.
TT_REGISTER(TrainerPreset, mappo,
            {.name = "mappo",
             .doc = "multi-agent PPO: one central critic over the privileged view, shared advantage",
             .yaml = R"(
critic: central
advantage: gae
num_envs: 32
horizon: 200
minibatches: 4
epochs: 5
lr: 5e-4
entropy: 0.01
max_grad_norm: 10
value: {loss: huber, huber_delta: 10, normalise: true}
)"});

// Kuba et al., arXiv 2109.11251: agents are updated in a random order, each corrected for those before it.
TT_REGISTER(TrainerPreset, happo,
            {.name = "happo",
             .doc = "heterogeneous-agent PPO: as mappo, agents updated one after the other with the ratios "
                    "of those before",
             .yaml = R"(
critic: central
advantage: gae
sequential: true
num_envs: 32
horizon: 200
minibatches: 4
epochs: 5
lr: 5e-4
entropy: 0.01
max_grad_norm: 10
value: {loss: huber, huber_delta: 10, normalise: true}
)"});

// Shao et al., arXiv 2402.03300, for controllers: reward-to-go against the group's at the same step instead
// of a critic.
TT_REGISTER(
    TrainerPreset, grpo,
    {.name = "grpo",
     .doc =
         "group-relative policy optimisation: no critic; episodes of one world are compared with each other",
     .yaml = R"(
critic: none
advantage: group_mean_std
normalise_advantage: none
group_size: 8
num_envs: 32
horizon: 0
minibatches: 4
epochs: 4
lr: 5e-4
entropy: 0.01
max_grad_norm: 10
)"});

}  // namespace trimtab
