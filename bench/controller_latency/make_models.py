"""The same network, 16 features -> 64 tanh -> 64 tanh -> 2, for every side: weights.bin (our program), net.onnx, net.pt.

weights.bin: for each layer weight [in, out] then bias [out], float32, little endian; then 64 inputs [16] and their outputs [2]
computed in float64, which every side checks itself against. net.ttc.safetensors is our deploy artefact (runtime/README.md).
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

SIZES = (16, 64, 64, 2)


def write_artefact(path, layers, inputs, outputs):
    tensors = {"in": inputs, "out": outputs}
    operations = []
    for index, (weight, bias) in enumerate(layers):
        tensors[f"w{index}"], tensors[f"b{index}"] = weight, bias
        operations.append({"op": "linear", "to": "decision", "out": weight.shape[1], "rows": f"w{index}", "bias": f"b{index}"})
        if index < 2:
            operations.append({"op": "tanh"})
    agent = {"name": "net", "deadline_us": 0, "max_items": 0, "item": [],
             "context": [{"name": f"x{i}", "unit": "1", "low": -10, "high": 10} for i in range(SIZES[0])],
             "action": {"kind": "gaussian", "size": SIZES[-1], "low": -1e6, "high": 1e6, "meaning": "two numbers"},
             "fallback": [0, 0], "operations": operations,
             "self_test": {"count": len(inputs), "context": "in", "action": "out"}}
    spec = {"schema": 1, "abi": 1, "agents": [agent]}
    header = {"__metadata__": {"trimtab.controller": json.dumps(spec), "trimtab.checksum": "0" * 16}}
    offset = 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + b"".join(np.ascontiguousarray(a).tobytes() for a in tensors.values())
    value = 0xCBF29CE484222325  # FNV-1a of the file with zeros in the checksum's place
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    mark = b'"trimtab.checksum": "'
    at = data.index(mark) + len(mark)
    path.write_bytes(data[:at] + f"{value:016x}".encode() + data[at + 16:])


def main(folder):
    generator = np.random.default_rng(1)
    layers = [(generator.normal(0, 1 / np.sqrt(a), (a, b)).astype(np.float32), generator.normal(0, 0.1, b).astype(np.float32))
              for a, b in zip(SIZES, SIZES[1:])]
    inputs = generator.normal(0, 1, (64, SIZES[0])).astype(np.float32)
    hidden = inputs.astype(np.float64)
    for index, (weight, bias) in enumerate(layers):
        hidden = hidden @ weight + bias
        hidden = np.tanh(hidden) if index < 2 else hidden
    write_artefact(folder / "net.ttc.safetensors", layers, inputs, hidden.astype(np.float32))
    with open(folder / "weights.bin", "wb") as out:
        for array in [a for layer in layers for a in layer] + [inputs, hidden.astype(np.float32)]:
            out.write(np.ascontiguousarray(array).tobytes())

    nodes, constants, name = [], [], "x"
    for index, (weight, bias) in enumerate(layers):
        constants += [numpy_helper.from_array(weight, f"w{index}"), numpy_helper.from_array(bias, f"b{index}")]
        last = index == 2
        nodes.append(helper.make_node("Gemm", [name, f"w{index}", f"b{index}"], ["y" if last else f"g{index}"]))
        if not last:
            nodes.append(helper.make_node("Tanh", [f"g{index}"], [f"h{index}"]))
        name = f"h{index}"
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SIZES[0]])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, SIZES[-1]])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "net.onnx")

    modules = []
    for index, (weight, bias) in enumerate(layers):
        linear = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T.copy()))
            linear.bias.copy_(torch.from_numpy(bias))
        modules += [linear] + ([torch.nn.Tanh()] if index < 2 else [])
    scripted = torch.jit.script(torch.nn.Sequential(*modules).eval())
    torch.jit.freeze(scripted).save(str(folder / "net.pt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
