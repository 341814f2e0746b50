"""PufferLib 3.0's PPO on its CartPole in C, on the CPU: separate 2 x 64 tanh actor and critic, one epoch, minibatch 32768.

A worker: every "go" trains for --epochs rollouts of 4096 x 64 steps. The modes of which the best counts: torch.compile or
not (--compile), one or two threads.
"""

import argparse
import configparser
import os
import sys
import tempfile
import time
import types
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import worker

os.chdir(tempfile.mkdtemp())  # PufferLib links its resources into the working folder when it is imported

sys.modules["pufferlib.sweep"] = types.ModuleType("pufferlib.sweep")  # hyper-parameter search: not used, and its imports are large
import pufferlib.pufferl as pufferl
import pufferlib.vector
from pufferlib.ocean.cartpole.cartpole import Cartpole
from pufferlib.pytorch import layer_init


class Policy(nn.Module):
    def __init__(self, env):
        super().__init__()
        obs = env.single_observation_space.shape[0]

        def mlp(outputs, gain):
            return nn.Sequential(layer_init(nn.Linear(obs, 64)), nn.Tanh(), layer_init(nn.Linear(64, 64)), nn.Tanh(),
                                 layer_init(nn.Linear(64, outputs), std=gain))

        self.actor, self.critic = mlp(env.single_action_space.n, 0.01), mlp(1, 1.0)

    def forward(self, observations, state=None):
        return self.actor(observations), self.critic(observations)

    forward_eval = forward


def settings(compiled):
    """PufferLib's own defaults, its CartPole file over them, and the comparison's over both."""
    config = configparser.ConfigParser()
    folder = Path(pufferlib.__file__).parent / "config"
    config.read([folder / "default.ini", folder / "ocean" / "cartpole.ini"])
    values = {key: pufferl.ast.literal_eval(value) if value[:1].isdigit() or value in ("True", "False") else value
              for key, value in config["train"].items()}
    values.update(device="cpu", optimizer="adam", compile=compiled, compile_mode="default", use_rnn=False, update_epochs=1,
                  minibatch_size=32768, max_minibatch_size=32768, bptt_horizon=64, batch_size="auto", learning_rate=3e-3,
                  total_timesteps=10**9, checkpoint_interval=10**9, env="puffer_cartpole", adam_beta1=0.9, adam_eps=1e-8)
    return values


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    pufferl.ADVANTAGE_CUDA = False
    pufferl.PuffeRL.print_dashboard = lambda self, **_: None
    vecenv = pufferlib.vector.make(Cartpole, env_kwargs={"num_envs": 4096, "report_interval": 64}, num_envs=1,
                                   seed=args.seed, backend=pufferlib.vector.Serial)
    torch.manual_seed(args.seed)
    trainer = pufferl.PuffeRL(settings(args.compile), vecenv, Policy(vecenv.driver_env))
    lengths = []

    def train(epochs):
        for _ in range(epochs):
            stats = trainer.evaluate()
            if stats["episode_length"]:
                lengths.append([trainer.global_step, float(sum(stats["episode_length"]) / len(stats["episode_length"]))])
            trainer.train()

    train(2)

    def measure():
        begin, first = time.perf_counter(), trainer.global_step
        train(args.epochs)
        return {"rate": (trainer.global_step - first) / (time.perf_counter() - begin), "episode_length": lengths}

    worker.serve(measure, threads=torch.get_num_threads())
    pufferl.os._exit(0)  # its monitoring thread does not end by itself


if __name__ == "__main__":
    main()
