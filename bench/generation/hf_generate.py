"""Hugging Face transformers' greedy generate() on the folder that bench_generate --make wrote, as a worker."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["TRANSFORMERS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import worker


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cache", choices=["dynamic", "static"], default="dynamic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--new", type=int, default=128)
    args = parser.parse_args()

    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    prompts = torch.tensor(json.loads((args.model / "prompts.json").read_text()))
    options = {"max_new_tokens": args.new, "min_new_tokens": args.new, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    if args.cache == "static":
        options["cache_implementation"] = "static"

    @torch.inference_mode()
    def measure():
        start = time.perf_counter()
        out = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
        seconds = time.perf_counter() - start
        tokens = out[:, prompts.shape[1]:]
        return {"rate": tokens.numel() / seconds, "seconds": seconds, "made": tokens.numel(), "tokens": tokens.tolist()}

    measure()
    worker.serve(measure, version=transformers.__version__)


if __name__ == "__main__":
    main()
