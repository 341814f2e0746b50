"""Writes transformers.json: tiny randomly initialised models of each family, their logits by Hugging Face transformers.

    python make_transformers.py      # needs torch and transformers; versions are in the file

Weights are not stored: they follow from a formula that the test computes too (see `fill`), so the file stays small.
"""
import json
import math
import pathlib
import tempfile

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

BASE = dict(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48, max_position_embeddings=64, rms_norm_eps=1e-5, hidden_act="silu")
CASES = {
    "llama": dict(model_type="llama", rope_theta=10000.0),
    "llama_tied_biased": dict(model_type="llama", rope_theta=500.0, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                              head_dim=12, num_key_value_heads=4),
    "llama3_rope": dict(model_type="llama", rope_theta=500000.0,
                        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                          original_max_position_embeddings=16)),
    "linear_rope": dict(model_type="llama", rope_theta=10000.0, rope_scaling=dict(rope_type="linear", factor=4.0)),
    "qwen2": dict(model_type="qwen2", rope_theta=1000000.0, tie_word_embeddings=True, use_sliding_window=False),
    "yarn_rope": dict(model_type="qwen2", rope_theta=10000.0, use_sliding_window=False,
                      rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
    "qwen3": dict(model_type="qwen3", rope_theta=1000000.0, head_dim=16, use_sliding_window=False),
}


def fill(name, shape):
    """Deterministic weights: sines whose phase comes from the name, around 1 for norms."""
    h = 2166136261
    for c in name.encode():
        h = ((h ^ c) * 16777619) & 0xFFFFFFFF
    n = math.prod(shape)
    x = torch.sin(torch.arange(n, dtype=torch.float64) * 0.7 + (h % 1000) * 0.01 + torch.arange(n, dtype=torch.float64) ** 2 * 0.013)
    x = x.reshape(shape)
    return 1 + 0.2 * x if "norm" in name else 0.25 * x


def main():
    out = dict(producer=f"transformers {transformers.__version__}, torch {torch.__version__}", cases={})
    tokens = [(7 * i * i + 3 * i + 5) % BASE["vocab_size"] for i in range(40)]
    for name, extra in CASES.items():
        config = {**BASE, **extra}
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager").double().eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(fill(key, parameter.shape))
            logits = model(torch.tensor([tokens])).logits[0]
        rows = [0, 1, 17, 39]
        out["cases"][name] = dict(config=config, rows=rows, logits=[[round(v, 9) for v in logits[r].tolist()] for r in rows])
    out["tokens"] = tokens
    path = pathlib.Path(__file__).with_name("transformers.json")
    path.write_text(json.dumps(out) + "\n")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
