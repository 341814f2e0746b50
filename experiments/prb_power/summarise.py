#!/usr/bin/env python3
"""Keeps what the tables need of the evaluations, and writes results.json and the tables of README.md from them.

Usage: experiments/prb_power/summarise.py RUNS_FOLDER     (the folder that `experiments/prb_power/run` filled)
"""
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
POINTS = [f"{scenario}dbm-{csi}" for scenario in ("umi-30", "umi-46", "uma-46") for csi in ("fresh", "late-cqi")]
SHOWN = ["joint", "prb_only", "power_only", "pf_equal", "pf_fair_power", "pf_water_power", "pf_la_power", "pf_prior_power", "round_robin_equal", "max_ci_equal"]
BARS = {"umi-30": 1.07, "umi-46": 1.04, "uma-46": 1.10}


def trimmed(full):
    """Rows over all files; pairs with proportional fair; every frontier ratio of a learned policy."""
    learned = {p["name"] for p in full["policies"] if p["kind"] == "learned"}
    return {
        "data": full["data"], "version": full["version"], "hardware": full["hardware"], "seeds": full["seeds"],
        "policies": [p for p in full["policies"] if p["file"] == full["policies"][0]["file"]],
        "paired": [p for p in full["paired"] if p["policy"] in learned and p["against"] in ("pf_equal", "pf_la_power")
                   and p["metric"] in ("cell_throughput_mbps", "jain", "p5_throughput_mbps") and p["file"] == full["paired"][0]["file"]],
        "frontier": [f for f in full["frontier"] if f["policy"] in learned and f["file"] == full["frontier"][0]["file"]],
    }


def pick(rows, **keys):
    return next(row for row in rows if all(row[k] == v for k, v in keys.items()))


def interval(x, digits=3):
    return f"{x['mean']:.{digits}f} [{x['low']:.{digits}f}, {x['high']:.{digits}f}]"


def claims_of(point, e):
    command = f"experiments/prb_power/run; {point}"
    scenario = point.split("dbm")[0]
    late = point.endswith("late-cqi")
    rows = []

    def claim(name, x, target):
        rows.append({"name": f"{point}: {name}", "value": x["mean"], "low": x["low"], "high": x["high"], "unit": "ratio",
                     "seeds": e["seeds"], "command": command, "target": target})

    pair = pick(e["paired"], policy="joint", against="pf_equal", metric="cell_throughput_mbps")
    claim("joint over pf_equal, cell throughput (lower end counts)", pair["ratio"], {"at": "least", "value": BARS[scenario]})
    fairness = pick(e["paired"], policy="joint", against="pf_equal", metric="jain")["difference"]
    rows.append({"name": f"{point}: joint minus pf_equal, Jain's index", "value": fairness["mean"], "low": fairness["low"],
                 "high": fairness["high"], "unit": "", "seeds": e["seeds"], "command": command, "target": {"at": "least", "value": -0.02}})
    for policy in ("joint", "prb_only", "power_only"):
        claim(f"{policy} over the equal-power frontier at equal Jain's index",
              pick(e["frontier"], policy=policy, frontier="equal_power")["ratio"], {"at": "least", "value": 1.0})
    claim("joint over the strongest heuristic (la_power frontier) at equal Jain's index",
          pick(e["frontier"], policy="joint", frontier="la_power")["ratio"], {"at": "least", "value": 1.03 if late else 0.99})
    return rows


def table(evaluations):
    lines = ["| operating point | joint, Mbit/s | Jain | PF + equal power | Jain | joint / PF | at equal Jain, of equal-power frontier: joint · PRB · power | of la_power frontier | of prior_power frontier |",
             "|---|---|---|---|---|---|---|---|---|"]
    for point, e in evaluations.items():
        metric = lambda name, m: pick(e["policies"], name=name)["metrics"][m]["mean"]
        frontier = lambda name, which: pick(e["frontier"], policy=name, frontier=which)["ratio"]
        ratio = pick(e["paired"], policy="joint", against="pf_equal", metric="cell_throughput_mbps")["ratio"]
        of_equal = " · ".join(f"{frontier(name, 'equal_power')['mean']:.3f}" for name in ("joint", "prb_only", "power_only"))
        lines.append(f"| {point} | {metric('joint', 'cell_throughput_mbps'):.2f} | {metric('joint', 'jain'):.3f} "
                     f"| {metric('pf_equal', 'cell_throughput_mbps'):.2f} | {metric('pf_equal', 'jain'):.3f} | {interval(ratio)} "
                     f"| {of_equal} | {interval(frontier('joint', 'la_power'))} | {interval(frontier('joint', 'prior_power'))} |")
    return "\n".join(lines)


def policy_table(point, e):
    lines = [f"**{point}**", "", "| policy | cell, Mbit/s | Jain | 5th percentile user | BLER |", "|---|---|---|---|---|"]
    for name in SHOWN:
        m = pick(e["policies"], name=name)["metrics"]
        lines.append(f"| {name} | {interval(m['cell_throughput_mbps'], 2)} | {m['jain']['mean']:.3f} | {m['p5_throughput_mbps']['mean']:.2f} | {m['bler']['mean']:.3f} |")
    return "\n".join(lines)


def replace(file, mark, text):
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    page = file.read_text()
    if begin not in page:
        sys.exit(f"{file}: the mark {begin} is missing")
    file.write_text(re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}\n{text}\n{end}", page, flags=re.S))


def main():
    runs = pathlib.Path(sys.argv[1])
    (HERE / "evaluations").mkdir(exist_ok=True)
    evaluations = {}
    for point in POINTS:
        full = runs / point / "evaluation.json"
        short = HERE / "evaluations" / f"{point}.json"
        if full.exists():
            short.write_text(json.dumps(trimmed(json.loads(full.read_text())), indent=1) + "\n")
        if short.exists():
            evaluations[point] = json.loads(short.read_text())
    claims = [claim for point, e in evaluations.items() for claim in claims_of(point, e)]
    (HERE / "results.json").write_text(json.dumps({"claims": claims}, indent=1) + "\n")
    replace(HERE / "README.md", "table", table(evaluations))
    replace(HERE / "README.md", "policies", "\n\n".join(policy_table(point, e) for point, e in evaluations.items()))
    replace(HERE.parent.parent / "README.md", "prb_power table", table(evaluations))


if __name__ == "__main__":
    main()
