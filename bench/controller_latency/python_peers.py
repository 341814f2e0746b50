"""onnxruntime's Python binding and frozen TorchScript on the network of make_models.py, one call after another, each call's
input depending on the last one's output. A worker: every "go" times --calls calls one by one."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import worker


def onnxruntime_call(folder, binding):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"), options, providers=["CPUExecutionProvider"])
    x = np.zeros((1, 16), np.float32)
    if not binding:
        return x, lambda: session.run(None, {"x": x})[0]
    y = np.zeros((1, 2), np.float32)
    io = session.io_binding()
    io.bind_input("x", "cpu", 0, np.float32, [1, 16], x.ctypes.data)
    io.bind_output("y", "cpu", 0, np.float32, [1, 2], y.ctypes.data)

    def call():
        session.run_with_iobinding(io)
        return y

    return x, call


def torchscript_call(folder):
    import torch

    torch.set_num_threads(1)
    net = torch.jit.load(str(folder / "net.pt"))
    tensor = torch.zeros(1, 16)
    guard = torch.inference_mode()
    guard.__enter__()
    return tensor.numpy(), lambda: net(tensor)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", choices=["run", "iobinding", "torchscript"], default="run")
    parser.add_argument("--calls", type=int, default=20000)
    args = parser.parse_args()
    x, call = torchscript_call(args.folder) if args.peer == "torchscript" else onnxruntime_call(args.folder, args.peer == "iobinding")

    cases = np.fromfile(args.folder / "weights.bin", np.float32)[-64 * 18:]
    inputs, outputs = cases[:64 * 16].reshape(64, 16), cases[64 * 16:].reshape(64, 2)
    error = 0.0
    for given, wanted in zip(inputs, outputs):
        x[0] = given
        error = max(error, float(np.abs(np.asarray(call())[0] - wanted).max()))
    if error > 1e-5:
        sys.exit(f"{args.peer} differs from the float64 reference by {error}")

    def measure():
        times = np.empty(args.calls)
        row = x[0]
        clock = time.perf_counter_ns
        for i in range(args.calls):
            begin = clock()
            y = call()
            times[i] = clock() - begin
            row[0] = inputs[i & 63, 0] + 1e-6 * float(y[0, 0])
        times /= 1000
        return {"p50": float(np.percentile(times, 50)), "p999": float(np.percentile(times, 99.9)), "max": float(times.max())}

    measure()
    worker.serve(measure, max_error=error)


if __name__ == "__main__":
    main()
