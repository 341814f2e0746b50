"""Writes gymnasium.json: trajectories of Gymnasium's CartPole-v1 and Pendulum-v1, float64 state after every step.

Run with the interpreter of .deps/oracle (scripts/requirements/oracle.txt pins gymnasium):
  .deps/oracle/bin/python tests/oracle/golden/make_gymnasium.py
Actions are float64 numbers that float32 holds exactly, so that Gymnasium computes in float64 throughout.
"""

import json
import pathlib

import gymnasium
import numpy as np


def roll(name, episode, choose, limit):
    env = gymnasium.make(name, disable_env_checker=True)
    observation, _ = env.reset(seed=100 + episode)
    rng = np.random.default_rng(episode)
    steps = {"state": [list(map(float, env.unwrapped.state))], "observation": [list(map(float, observation))]}
    steps |= {"action": [], "reward": [], "terminated": [], "truncated": []}
    for _ in range(limit):
        action = choose(env.unwrapped.state, rng)
        sent = int(action) if name.startswith("Cart") else np.array([action], dtype=np.float64)
        observation, reward, terminated, truncated, _ = env.step(sent)
        steps["state"].append(list(map(float, env.unwrapped.state)))
        steps["observation"].append(list(map(float, observation)))
        for key, value in (("action", float(action)), ("reward", float(reward)), ("terminated", bool(terminated)),
                           ("truncated", bool(truncated))):
            steps[key].append(value)
        if terminated or truncated:
            break
    return steps


def main():
    balance = lambda s, rng: float(s[2] + 0.3 * s[3] + 0.03 * s[0] + 0.08 * s[1] > 0)
    coin = lambda s, rng: float(rng.integers(2))
    torque = lambda s, rng: float(np.round(rng.uniform(-2.5, 2.5) * 256) / 256)
    swing = lambda s, rng: float(np.round(np.clip(2 * np.sign(s[1]), -2, 2) * 256) / 256)
    golden = {
        "producer": f"gymnasium {gymnasium.__version__}, numpy {np.__version__}",
        "cartpole": [roll("CartPole-v1", e, balance if e == 0 else coin, 500) for e in range(6)],
        "pendulum": [roll("Pendulum-v1", e, swing if e == 0 else torque, 200) for e in range(3)],
    }
    path = pathlib.Path(__file__).with_name("gymnasium.json")
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print({k: [len(e["action"]) for e in golden[k]] for k in ("cartpole", "pendulum")})


if __name__ == "__main__":
    main()
