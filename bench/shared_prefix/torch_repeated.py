"""PyTorch's side: the same Llama on the same weights by hand (F.rms_norm, F.scaled_dot_product_attention, F.silu), rows with the
prompt repeated, the head on response tokens only, the same loss. All rows are equally long, so nothing is padded.

--batch 0: all rows in one forward; N: N rows at a time, gradients accumulated. Worker of bench/harness.py.
"""
import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


def rotate(x, cosine, sine):
    a, b = x.chunk(2, -1)
    return x * cosine + torch.cat((-b, a), -1) * sine


class Llama:
    def __init__(self, folder):
        self.config = json.load(open(f"{folder}/config.json"))
        self.w = {name: tensor.requires_grad_() for name, tensor in load_file(f"{folder}/model.safetensors").items()}

    def norm(self, x, name):
        return F.rms_norm(x, x.shape[-1:], self.w[name], self.config["rms_norm_eps"])

    def hidden(self, tokens):
        c, w = self.config, self.w
        size = c["head_dim"]
        inverse = c.get("rope_theta", 10000.0) ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = torch.outer(torch.arange(tokens.shape[1], dtype=torch.float64), inverse)
        angles = torch.cat((angles, angles), -1)
        cosine, sine = angles.cos().float(), angles.sin().float()
        x = F.embedding(tokens, w["model.embed_tokens.weight"])
        for i in range(c["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            h = self.norm(x, layer + "input_layernorm.weight")
            q, k, v = (F.linear(h, w[f"{layer}self_attn.{n}_proj.weight"]).unflatten(-1, (-1, size)).transpose(1, 2) for n in "qkv")
            a = F.scaled_dot_product_attention(rotate(q, cosine, sine), rotate(k, cosine, sine), v, is_causal=True,
                                               enable_gqa=q.shape[1] != k.shape[1])
            x = x + F.linear(a.transpose(1, 2).flatten(2), w[layer + "self_attn.o_proj.weight"])
            h = self.norm(x, layer + "post_attention_layernorm.weight")
            gate, up = F.linear(h, w[layer + "mlp.gate_proj.weight"]), F.linear(h, w[layer + "mlp.up_proj.weight"])
            x = x + F.linear(F.silu(gate) * up, w[layer + "mlp.down_proj.weight"])
        return self.norm(x, "model.norm.weight")


def batch(prompt, response, group, vocab):
    """The formulas of shared_prefix.cpp."""
    tokens = [[(7 * j * j + 3 * j + 5) % vocab for j in range(prompt)] +
              [(31 * (g + 1) + 11 * j * j + 17 * j) % vocab for j in range(response)] for g in range(group)]
    advantage = [[((37 * g + 13 * j) % 21 - 10) / 10 for j in range(response)] for g in range(group)]
    return torch.tensor(tokens), torch.tensor(advantage)


def update(hidden, model, tokens, advantage, rows):
    prompt, total = tokens.shape[1] - advantage.shape[1], 0.0
    for first in range(0, len(tokens), rows):
        part, weight = tokens[first:first + rows], advantage[first:first + rows]
        logits = F.linear(hidden(part)[:, prompt - 1:-1], model.w["lm_head.weight"])
        logp = torch.log_softmax(logits, -1).gather(2, part[:, prompt:, None])[..., 0]
        loss = -(logp * weight).sum() / advantage.numel()
        loss.backward()
        total += loss.item()
    return total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    for name in ("prompt", "response", "group"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    model = Llama(a.model)
    tokens, advantage = batch(a.prompt, a.response, a.group, model.config["vocab_size"])
    hidden = torch.compile(model.hidden, dynamic=False) if a.compile else model.hidden
    rows = a.batch or a.group
    for p in model.w.values():  # as ours: gradients lie in buffers that are there already
        p.grad = torch.zeros_like(p)
    loss = [update(hidden, model, tokens, advantage, rows) for _ in range(2)][0]
    print(json.dumps({"ready": True, "loss": loss, "torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        update(hidden, model, tokens, advantage, rows)
        print(json.dumps({"repeated": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main()
