"""What the language experiments share: models pre-trained with three seeds, runs with their processor time, evaluations on problems of
the test split, claims, tables and line plots. Needs the release build with LibTorch (scripts/test makes it).

Runs lie under runs/language; what is finished is not run again (`trimtab train` sees to that). Tuning looks at validation problems
only; the test problems of TEST_SEED are looked at by these scripts alone.
"""

import json
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = os.environ.get("TRIMTAB", str(ROOT / "build/release/trimtab"))
RUNS = Path(os.environ.get("RUNS", ROOT / "runs/language"))
SEEDS = (1, 2, 3)
TEST_SEED, TEST_PROBLEMS = 11, 512
COLOURS = ("#4477aa", "#cc6677", "#228833", "#aa3377", "#ccbb44", "#66ccee")


def train(config, out, *overrides):
    """Trains unless that is done; returns the run's folder. Its processor time goes into OUT/processor_s."""
    before = os.times()
    subprocess.run([BINARY, "train", ROOT / "configs" / config, *overrides, "--out", out], check=True, cwd=ROOT)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    if not (out / "processor_s").exists():
        (out / "processor_s").write_text(f"{spent:.2f}\n")
    return out


def start(seed, config="sft_chained.yaml", name="sft-chained", *overrides):
    return train(config, RUNS / f"{name}-seed{seed}", f"run.seed={seed}", *overrides)


def from_start(config, name, seed, model, *overrides):
    return train(config, RUNS / f"{name}-seed{seed}", f"run.seed={seed}", f"policy.model={model}", *overrides)


def evaluate(run):
    """{policy: {metric: mean}} over test problems: sampled, greedy, start, start_greedy."""
    out = run / "evaluation.json"
    if not out.exists():
        subprocess.run([BINARY, "eval", run, "--seed", str(TEST_SEED), "--episodes", str(TEST_PROBLEMS), "--json", out], check=True, cwd=ROOT)
    document = json.loads(out.read_text())
    return {p["name"]: {k: v["mean"] for k, v in p["metrics"].items()} for p in document["policies"] if p["file"] == ""}


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def summary(run):
    return json.loads((run / "summary.json").read_text())


def processor_s(run):
    return float((run / "processor_s").read_text())


def claim(name, values, unit, command, at=None, bar=None):
    """Mean over seeds with the smallest and the largest."""
    out = {"name": name, "value": sum(values) / len(values), "low": min(values), "high": max(values), "unit": unit, "seeds": len(values), "command": command}
    if at:
        out["target"] = {"at": at, "value": bar}
    return out


def met(c):
    if "target" not in c:
        return ""
    value = c["high" if c["target"]["at"] == "most" else "low"] if c["target"].get("interval") else c["value"]   # the whole interval, where the bar says so
    good = value >= c["target"]["value"] if c["target"]["at"] == "least" else value <= c["target"]["value"]
    return f"at {c['target']['at']} {c['target']['value']:g}: {'met' if good else '**missed**'}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(x) for x in row) + " |" for row in rows])


def claims_table(claims, interval="mean over seeds [smallest, largest]"):
    return table(["claim", interval, "bar"],
                 [[c["name"], f"{c['value']:.4g} [{c['low']:.4g}, {c['high']:.4g}] {c['unit']}", met(c)] for c in claims])


def publish(folder, claims, tables, interval="mean over seeds [smallest, largest]"):
    (folder / "results.json").write_text(json.dumps({"claims": claims}, indent=1) + "\n")
    readme = folder / "README.md"
    body = claims_table(claims, interval) + "\n\n" + "\n\n".join(tables)
    text = re.sub(r"<!-- tables -->.*<!-- end of tables -->", lambda _: f"<!-- tables -->\n{body}\n<!-- end of tables -->", readme.read_text(), flags=re.S)
    readme.write_text(text)
    print(claims_table(claims))


def plot(path, title, across, up, curves):
    """curves: [(label, [(x, y)...])]; one colour per label, one line per entry."""
    width, height, left, bottom, top, right = 640, 380, 60, 50, 36, 150
    xs, ys = [x for _, c in curves for x, _ in c], [y for _, c in curves for _, y in c]
    x0, x1, y0, y1 = min(xs), max(xs), min(0.0, min(ys)), max(ys) * 1.02
    px = lambda x: left + (x - x0) / (x1 - x0) * (width - left - right)
    py = lambda y: height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom)
    word = lambda x, y, s, anchor="middle", colour="#222": f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="{colour}">{s}</text>'
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">', word(left, 20, title, "start")]
    for i in range(6):
        x, y = x0 + (x1 - x0) * i / 5, y0 + (y1 - y0) * i / 5
        out += [f'<line x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}" stroke="#eee"/>', word(left - 6, py(y) + 4, f"{y:.4g}", "end"),
                word(px(x), height - bottom + 18, f"{x:.4g}")]
    labels = list(dict.fromkeys(label for label, _ in curves))
    for label, points in curves:
        path_text = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{path_text}" fill="none" stroke="{COLOURS[labels.index(label)]}" stroke-width="1.6"/>')
    out += [word(width - right + 10, top + 18 * i + 10, label, "start", COLOURS[i]) for i, label in enumerate(labels)]
    out += [word((left + width - right) / 2, height - 12, across), f'<g transform="translate(16 {(top + height - bottom) / 2}) rotate(-90)">{word(0, 0, up)}</g>', "</svg>"]
    Path(path).write_text("\n".join(out) + "\n")


def curve(run, x, y):
    """Points of a run's metrics; x is a metric, `step`, or `spent`: seconds of updates so far."""
    out, spent = [], 0.0
    for line in metrics(run):
        spent += line.get("time/update_s", 0.0)
        if line.get(y) is not None:
            out.append((spent if x == "spent" else line[x], line[y]))
    return out
