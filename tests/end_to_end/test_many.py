"""Ten thousand questions at once: each gets one outcome, and nobody's memory runs away."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hub import wire
from hub.ask import Asker

NOOP = str(Path(__file__).resolve().parents[2] / "benchmarks" / "noop_node.py")
MANY = 10_000


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ten_thousand_at_once(mosquitto: Any, processes: Any, eventually: Callable[..., None]) -> None:
    """Answered, or told to come back later; the hub and the node take the next question as before."""
    hub = processes.start("hub", "edge-hub", "serve", "--broker", mosquitto.url, "--name", "hub")
    node = processes.start("node", sys.executable, NOOP, "--broker", mosquitto.url)
    eventually(lambda: "takes questions" in processes.log("hub"))
    with Asker(mosquitto.url, "crowd") as asker:
        assert isinstance(asker.ask(wire.Question(question="before?")).reply, wire.Answer)
        before = [psutil.Process(one.pid).memory_info().rss for one in (hub, node)]
        futures = [asker.submit(wire.Question(question=f"{number}?", deadline_ms=90_000)) for number in range(MANY)]
        kinds = collections.Counter(_kind(future.result(100).reply) for future in futures)
        after = [psutil.Process(one.pid).memory_info().rss for one in (hub, node)]
        assert isinstance(asker.ask(wire.Question(question="after?")).reply, wire.Answer)
    assert set(kinds) <= {"answered", "overloaded"}, kinds
    assert kinds["answered"] > 0.5 * MANY, kinds
    assert max(late - early for early, late in zip(before, after, strict=True)) < 150_000_000


def _kind(reply: wire.Answer | wire.Failure) -> str:
    return "answered" if isinstance(reply, wire.Answer) else reply.error.code
