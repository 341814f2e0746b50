"""Writes grouped.json: loss and gradients of tiny models over a grouped batch, by plain PyTorch in float64, each sequence alone.

    python make_grouped.py      # needs torch; its version is in the file

Weights follow from the formula of make_transformers.py. The model is written out here because Hugging Face computes norms and
rotary angles in float32; its logits are checked against theirs (transformers.json) first. Gradients are stored as three figures
per parameter: the sum of squares and the products with two waves over the flattened gradient.
"""
import json
import pathlib

import torch

from make_transformers import BASE, CASES, fill

HERE = pathlib.Path(__file__).parent
PROMPTS = [[3, 14, 15, 9, 26], [53, 58], [7]]
RESPONSES = [[[1, 2, 3, 4], [1, 2], [60]], [[8, 8, 8]], [[20, 21, 22, 23, 24, 25], [20]]]


def parameters(config):
    """Names and shapes, as Hugging Face has them."""
    c = config
    d, inner = c["hidden_size"], c["intermediate_size"]
    size = c.get("head_dim", d // c["num_attention_heads"])
    q, kv = c["num_attention_heads"] * size, c["num_key_value_heads"] * size
    biased, qwen2 = c.get("attention_bias", False), c["model_type"] == "qwen2"
    shapes = {"model.embed_tokens.weight": [c["vocab_size"], d], "model.norm.weight": [d]}
    if not c.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = [c["vocab_size"], d]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes |= {layer + "input_layernorm.weight": [d], layer + "post_attention_layernorm.weight": [d]}
        maps = {"self_attn.q_proj": (q, d, biased or qwen2), "self_attn.k_proj": (kv, d, biased or qwen2),
                "self_attn.v_proj": (kv, d, biased or qwen2), "self_attn.o_proj": (d, q, biased)}
        maps |= {f"mlp.{n}_proj": (*s, c.get("mlp_bias", False)) for n, s in (("gate", (inner, d)), ("up", (inner, d)), ("down", (d, inner)))}
        for name, (to, source, bias) in maps.items():
            shapes[layer + name + ".weight"] = [to, source]
            if bias:
                shapes[layer + name + ".bias"] = [to]
        if c["model_type"] == "qwen3":
            shapes |= {layer + "self_attn.q_norm.weight": [size], layer + "self_attn.k_norm.weight": [size]}
    return {name: fill(name, shape).double().float().double().requires_grad_() for name, shape in shapes.items()}


def norm(x, weight, epsilon):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def logits(config, w, tokens):
    """[T, vocab] of one sequence."""
    c, n = config, len(tokens)
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    size = c.get("head_dim", c["hidden_size"] // heads)
    angles = torch.outer(torch.arange(n, dtype=torch.float64), c["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size))
    cosine, sine = torch.cat((angles, angles), -1).cos()[:, None], torch.cat((angles, angles), -1).sin()[:, None]

    def linear(x, name):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    def turned(x):
        return x * cosine + torch.cat((-x[..., size // 2:], x[..., :size // 2]), -1) * sine

    x = w["model.embed_tokens.weight"][torch.tensor(tokens)]
    for i in range(c["num_hidden_layers"]):
        layer, a = f"model.layers.{i}.", f"model.layers.{i}.self_attn."
        h = norm(x, w[layer + "input_layernorm.weight"], c["rms_norm_eps"])
        q, k, v = (linear(h, a + f"{m}_proj").view(n, -1, size) for m in "qkv")
        if a + "q_norm.weight" in w:
            q, k = norm(q, w[a + "q_norm.weight"], c["rms_norm_eps"]), norm(k, w[a + "k_norm.weight"], c["rms_norm_eps"])
        q, k, v = turned(q), turned(k).repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / size**0.5 + torch.full((n, n), -torch.inf, dtype=torch.float64).triu(1)
        x = x + linear(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(n, -1), a + "o_proj")
        h = norm(x, w[layer + "post_attention_layernorm.weight"], c["rms_norm_eps"])
        x = x + linear(torch.nn.functional.silu(linear(h, layer + "mlp.gate_proj")) * linear(h, layer + "mlp.up_proj"), layer + "mlp.down_proj")
    head = "model.embed_tokens.weight" if c.get("tie_word_embeddings") else "lm_head.weight"
    return norm(x, w["model.norm.weight"], c["rms_norm_eps"]) @ w[head].T


def check(name, w, config):
    golden = json.load(open(HERE / "transformers.json"))
    case = golden["cases"][name]
    error = (logits(config, w, golden["tokens"])[case["rows"]] - torch.tensor(case["logits"], dtype=torch.float64)).abs().max().item()
    assert error < 1e-5, (name, error)


def group_loss(config, w):
    """Weights of tokens: (1 + prompt + 2 response) (-1)^position / 10; the loss adds 0.05 entropies of the same rows."""
    loss = torch.zeros((), dtype=torch.float64)
    for p, prompt in enumerate(PROMPTS):
        for r, response in enumerate(RESPONSES[p]):
            log_p = torch.log_softmax(logits(config, w, prompt + response), -1)[len(prompt) - 1:-1]
            for k, token in enumerate(response):
                loss = loss + (1 + p + 2 * r) * (-1) ** k / 10 * log_p[k, token] - 0.05 * (log_p[k].exp() * log_p[k]).sum()
    return loss


def figures(gradient):
    g = gradient.flatten()
    i = torch.arange(len(g), dtype=torch.float64)
    return [g.square().sum().item(), (g * (0.37 * i).sin()).sum().item(), (g * (1.3 * i + 1).cos()).sum().item()]


def main():
    out = dict(producer=f"torch {torch.__version__}, float64", prompts=PROMPTS, responses=RESPONSES, cases={})
    for name in ("llama", "llama_tied_biased", "qwen2", "qwen3"):
        config = {**BASE, **CASES[name]}
        w = parameters(config)
        check(name, w, config)
        loss = group_loss(config, w)
        loss.backward()
        out["cases"][name] = dict(config=config, loss=loss.item(), gradients={key: figures(p.grad) for key, p in w.items()})
    path = HERE / "grouped.json"
    path.write_text(json.dumps(out) + "\n")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
