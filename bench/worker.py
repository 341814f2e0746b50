"""The side of a peer: prints {"ready": true, ...}, then one line of JSON per "go"."""

import json
import sys


def serve(measure, **about):
    print(json.dumps({"ready": True, **about}), flush=True)
    for line in sys.stdin:
        if line.strip() == "go":
            print(json.dumps(measure()), flush=True)
