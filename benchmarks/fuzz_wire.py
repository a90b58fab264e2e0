"""Does anything but counters change when garbage comes in? Hands many malformed messages to the cores of hub and node.

    python benchmarks/fuzz_wire.py [--messages 200000] [--seed N]

In one process and without a broker; what a broker and real processes make of some of the same messages is tested in
tests/end_to_end/test_garbage.py. Prints what the hub counted, then one line of JSON; fails with the message that did
harm.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time

import psutil
from faults.garbage import messages
from faults.standing import Hub, Node


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, help="drawn if not given")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    began = time.monotonic()
    hub, node = Hub(), Node()
    hub.suffer(messages(seed + 1, options.messages // 10))  # every memory fills up to its limit
    before = psutil.Process().memory_info().rss
    of_hub = hub.suffer(messages(seed, options.messages))
    of_node = node.suffer(messages(seed, options.messages))
    grown = psutil.Process().memory_info().rss - before
    assert hub.answers(), "the hub does not answer a valid question any more"
    for name, count in sorted(of_hub.counters.items()):
        print(f"{name:32} {count:8}")
    figures = {
        "messages": options.messages,
        "hub": {"malformed": of_hub.malformed, "odd": of_hub.odd},
        "node": {"malformed": of_node.malformed, "odd": of_node.odd},
        "resident_mb_grown": round(grown / 1e6, 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps({"benchmark": "fuzz_wire", "seed": seed, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
