"""The published policies, each on a choice that shows what it goes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from hub.columns import Fleet
from hub.fleet import Load, loaded
from hub.router import choose
from hub.simulator.policies import POLICIES, Policy, Prequal, open_policy
from hub.simulator.truth import Truth
from tests.hub.simulator.test_truth import FAST, TRACE, WIDE
from tests.hub.test_router import NOW, fleet_of, node_of, question

NAMES = ("a", "b", "c")


def fleet(in_flight: Sequence[int] = (0, 0, 0)) -> Fleet:
    nodes = []
    for name, count in zip(NAMES, in_flight, strict=True):
        node = node_of(name)
        for number in range(count):
            load = Load(
                key=(name, str(number)), sent_s=NOW, start_s=NOW, before_ms=1.0, decode_ms=9.0, longest_ms=9.0,
                deadline_s=NOW + 9,
            )  # fmt: skip
            node = loaded(node, load)
        nodes.append(node)
    return fleet_of(*nodes)


def policy(name: str) -> Policy:
    kinds = [FAST, WIDE, FAST]
    truth = Truth(kinds, np.array([500.0, 1.0, 500.0]), TRACE, np.zeros(2))
    return open_policy(name, np.random.default_rng(1), truth, NAMES, "fleet")


def chosen(one: Policy, of: Fleet) -> str:
    decision = choose(question(id="0"), of, NOW, rank=one)
    assert decision.chosen is not None
    return decision.chosen.node


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_chooses(name: str) -> None:
    """Whatever is in flight, one of the candidates."""
    assert chosen(policy(name), fleet((2, 0, 1))) in NAMES


def test_random_and_round_robin_go_by_nothing() -> None:
    """Everybody gets about as much, or exactly."""
    one, turns, of = policy("random"), policy("round-robin"), fleet((9, 0, 0))
    assert min(Counter(chosen(one, of) for _ in range(300)).values()) > 60
    assert [chosen(turns, of) for _ in range(6)] == [*NAMES, *NAMES]


def test_those_who_count_questions() -> None:
    """The fewest of all, or of two."""
    of = fleet((3, 1, 2))
    assert {chosen(policy("least-inflight"), of) for _ in range(9)} == {"b"}
    of_two = Counter(chosen(one, of) for one in [policy("p2c")] for _ in range(300))
    assert set(of_two) == {"b", "c"}
    assert {chosen(one, fleet()) for one in [policy("least-inflight")] for _ in range(60)} == set(NAMES)


def test_those_who_remember_delays() -> None:
    """The least mean; peak EWMA times what is in flight, and a peak counts at once."""
    mean, peak = policy("ewma-latency"), policy("peak-ewma")
    for one in (mean, peak):
        for name, delay_ms in (("a", 100.0), ("b", 120.0), ("c", 300.0)):
            one.answered(name, delay_ms, NOW)
    assert chosen(mean, fleet((5, 0, 0))) == "a"
    assert chosen(peak, fleet((5, 0, 0))) == "b"
    peak.answered("b", 900.0, NOW)
    mean.answered("b", 900.0, NOW)
    assert chosen(peak, fleet((5, 0, 0))) == "c"
    assert chosen(mean, fleet()) == "a"


def test_prequal_takes_the_quickest_of_the_cold() -> None:
    """Hot ones only where all are; a probe is used once, and not when it is old."""
    one = policy("prequal")
    assert isinstance(one, Prequal)
    assert len(set(one.wants_probed())) == 3
    for name, in_flight, latency_ms in (("a", 0, 200.0), ("b", 1, 90.0), ("c", 9, 10.0)):
        one.probed(name, in_flight, latency_ms, NOW)
    assert [chosen(one, fleet()) for _ in range(3)] == ["b", "a", "c"]
    one.probed("c", 0, 1.0, NOW - 2.0)
    assert len({chosen(one, fleet()) for _ in range(60)}) == 3  # by chance


def test_the_oracle_knows() -> None:
    """The way, the work, and the queue as it is."""
    assert chosen(policy("oracle"), fleet((0, 9, 0))) == "b"
