"""What every side-by-side benchmark shares: pinned peer environments, building our programs, interleaved runs, the result file.

A side is a worker: a process that prints {"ready": true}, then answers every line "go" on its standard input with one line of
JSON that holds its figure. Both sides stay alive and take turns (ours, peer, ours, peer, ...), so that what else the machine
does hits both; a waiting worker sleeps. Loading, compiling and warm-up happen before "ready" and are not timed.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPS = ROOT / ".deps"
PAIRS = 7  # interleaved pairs: at least five, odd so that the median is one of them


def say(text):
    print(text, file=sys.stderr, flush=True)


def python_of(name):
    """The interpreter of the pinned environment `name` (.deps/NAME); scripts/setup makes it on first use."""
    subprocess.run([ROOT / "scripts" / "setup", f"--{name}"], check=True, stdout=sys.stderr)
    return DEPS / name / "bin" / "python"


def build_folder():
    return Path(os.environ.get("TRIMTAB_BENCH_BUILD", ROOT / "build" / "release"))


def build(*targets, torch=False):
    """Builds our programs in the release build, with LibTorch where `torch`; returns the folder they lie in."""
    folder = build_folder()
    options = ["-DTRIMTAB_BENCH=ON"]
    if torch:
        subprocess.run([ROOT / "scripts" / "setup", "--torch"], check=True, stdout=sys.stderr)
        options += ["-DTRIMTAB_TORCH=ON"]
    if not (folder / "CMakeCache.txt").exists():
        options += ["-DTRIMTAB_TESTS=OFF"] + ([] if torch else ["-DTRIMTAB_TORCH=OFF"])
    say(f"building {' '.join(targets)}")
    with open(os.devnull, "w") as quiet:
        subprocess.run(["cmake", "--preset", "release", "-B", folder, *options], cwd=ROOT, check=True, stdout=quiet)
    subprocess.run(["cmake", "--build", folder, "-j", str(os.cpu_count()), "--target", *targets], cwd=ROOT, check=True,
                   stdout=sys.stderr)
    return folder


class Worker:
    """One side of a comparison. `threads` is given to every thread pool a peer may use."""

    def __init__(self, command, threads=1, env=None):
        settings = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads),
                        OPENBLAS_NUM_THREADS=str(threads), OMP_WAIT_POLICY="PASSIVE", KMP_BLOCKTIME="0", **(env or {}))
        self.command = [str(c) for c in command]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=settings,
                                        cwd=ROOT)
        self.about = self._answer()

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(self.command)} ended with status {self.process.wait()}")

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def interleave(workers, pairs=PAIRS):
    """{name: [answers]}: every worker once per round, in turn."""
    answers = {name: [] for name in workers}
    for index in range(pairs):
        say(f"round {index + 1} of {pairs}")
        for name, worker in workers.items():
            answers[name].append(worker.go())
    return answers


def quartiles(values):
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def row(name, case, ours, peer, peer_name, unit, limit, smaller_is_better=False):
    """One row of the result. ours and peer: figures of the pairs in order; the ratio is taken pair by pair."""
    ratios = [p / o if smaller_is_better else o / p for o, p in zip(ours, peer)]
    low, median, high = quartiles(ratios)
    return {"name": name, "case": case, "ours": statistics.median(ours), "peer": statistics.median(peer), "peer_name": peer_name,
            "unit": unit, "ratio": {"median": median, "low": low, "high": high}, "limit": limit, "runs": len(ratios)}


def own_row(name, case, ours, bar, unit, limit, smaller_is_better=False):
    """A figure that has a bar and no peer: `peer` is the bar, so that the ratio reads the same way (> 1: met)."""
    return row(name, case, ours, [bar] * len(ours), "bar", unit, limit, smaller_is_better)


def hardware():
    model, flags = platform.machine(), ""
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
            if line.startswith(("cpu family", "model\t")):
                flags += " " + re.sub(r"\s+", " ", line.replace(":", " ")).strip()
            if line.startswith("flags"):
                words = line.split()
                flags += " " + " ".join(f for f in ("avx2", "avx512f", "avx512_fp16", "amx_bf16") if f in words)
                break
    return f"{os.cpu_count()} x {model} ({flags.strip()})"


def version():
    text = (ROOT / "CMakeLists.txt").read_text()
    number = re.search(r"project\(trimtab VERSION ([0-9.]+)", text).group(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return f"{number} ({commit.stdout.strip()})" if commit.returncode == 0 else number


def table(rows):
    lines = [f"{'case':<66} {'ours':>12} {'peer':>12} {'unit':<14} {'ratio':>8} {'quartiles':>17}  bar"]
    for r in rows:
        q = r["ratio"]
        met = "" if r["limit"] is None else ("met" if q["median"] >= r["limit"] else "MISSED")
        limit = "" if r["limit"] is None else f">= {r['limit']:g} {met}"
        lines.append(f"{r['case']:<66} {r['ours']:>12.5g} {r['peer']:>12.5g} {r['unit']:<14} {q['median']:>8.3g} "
                     f"{q['low']:>8.3g}-{q['high']:<8.3g}  {limit}")
    return "\n".join(lines)


def finish(rows, json_path, **extra):
    result = {"hardware": hardware(), "version": version(), "benchmarks": rows, **extra}
    print(table(rows))
    if json_path:
        Path(json_path).parent.mkdir(parents=True, exist_ok=True)
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
        say(f"written: {json_path}")


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--json", metavar="OUT", help="write the result here")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"interleaved pairs (default {PAIRS})")
    parser.add_argument("--only", default="", help="only cases whose name contains this text")
    return parser.parse_args()
