"""TRL's GRPOTrainer on the folder that bench_grpo_step --make wrote, one optimiser step per "go", as a worker.

The trainer runs its own loop; a callback at the end of each step waits for the next "go". One group per step, nothing generated
twice (num_iterations 1), no reference model (beta 0), no checkpoints and no logs, f32. Replies have exactly the same length on both
sides: the tokenizer's end token lies outside the model's vocabulary.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["TRANSFORMERS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

REPLY, GROUP = 64, 8


def make_tokenizer(alphabet):
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {c: i for i, c in enumerate(alphabet)} | {"<pad>": len(alphabet), "<eos>": len(alphabet) + 1, "<never>": len(alphabet) + 2}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    words.decoder = tokenizers.decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<never>", padding_side="left",
                                   additional_special_tokens=["<eos>"])


def make_reward(alphabet):
    middle = alphabet[len(alphabet) // 2]

    def share_of_low_letters(completions, **_):
        return [sum(c < middle for c in text) / max(len(text), 1) for text in completions]

    return share_of_low_letters


def make_callback():
    """Waits for "go" between two steps, so that a step is everything from one to the next: data, generation, rewards, both passes, Adam."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        warm_up = 2
        start = processor = None
        generation = 0.0
        tokens = 0

        def on_step_end(self, args, state, control, **_):
            if state.global_step >= self.warm_up:
                if self.start is None:
                    answer = {"ready": True}
                else:
                    seconds = time.perf_counter() - self.start
                    answer = {"seconds": seconds, "processor_seconds": time.process_time() - self.processor,
                              "generation": self.generation, "train": seconds - self.generation, "tokens": self.tokens}
                print(json.dumps(answer), flush=True)
                if not any(line.strip() == "go" for line in iter(sys.stdin.readline, "")):
                    control.should_training_stop = True
            self.generation, self.tokens = 0.0, 0
            self.start, self.processor = time.perf_counter(), time.process_time()
            if state.global_step < self.warm_up:
                self.start = None
            return control

    return Turns()


def make_trainer(args, alphabet, turns):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            start = time.perf_counter()
            out = super()._generate_and_score_completions(inputs)
            turns.generation += time.perf_counter() - start
            turns.tokens += int(out["completion_mask"].sum())
            return out

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, per_device_train_batch_size=GROUP, num_generations=GROUP,
        gradient_accumulation_steps=1, max_completion_length=REPLY, num_iterations=1, beta=0.0, temperature=1.0,
        cache_implementation=None if args.cache == "dynamic" else args.cache, gradient_checkpointing=False, learning_rate=1e-6,
        lr_scheduler_type="constant", max_grad_norm=1.0, max_steps=1_000_000, logging_steps=1_000_000, logging_strategy="steps",
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False, torch_compile=args.compile)
    prompts = json.loads((args.model / "prompts.json").read_text())
    return Timed(model=model, args=config, reward_funcs=make_reward(alphabet), processing_class=make_tokenizer(alphabet),
                 train_dataset=Dataset.from_list([{"prompt": p} for p in prompts]), callbacks=[turns])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cache", choices=["dynamic", "static"], default="dynamic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    alphabet = json.loads((args.model / "tokenizer.json").read_text())["alphabet"]
    make_trainer(args, alphabet, make_callback()).train()


if __name__ == "__main__":
    main()
