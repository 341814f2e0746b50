"""Hugging Face transformers' greedy generate(), with or without a draft model (its assisted generation), one sequence at a time, as a worker."""

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
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--schedule", choices=["constant", "heuristic"], default="constant")
    parser.add_argument("--length", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--new", type=int, default=128)
    args = parser.parse_args()

    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    load = lambda folder: transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    target = load(args.target)
    prompts = [torch.tensor([ids]) for ids in json.loads(args.prompts.read_text())]
    options = {"max_new_tokens": args.new, "min_new_tokens": args.new, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    if args.draft:
        draft = load(args.draft)
        draft.generation_config.num_assistant_tokens = args.length
        draft.generation_config.num_assistant_tokens_schedule = args.schedule
        draft.generation_config.assistant_confidence_threshold = 0.0
        options["assistant_model"] = draft

    @torch.inference_mode()
    def measure():
        start, tokens = time.perf_counter(), []
        for p in prompts:
            tokens.append(target.generate(p, attention_mask=torch.ones_like(p), **options)[0, p.shape[1]:].tolist())
        seconds = time.perf_counter() - start
        made = sum(map(len, tokens))
        return {"rate": made / seconds, "made": made, "tokens": tokens}

    measure()
    worker.serve(measure, version=transformers.__version__)


if __name__ == "__main__":
    main()
