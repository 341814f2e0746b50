"""What an engine without a kernel for packed caches does: PyTorch dequantises int8 keys and values, then attends to them."""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import worker

HEADS, LENGTH, DIM = 128, 32768, 128


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    codes = [torch.randint(-120, 120, (1, 1, 64, DIM), dtype=torch.int8).repeat(1, HEADS, LENGTH // 64, 1) for _ in range(2)]
    scales = [torch.rand(1, HEADS, LENGTH, 1) * 0.01 for _ in range(2)]
    query = torch.randn(1, HEADS, 1, DIM)

    @torch.no_grad()
    def measure():
        start = time.perf_counter()
        for first in range(0, HEADS, 8):   # heads in turns: 8 of them dequantised fit the memory and are what its SDPA does best
            key, value = (c[:, first:first + 8].float() * s[:, first:first + 8] for c, s in zip(codes, scales))
            torch.nn.functional.scaled_dot_product_attention(query[:, first:first + 8], key, value)
        return {"ns_per_key": (time.perf_counter() - start) * 1e9 / (HEADS * LENGTH)}

    measure()
    worker.serve(measure, version=torch.__version__)


if __name__ == "__main__":
    main()
