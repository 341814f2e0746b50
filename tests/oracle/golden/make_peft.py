"""Writes peft.json: logits of tiny models with LoRA adapters by PEFT; and, with a folder as argument, a folder of each as PEFT saves it.

    python make_peft.py              # needs torch, transformers and peft; versions are in the file

Weights are not stored: they follow from the formula of make_transformers.py, which the test computes too. Of each adapter the golden
file holds adapter_config.json as PEFT wrote it and the names and shapes in adapter_model.safetensors.
"""
import json
import pathlib
import sys
import tempfile

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from make_transformers import BASE, CASES, fill

ADAPTERS = {
    "llama_attention": ("llama", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
    "llama_head": ("llama", dict(r=2, lora_alpha=3, target_modules=["o_proj", "lm_head"])),
    "qwen2_all": ("qwen2", dict(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM")),
    "qwen3_rslora": ("qwen3", dict(r=4, lora_alpha=6, use_rslora=True, target_modules=["gate_proj", "down_proj", "k_proj"], lora_dropout=0.1)),
    "biased_layers": ("llama_tied_biased", dict(r=2, lora_alpha=2, target_modules=["layers.1.mlp.up_proj", "layers.0.self_attn.k_proj"])),
}


def adapted(case, lora):
    """The model of make_transformers.py with its adapter, all filled by the formula."""
    with tempfile.TemporaryDirectory() as folder:
        config = {**BASE, **CASES[case]}
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            parameter.copy_(fill(name, parameter.shape))
    model = get_peft_model(base, LoraConfig(**lora)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(fill(name.replace(".default", ""), parameter.shape))
    return config, model


def main():
    folders = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
    tokens, rows = [(7 * i * i + 3 * i + 5) % BASE["vocab_size"] for i in range(40)], [0, 1, 17, 39]
    out = dict(producer=f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}", tokens=tokens, cases={})
    for name, (case, lora) in ADAPTERS.items():
        config, model = adapted(case, lora)
        with tempfile.TemporaryDirectory() as temporary:
            folder = folders / name if folders else pathlib.Path(temporary)
            model.save_pretrained(folder)
            written = json.loads((folder / "adapter_config.json").read_text())
            written["target_modules"] = sorted(written["target_modules"])  # PEFT's order is a set's
            tensors = load_file(folder / "adapter_model.safetensors")
        with torch.no_grad():
            logits = model.double()(torch.tensor([tokens])).logits[0]
        out["cases"][name] = dict(config=config, adapter_config=written, tensors={k: list(v.shape) for k, v in sorted(tensors.items())}, rows=rows,
                                  logits=[[round(v, 9) for v in logits[r].tolist()] for r in rows])
    if folders is None:
        path = pathlib.Path(__file__).with_name("peft.json")
        path.write_text(json.dumps(out) + "\n")
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
