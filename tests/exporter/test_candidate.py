"""Which candidate is taken."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_agent.bench import Cost
from exporter.candidate import Candidate, answer_ms, choose
from tests.exporter.test_report import ACCURACY

COST = Cost(load_ms=1, ttft_ms=1, fixed_ms=2, prefill_ms_per_token=1, decode_ms_per_token=10, peak_rss_bytes=7,
            threads=2, runtime="test")  # fmt: skip


def candidate(name: str, megabytes: int, latency_ms: float, *, accepted: bool = True, **more: Any) -> Candidate:
    cost = msgspec.structs.replace(COST, fixed_ms=latency_ms, prefill_ms_per_token=0.0, decode_ms_per_token=0.0)
    return Candidate(name=name, accepted=accepted, reason="", weights_bytes=megabytes, cost=cost, **more)


def test_the_fastest_accepted_candidate_is_chosen() -> None:
    """A refused one never is, however fast."""
    fast = candidate("int4", 80, 100, accepted=False)
    middle, slow = candidate("int8", 150, 200), candidate("fp32", 500, 400)
    assert choose([fast, middle, slow]) is middle
    assert choose([fast]) is None


def test_within_three_percent_the_smaller_is_chosen() -> None:
    """Noise in the timing does not flip the choice, in whichever order they come."""
    small, large = candidate("int4", 80, 102.9), candidate("int8", 150, 100)
    assert choose([small, large]) is choose([large, small]) is small
    assert choose([candidate("int4", 80, 103.1), large]) is large


def test_at_one_precision_the_most_truthful_is_chosen() -> None:
    """Candidates of one precision are equally fast: their timing decides nothing."""
    near, far = (msgspec.structs.replace(ACCURACY, kl=kl) for kl in (0.01, 0.02))
    slow, fast = candidate("a", 80, 300, accuracy=near), candidate("b", 80, 100, accuracy=far)
    assert choose([fast, slow], by_speed=False) is slow
    assert choose([fast, slow]) is fast


def test_the_latency_is_that_of_the_device_the_bundle_is_for() -> None:
    """Where there is an estimate for another device, it counts."""
    one = candidate("int4", 80, 100, estimate=COST)
    assert one.latency_ms == answer_ms(COST) == 2 + 37 + 950
