"""onnxruntime's GroupQueryAttention on a quantised cache: one decode step over a cache of about a GiB, past and present in one buffer."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import worker

HEADS, LENGTH, DIM = 32, 32768, 128  # of KV heads; keys of a sequence


def model(bits, group, batch):
    packed = DIM if bits == 8 else DIM // 2
    cache = TensorProto.INT8 if bits == 8 else TensorProto.UINT8
    f, width = TensorProto.FLOAT, HEADS * DIM
    tensor = helper.make_tensor_value_info
    node = helper.make_node("GroupQueryAttention", ["q", "k", "v", "past_k", "past_v", "last", "total", "", "", "", "", "", "k_scale", "v_scale"],
                            ["out", "present_k", "present_v"], domain="com.microsoft", num_heads=HEADS * group, kv_num_heads=HEADS,
                            k_quant_type="PER_CHANNEL", v_quant_type="PER_CHANNEL", kv_cache_bit_width=bits)
    kept = [batch, HEADS, LENGTH, packed]
    graph = helper.make_graph([node], "decode", [
        tensor("q", f, [batch, 1, width * group]), tensor("k", f, [batch, 1, width]), tensor("v", f, [batch, 1, width]),
        tensor("past_k", cache, kept), tensor("past_v", cache, kept), tensor("last", TensorProto.INT32, [batch]),
        tensor("total", TensorProto.INT32, [1]), tensor("k_scale", f, [width]), tensor("v_scale", f, [width])],
        [tensor("out", f, [batch, 1, width * group]), tensor("present_k", cache, kept), tensor("present_v", cache, kept)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10).SerializeToString()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bits", type=int)
    parser.add_argument("--group", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    batch = 4 if a.bits == 8 else 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = a.threads
    session = ort.InferenceSession(model(a.bits, a.group, batch), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    row = rng.integers(-120, 120, size=(1, 1, 64, DIM if a.bits == 8 else DIM // 2))
    kept = np.tile(row, (batch, HEADS, LENGTH // 64, 1)).astype(np.int8 if a.bits == 8 else np.uint8)
    value = ort.OrtValue.ortvalue_from_numpy
    past = {name: value(kept) for name in ("k", "v")}
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    binding = session.io_binding()
    inputs = {"q": normal(batch, 1, HEADS * a.group * DIM), "k": normal(batch, 1, HEADS * DIM), "v": normal(batch, 1, HEADS * DIM),
              "last": np.full(batch, LENGTH - 1, np.int32), "total": np.array([LENGTH], np.int32),
              "k_scale": np.full(HEADS * DIM, 0.01, np.float32), "v_scale": np.full(HEADS * DIM, 0.01, np.float32)}
    held = {name: value(x) for name, x in inputs.items()}
    for name, x in held.items():
        binding.bind_ortvalue_input(name, x)
    for name, x in past.items():
        binding.bind_ortvalue_input(f"past_{name}", x)
        binding.bind_ortvalue_output(f"present_{name}", x)
    binding.bind_output("out", "cpu")

    def measure():
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        return {"ns_per_key": (time.perf_counter() - start) * 1e9 / (batch * HEADS * LENGTH)}

    measure()
    worker.serve(measure, version=ort.__version__)


if __name__ == "__main__":
    main()
