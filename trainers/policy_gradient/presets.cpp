// The presets that are for controllers alone, with critics: a few lines each over TrainerOptions, any key of
// which can be overridden. Those without a critic are in seams/presets.cpp.
#include "core/registry.h"
#include "trainers/seams/preset.h"

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

// Supervised: cross-entropy to the environment's labels in the states the policy itself comes to (DAgger, Ross et al., arXiv 1011.0686,
// with the policy alone at the wheel). How Don't Waste Bits (arXiv 2604.04722) trains its controller.
TT_REGISTER(TrainerPreset, supervised,
            {.name = "supervised",
             .doc = "cross-entropy to the environment's labels, in the states the policy comes to",
             .yaml = R"(
critic: none
advantage: labels
normalise_advantage: none
ratio: none
clip: {kind: none}
num_envs: 8
horizon: 256
minibatch_size: 256
epochs: 2
lr: 1e-3
max_grad_norm: 0.5
)"});

}  // namespace trimtab
