#!/usr/bin/env python3
"""The sweep of bench/shared_prefix as a plot and as claims: reads raw.json (what `scripts/bench shared_prefix --json` wrote), writes
sweep.svg, results.json and the tables of README.md.

    experiments/prefix_sharing/plot.py [RAW_JSON]
"""

import json
import math
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMAND = "scripts/bench shared_prefix --json experiments/prefix_sharing/raw.json"
COLOURS = {2: "#4477aa", 4: "#228833", 8: "#cc6677", 16: "#aa3377"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 440, 60, 20, 40, 55


def sweep_rows(rows):
    return [r for r in rows if r["case"].startswith("sweep ")]


class Axes:
    """Logarithmic in both directions: P/R to the right, the ratio of times upwards."""

    def __init__(self, x, y):
        self.x, self.y = [math.log2(v) for v in x], [math.log2(v) for v in y]

    def place(self, x, y):
        across = (math.log2(x) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log2(y) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def text(x, y, words, anchor="middle", size=12, colour="#222"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{words}</text>'


def grid(axes):
    out = []
    for x in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16):
        across, _ = axes.place(x, 1)
        out.append(f'<line x1="{across:.1f}" y1="{TOP}" x2="{across:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>')
        out.append(text(across, HEIGHT - BOTTOM + 18, f"1/{round(1 / x)}" if x < 1 else f"{x:g}"))
    for y in (1, 1.5, 2, 3, 4, 6, 8, 12):
        _, up = axes.place(1, y)
        out.append(f'<line x1="{LEFT}" y1="{up:.1f}" x2="{WIDTH - RIGHT}" y2="{up:.1f}" stroke="{"#999" if y == 1 else "#eee"}"/>')
        out.append(text(LEFT - 8, up + 4, f"{y:g}x", "end"))
    return out


def series(axes, rows, group):
    mine = sorted((r for r in rows if r["group"] == group), key=lambda r: r["prompt"] / r["response"])
    points = [(r["prompt"] / r["response"], r) for r in mine]
    colour = COLOURS[group]

    def line(value, style):
        path = " ".join("{:.1f},{:.1f}".format(*axes.place(x, value(r))) for x, r in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" {style}/>'

    out = [line(lambda r: r["flop_limit"], 'stroke-dasharray="5 4" opacity="0.7"'), line(lambda r: r["ratio"]["median"], 'stroke-width="2"')]
    for x, r in points:
        across, low = axes.place(x, r["ratio"]["low"])
        high, middle = axes.place(x, r["ratio"]["high"])[1], axes.place(x, r["ratio"]["median"])[1]
        out.append(f'<line x1="{across:.1f}" y1="{low:.1f}" x2="{across:.1f}" y2="{high:.1f}" stroke="{colour}" stroke-width="1.5"/>')
        out.append(f'<circle cx="{across:.1f}" cy="{middle:.1f}" r="3.2" fill="{colour}"/>')
    return out


def svg(rows, hardware):
    axes = Axes((0.11, 18.5), (0.9, 14))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *grid(axes)]
    for i, group in enumerate(COLOURS):
        out += series(axes, rows, group)
        out.append(f'<rect x="{LEFT + 14}" y="{TOP + 12 + 20 * i}" width="18" height="3" fill="{COLOURS[group]}"/>')
        out.append(text(LEFT + 38, TOP + 18 + 20 * i, f"{group} responses", "start"))
    out.append(text(LEFT + 14, TOP + 22 + 20 * len(COLOURS), "dashed: ratio of FLOPs", "start", 11, "#555"))
    out.append(text(WIDTH / 2, 22, "Update with the prompt encoded once: speed over the prompt repeated", size=15))
    out.append(text(WIDTH / 2, HEIGHT - 18, "prompt tokens / response tokens (sequences of 144 tokens, one thread)"))
    out.append(text(WIDTH / 2, HEIGHT - 4, hardware, size=9, colour="#777"))
    return "\n".join(out + ["</svg>"]) + "\n"


def claim(name, row, at, value, unit="ratio"):
    r = row["ratio"]
    return {"name": name, "value": r["median"], "low": r["low"], "high": r["high"], "unit": unit, "seeds": 1, "command": COMMAND,
            "target": None if at is None else {"at": at, "value": value}}


def claims(rows):
    out = []
    for r in rows:
        if r["case"].startswith("sweep"):
            continue
        if "peak activation memory" in r["case"]:
            fraction = r["ours"] / r["peer"]
            target = None if r["limit"] is None else {"at": "most", "value": round(1 / r["limit"], 4)}
            out.append({"name": r["case"] + ", fraction of the repeated", "value": fraction, "low": fraction, "high": fraction, "unit": "fraction",
                        "seeds": 1, "command": COMMAND, "target": target})
        else:
            out.append(claim(f"{r['case']} against {r['peer_name']}", r, None if r["limit"] is None else "least", r["limit"]))
    slowest = min(sweep_rows(rows), key=lambda r: r["ratio"]["median"])
    out.append(claim(f"slowest of the sweep: {slowest['case'][6:]}", slowest, "least", slowest["limit"]))
    return out


def cell(c):
    target = c["target"]
    met = "" if target is None else ("met" if (c["value"] >= target["value"] if target["at"] == "least" else c["value"] <= target["value"]) else "missed")
    bar = "" if target is None else f"at {target['at']} {target['value']:.3g}, {met}"
    return f"| {c['name']} | {c['value']:.3g} [{c['low']:.3g}, {c['high']:.3g}] | {bar} |"


def tables(raw):
    rows = raw["benchmarks"]
    lines = ["| case | ratio of times [quartiles] | bar |", "|---|---|---|"] + [cell(c) for c in claims(rows)] + [""]
    lines += ["FLOP limits: " + ", ".join(f"{name}: {d['flop_limit']:.2f}" for name, d in raw.get("details", {}).items()) + ".", ""]
    sweep = sweep_rows(rows)
    groups = sorted({r["group"] for r in sweep})
    lines += ["| P, R | " + " | ".join(f"G={g}" for g in groups) + " |", "|---|" + "---|" * len(groups)]
    for p, r in sorted({(x["prompt"], x["response"]) for x in sweep}):
        cells = [next(x for x in sweep if (x["prompt"], x["response"], x["group"]) == (p, r, g)) for g in groups]
        lines.append(f"| {p}, {r} | " + " | ".join(f"{x['ratio']['median']:.2f} of {x['flop_limit']:.2f}" for x in cells) + " |")
    return "\n".join(lines + ["", f"Hardware: {raw['hardware']}."])


def main():
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "raw.json"
    raw = json.loads(source.read_text())
    (HERE / "sweep.svg").write_text(svg(sweep_rows(raw["benchmarks"]), raw["hardware"]))
    (HERE / "results.json").write_text(json.dumps({"claims": claims(raw["benchmarks"])}, indent=1) + "\n")
    readme = HERE / "README.md"
    readme.write_text(re.sub(r"(<!-- tables -->\n).*(\n<!-- end of tables -->)", lambda m: m.group(1) + tables(raw) + m.group(2),
                             readme.read_text(), flags=re.S))


if __name__ == "__main__":
    main()
