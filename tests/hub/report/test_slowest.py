"""The slowest questions, and the stage to blame."""

from __future__ import annotations

from typing import Any

import pytest

from hub.decision import Decision, Terms
from hub.events import Row
from hub.report.slowest import Slow, slow, slowest_of
from hub.report.timing import timing_of
from tests.hub.report.many import many
from tests.hub.rows import history, row

TERMS = Terms(node="a", bundle="b", network_ms=9.0, wait_ms=6.0, fixed_ms=0.0, prefill_ms=45.0, decode_ms=40.0,
              prompt_tokens=37.0, completion_tokens=8.0)  # fmt: skip
DECISION = Decision(device="kitchen", id="q", attempt=1, chosen=TERMS, candidates=(TERMS,), rejected=())
PROMISED = {
    "predicted_network_ms": 9.0,
    "predicted_queue_ms": 6.0,
    "predicted_prefill_ms": 45.0,
    "predicted_decode_ms": 40.0,
}


def told(rows: list[Row], most: int = 1) -> tuple[Slow, ...]:
    timing = timing_of(history(rows), 1000.0)
    numbered = dict(enumerate(rows, start=1))
    return slow(timing, slowest_of(timing, most), numbered)


def test_the_longest_first() -> None:
    """By the delay that the report counts; ones whose delay nobody knows, or that failed, are not among them."""
    rows = many(200)
    timing = timing_of(history(rows), 1000.0)
    found = told(rows, 7)
    assert [one.delay_ms for one in found] == pytest.approx(
        sorted(timing.delay_ms.tolist(), reverse=True)[:7], abs=1e-3
    )
    for one in found:
        assert sum(getattr(one.stages_ms, name) for name in one.stages_ms.__struct_fields__) == pytest.approx(
            one.delay_ms, abs=0.01
        )


def test_fewer_than_were_asked_for() -> None:
    """All there are, or none."""
    assert len(told(many(3), 10)) <= 3
    assert told([], 5) == ()
    assert told([row()], 0) == ()


@pytest.mark.parametrize(
    ("changes", "stage", "said"),
    [
        ({"total_ms": 600.0, "queue_ms": 505.0}, "queue", "queue took 505.0 ms, 6.0 were predicted"),
        ({"total_ms": 600.0, "network_ms": 510.0}, "network", "network took 510.0 ms, 9.0 were predicted"),
        ({"total_ms": 600.0, "network_ms": 510.0, "attempts": 2}, "network", "; attempts that were lost are in it, 2"),
        ({"total_ms": 600.0, "decode_ms": 540.0, "completion_tokens": 99}, "decode", "; 99 tokens were written"),
        ({"total_ms": 600.0, "overhead_ms": 500.0}, "prefill", "prefill took 545.0 ms, 45.0 were predicted; 37 tokens"),
        ({"asker_ms": 700.0}, "access", "access took 600.0 ms, which no hub can see or promise"),
        ({}, "prefill", "prefill took 45.0 ms of it, about as predicted"),
    ],
)
def test_why(changes: dict[str, Any], stage: str, said: str) -> None:
    """The stage that was furthest beyond its promise; where all were kept, the longest."""
    (one,) = told([row(**{**PROMISED, **changes})])
    assert one.stage == stage
    assert said in one.why


def test_nothing_was_promised() -> None:
    """The longest stage is named, and that there is nothing to hold it against."""
    (one,) = told([row(total_ms=500.0, decode_ms=440.0)])
    assert one.stage == "decode"
    assert "nothing was predicted" in one.why


def test_decisions_are_told_as_the_hub_logs_them() -> None:
    """One line for each."""
    (one,) = told([row(decisions=(DECISION,))])
    assert one.decisions[0].startswith("question kitchen/q attempt 1 -> a: a 95.5 ms")


def test_a_row_that_is_gone() -> None:
    """The store may have dropped it meanwhile: it is left out."""
    timing = timing_of(history([row()]), 1000.0)
    assert slow(timing, slowest_of(timing, 1), {}) == ()
