"""Rows of all kinds at random, for tests: what a report has to add up."""

from __future__ import annotations

import random

from hub.events import Row
from tests.hub.rows import row

NODES = ("a", "b", "c")
DEVICES = ("kitchen", "garage", "door")


def many(
    count: int, *, seed: int = 0, start_s: float = 1_764_000_000.0, every_s: float = 10.0, slow: float = 1.0
) -> list[Row]:
    """So many rows, one each `every_s`; the decoding of node `a` takes `slow` times as long."""
    draw = random.Random(seed)
    return [one(draw, number, start_s + number * every_s, slow) for number in range(count)]


def one(draw: random.Random, number: int, wall_time_s: float, slow: float) -> Row:
    node = draw.choice(NODES)
    outcome = draw.choices(("answered", "deadline", "no_node"), (94, 4, 2))[0]
    if outcome == "no_node":
        return row(wall_time_s, id=str(number), outcome=outcome, node=None, bundle=None, model=None, attempts=0,
                   predicted_ms=None, total_ms=draw.random(), network_ms=0.0, queue_ms=0.0, prefill_ms=0.0,
                   decode_ms=0.0, completion_tokens=0)  # fmt: skip
    network_ms, queue_ms, prefill_ms, decode_ms, overhead_ms = (
        draw.lognormvariate(mean, 0.6) for mean in (2.0, 1.5, 3.0, 4.5, 0.0)
    )
    decode_ms *= slow if node == "a" else 1.0
    total_ms = network_ms + queue_ms + prefill_ms + decode_ms + overhead_ms
    kind = draw.choices(("plain", "local", "hedge", "silence", "retried", "partial", "told"), (40, 10, 5, 5, 5, 5, 30))[
        0
    ]
    told = kind == "told" or (kind == "partial" and draw.random() < 0.5)
    promised = draw.random() < 0.8
    return row(
        wall_time_s,
        id=str(number),
        device=draw.choice(DEVICES),
        node=node,
        model="smol" if node == "a" else "qwen",
        outcome=outcome,
        attempts={"local": 0, "hedge": 2, "silence": 2, "retried": 3}.get(kind, 1),
        second=kind if kind in ("hedge", "silence") else "",
        second_won=kind in ("hedge", "silence") and draw.random() < 0.5,
        partial=kind == "partial",
        duplicates=draw.choice((0, 0, 1)),
        completion_tokens=draw.randint(1, 50),
        predicted_ms=total_ms * draw.lognormvariate(0.0, 0.2) if promised else None,
        predicted_network_ms=network_ms * 0.9 if promised else None,
        predicted_queue_ms=queue_ms + 1.0 if promised else None,
        predicted_prefill_ms=prefill_ms if promised else None,
        predicted_decode_ms=decode_ms * 1.1 if promised else None,
        total_ms=total_ms,
        network_ms=network_ms,
        queue_ms=queue_ms,
        prefill_ms=prefill_ms,
        decode_ms=decode_ms,
        overhead_ms=overhead_ms,
        asker_ms=total_ms + draw.uniform(-0.2, 5.0) if told else None,
        asker_first_ms=total_ms * 0.4 if told and draw.random() < 0.5 else None,
    )
