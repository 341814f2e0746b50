"""Stable-Baselines3 PPO on CartPole-v1 or Pendulum-v1: 8 environments x 2048 steps, minibatch 64, 10 epochs, 2 x 64 tanh.

As a worker every "go" trains for --steps environment steps. With --until RETURN it runs once and prints the seconds until the
mean of the last 100 training episodes reaches RETURN, and the curve [environment steps, that mean].
"""

import argparse
import json
import sys
import time
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import worker


class Curve(BaseCallback):
    def __init__(self, until):
        super().__init__()
        self.until, self.points, self.reached = until, [], None

    def _on_training_start(self):
        self.begin = time.perf_counter()

    def _on_rollout_end(self):
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        if not returns:
            return
        mean = sum(returns) / len(returns)
        self.points.append([self.num_timesteps, round(mean, 2)])
        if self.reached is None and len(returns) == 100 and mean >= self.until:
            self.reached = time.perf_counter() - self.begin

    def _on_step(self):
        return self.reached is None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=16384)
    parser.add_argument("--until", type=float)
    parser.add_argument("--limit", type=int, default=1_000_000, help="environment steps after which --until gives up")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    pendulum = args.env.startswith("Pendulum")
    model = PPO("MlpPolicy", make_vec_env(args.env, 8, seed=args.seed), n_steps=2048, batch_size=64, n_epochs=10,
                learning_rate=1e-3 if pendulum else 3e-4, gamma=0.9 if pendulum else 0.99, gae_lambda=0.95, clip_range=0.2,
                ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5, seed=args.seed, device="cpu")
    if args.until is not None:
        curve = Curve(args.until)
        model.learn(args.limit, callback=curve)
        print(json.dumps({"seconds": curve.reached, "curve": curve.points}))
        return
    model.learn(16384)

    def measure():
        begin = time.perf_counter()
        model.learn(args.steps)
        return {"rate": args.steps / (time.perf_counter() - begin)}

    worker.serve(measure)


if __name__ == "__main__":
    main()
