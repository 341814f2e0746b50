"""Decodes two blocks with trimtab_commit.py and a made-up model, without SGLang.

    python3 demo.py controller.ttc.safetensors --library libtrimtab_runtime.so

The model knows two lines of text and is the surer of a letter the more of its neighbours are committed; every other logit is noise of the seed.
Prints the blocks before every pass, _ where masked, and how many passes and commits they took. --check FILE compares with the lines of a file.
"""
import argparse
import random
import sys
from types import SimpleNamespace

from trimtab_commit import Algorithm

VOCABULARY = "abcdefghijklmnopqrstuvwxyz ."
MASK, ENDING = len(VOCABULARY), VOCABULARY.index(".")
TEXTS, PROMPT = ("a cold wind blew", "over the sea...."), 4   # the first four letters of the first block are prompt
BLOCK = len(TEXTS[0])


class Model:
    """The part of a model runner that strategies use."""

    def __init__(self, seed, tensors):
        draws = random.Random(seed)
        self.text = [VOCABULARY.index(letter) for text in TEXTS for letter in text]
        self.noise = [[3 * draws.random() for _ in range(MASK + 1)] for _ in self.text]
        self.tensors, self.lines, self.passes = tensors, [], 0

    def forward(self, forward_batch, pp_proxy_tensors=None):
        ids = [int(token) for token in forward_batch.input_ids]
        logits = [list(row) for row in self.noise]
        for place, row in enumerate(logits):
            block = range(place // BLOCK * BLOCK, place // BLOCK * BLOCK + BLOCK)
            near = [p for p in range(place - 3, place + 4) if p != place and p in block]
            row[self.text[place]] += 5 + 1.5 * sum(ids[p] != MASK for p in near)
        self.lines.append(f"pass {self.passes}: " + " | ".join(canvas(ids[i:i + BLOCK]) for i in range(0, len(ids), BLOCK)))
        self.passes += 1
        if self.tensors:
            import torch
            logits = torch.tensor(logits)
        return SimpleNamespace(logits_output=SimpleNamespace(full_logits=logits), can_run_graph=False)


def canvas(ids):
    return "".join((VOCABULARY + "_")[token] for token in ids)


def decode(options):
    settings = {"controller": options.controller, "library": options.library, "threshold": options.threshold, "most": options.most, "eos_ids": [ENDING]}
    strategy = Algorithm(SimpleNamespace(block_size=BLOCK, mask_id=MASK, algorithm_config=settings, first_done_first_out_mode=False))
    model = Model(options.seed, options.torch)
    ids = model.text[:PROMPT] + [MASK] * (len(model.text) - PROMPT)
    if options.torch:
        import torch
        ids = torch.tensor(ids)
    _, tokens, *_ = strategy.run(model, SimpleNamespace(batch_size=len(TEXTS), input_ids=ids, dllm_prompt_mask=None))
    counters = strategy.controller.counters()
    committed = sum(len(block) for block in tokens)
    return model.lines + [f"{committed} tokens in {model.passes - 1} passes of both blocks, and one for the last keys and values",
                          f"controller: {counters['calls']} questions, {counters['fallbacks']} fallbacks, {counters['out_of_range']} numbers out of range"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("controller", help="an artefact of trimtab export or trimtab fit commitment")
    parser.add_argument("--library", help="libtrimtab_runtime.so; else TRIMTAB_RUNTIME names it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--most", type=int)
    parser.add_argument("--torch", action="store_true", help="logits and tokens as tensors of torch")
    parser.add_argument("--check", metavar="FILE", help="compare with these lines; 1 where one differs")
    options = parser.parse_args()
    try:
        lines = decode(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 3
    print("\n".join(lines))
    if not options.check:
        return 0
    with open(options.check, encoding="utf-8") as file:
        expected = file.read().splitlines()
    for number in range(max(len(lines), len(expected))):
        pair = [text[number] if number < len(text) else "(nothing)" for text in (lines, expected)]
        if pair[0] != pair[1]:
            print(f"{options.check}:{number + 1}: printed '{pair[0]}', expected '{pair[1]}'", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
