#!/usr/bin/env python3
"""Names the adapter that answers a request to a vLLM server, from what `trimtab fit residents` wrote. No network, no packages.

    python3 router.py residents.json < requests.jsonl

reads a line of each request, {"prompt": text, "embedding": [...]} (or "task" instead of the embedding), and prints a line for each call that the server
should get: first the loads of the residents that the file names, since the server begins with none, then for every request, in this order:

    {"url": "/v1/unload_lora_adapter", "body": {"lora_name": ...}}                     what leaves, where room must be made
    {"url": "/v1/load_lora_adapter", "body": {"lora_name": ..., "lora_path": ...}}      what comes
    {"url": "/v1/completions", "body": {"model": adapter or base, "prompt": ...}}       the request

{"task" or "embedding": ..., "adapter": name or "", "quality": 0..1} tells how good an answer was, and prints nothing.

The rule is after `index_loss` of envs/adapter_route (by task, qualities as running means): a request goes to the best of the residents at their quality and of the others at theirs less the price of a
load, twice where a planned resident would have to leave. Residents are planned anew every few requests, for the last ones: the set that is worth most to them
(greedy, then exchanges, as resident_set.h), where a change costs its price once.
"""
import argparse
import json
import math
import sys
from collections import deque

BASE = ""   # the base model's name among adapters


def call(url, **body):
    return {"url": url, "body": body}


class Router:
    def __init__(self, residents, lora_path="adapters/{name}", window=48, replan=8):
        if residents.get("format") != "trimtab.residents" or residents.get("version") != 1:
            raise ValueError("not a file of `trimtab fit residents`, version 1")
        self.names, self.price, self.lora_path = residents["adapters"], residents["price"], lora_path
        self.slots = min(residents["slots"], len(self.names))   # more room than there are adapters holds them all
        self.tasks = {t["name"]: t for t in residents["tasks"]}
        self.quality = {name: list(t["quality"]) for name, t in self.tasks.items()}   # of each adapter, the base model's last
        self.counts = {name: [t["prompts"]] * (len(self.names) + 1) for name, t in self.tasks.items()}
        self.resident = {self.names.index(n) for n in residents["residents"]}
        self.planned = set(self.resident)
        self.last, self.seen, self.replan = deque(maxlen=window), 0, replan

    def load(self, a):
        name = self.names[a]
        return call("/v1/load_lora_adapter", lora_name=name, lora_path=self.lora_path.replace("{name}", name))

    def start(self):
        """Calls for a server that has no adapter loaded yet."""
        return [self.load(a) for a in sorted(self.resident)]

    def task_of(self, request):
        if "task" in request:
            if request["task"] not in self.tasks:
                raise ValueError(f"unknown task '{request['task']}'; there are {', '.join(self.tasks)}")
            return request["task"]
        x = request.get("embedding")
        size = len(next(iter(self.tasks.values()))["centroid"])
        if not isinstance(x, list) or len(x) != size or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in x):
            raise ValueError(f"'embedding' must be {size} numbers, or name the 'task'")
        cosine = lambda c: sum(a * b for a, b in zip(x, c)) / math.sqrt(sum(b * b for b in c))
        return max(self.tasks, key=lambda name: cosine(self.tasks[name]["centroid"]))

    def worth(self, chosen, before):
        """What a set is worth to the last requests, less the loads that it takes."""
        total = -self.price * len(chosen - before)
        for task in self.last:
            q = self.quality[task]
            total += max(q[-1], max(q[a] - (0 if a in chosen else self.price) for a in range(len(self.names))))
        return total

    def plan(self):
        before, chosen = self.resident, set()
        while len(chosen) < self.slots:
            chosen.add(max((a for a in range(len(self.names)) if a not in chosen), key=lambda a: self.worth(chosen | {a}, before)))
        better = True
        while better:
            better = False
            for out in sorted(chosen):
                for other in range(len(self.names)):
                    swapped = chosen - {out} | {other}
                    if len(swapped) == self.slots and self.worth(swapped, before) > self.worth(chosen, before) + 1e-9:
                        chosen, better = swapped, True
                        break
                if better:
                    break
        self.planned = chosen

    def entry_price(self, a):
        if a in self.resident or a in self.planned:   # it is there, or to come anyway
            return 0
        return self.price * (1 if len(self.resident) < self.slots or self.resident - self.planned else 2)

    def route(self, request):
        """Calls for the server, in their order."""
        task = self.task_of(request)
        self.last.append(task)
        if self.seen % self.replan == 0 and self.seen > 0:
            self.plan()
        self.seen += 1
        q, base = self.quality[task], len(self.names)
        chosen = max(range(base + 1), key=lambda a: q[a] - (0 if a == base else self.entry_price(a)))
        calls = []
        if chosen < base and chosen not in self.resident:
            if len(self.resident) >= self.slots:
                leaving = min(sorted(self.resident), key=lambda a: (a in self.planned, sum(self.quality[t][a] for t in self.last)))
                self.resident.remove(leaving)
                calls.append(call("/v1/unload_lora_adapter", lora_name=self.names[leaving]))
            self.resident.add(chosen)
            calls.append(self.load(chosen))
        model = "base" if chosen == base else self.names[chosen]
        return [*calls, call("/v1/completions", model=model, prompt=request["prompt"])]

    def learn(self, feedback):
        task, a = self.task_of(feedback), feedback["adapter"]
        if a != BASE and a not in self.names:
            raise ValueError(f"unknown adapter '{a}'")
        if not 0 <= feedback["quality"] <= 1:
            raise ValueError("'quality' must be in [0, 1]")
        a = len(self.names) if a == BASE else self.names.index(a)
        self.counts[task][a] += 1
        self.quality[task][a] += (feedback["quality"] - self.quality[task][a]) / self.counts[task][a]


def show(calls):
    for each in calls:
        print(json.dumps(each), flush=True)


def main():
    parser = argparse.ArgumentParser(description="Names the adapter that answers a request.")
    parser.add_argument("residents", help="what `trimtab fit residents` wrote")
    parser.add_argument("--lora-path", default="adapters/{name}", help="where the server finds an adapter; {name} stands for its name (default: adapters/{name})")
    args = parser.parse_args()
    if "{name}" not in args.lora_path:
        parser.error(f"--lora-path {args.lora_path}: write {{name}} where the adapter's name stands, such as /models/{{name}}")
    try:
        router = Router(json.load(open(args.residents)), args.lora_path)
    except (OSError, ValueError, KeyError) as e:
        sys.exit(f"{args.residents}: {e}")
    show(router.start())
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict) or ("quality" not in asked and not isinstance(asked.get("prompt"), str)):
                raise ValueError("not a request: {\"prompt\": text, \"embedding\": [...]}")
            calls = router.learn(asked) or [] if "quality" in asked else router.route(asked)
        except (ValueError, KeyError) as e:
            sys.exit(f"line {number}: {e}")
        show(calls)


if __name__ == "__main__":
    main()
