"""EnvPool stepping 1024 environments with random actions drawn beforehand. A worker: every "go" takes --steps batched steps."""

import argparse
import sys
import time
from pathlib import Path

import envpool
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import worker


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    env = envpool.make(args.env, env_type="gymnasium", num_envs=args.num_envs, num_threads=args.threads, seed=1)
    env.reset()
    generator = np.random.default_rng(1)
    if args.env.startswith("Pendulum"):
        actions = generator.uniform(-2, 2, (16, args.num_envs, 1)).astype(np.float32)
    else:
        actions = generator.integers(0, 2, (16, args.num_envs)).astype(np.int32)

    def run(steps):
        for t in range(steps):
            env.step(actions[t & 15])

    run(100)

    def measure():
        begin = time.perf_counter()
        run(args.steps)
        return {"rate": args.steps * args.num_envs / (time.perf_counter() - begin)}

    worker.serve(measure, threads=args.threads)


if __name__ == "__main__":
    main()
