"""A core in virtual time."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hub.simulator.fleet_file import FleetFile, Happening, Kind, Network
from hub.simulator.policies import open_policy
from hub.simulator.trace import Trace
from hub.simulator.truth import Truth
from hub.simulator.world import Outcomes, World

KIND = Kind(name="k", count=3, fixed_ms=10, prefill_ms_per_token=1, decode_ms_per_token=10)


def ran(
    *happenings: Happening,
    policy: str = "least-delay",
    gap_s: float = 1.0,
    questions: int = 40,
    deadline_ms: float = 60_000.0,
    minds_deadlines: bool = False,
) -> Outcomes:
    trace = Trace(np.ones(questions), np.full(questions, 40), np.full(questions, 5))
    fleet = FleetFile(kind=(KIND,), network=Network(median_ms=20), event=happenings)
    truth = Truth([KIND] * 3, np.array([20.0, 40.0, 60.0]), trace, np.zeros(questions))
    names = [name for name, _ in fleet.nodes]
    world = World(
        fleet,
        truth,
        trace,
        open_policy(policy, np.random.default_rng(0), truth, names, "question"),
        arrivals_s=gap_s * np.arange(1, questions + 1),
        deadline_ms=deadline_ms,
        lengths_known=True,
        minds_deadlines=minds_deadlines,
        draw=np.random.default_rng(0),
    )
    return world.run()


def test_an_idle_fleet_answers_in_the_time_it_takes() -> None:
    """Way and work of the nearest, 20 + 10 + 40 + 50 ms, as promised once it is known; but for one sent to learn."""
    outcomes = ran()
    assert np.sort(outcomes.delays_ms)[:38] == pytest.approx(120.0)
    assert np.median(outcomes.predicted_ms[20:]) == pytest.approx(120.0, rel=0.05)
    assert outcomes.attempts == 40


def test_questions_at_once_wait_or_go_elsewhere() -> None:
    """Three nodes take three of four, the fourth waits."""
    delays = sorted(ran(gap_s=0.0, questions=4).delays_ms)
    assert delays[:3] == pytest.approx([120, 140, 160])
    assert delays[3] == pytest.approx(120 + 100)


def test_a_narrow_link_is_found_out() -> None:
    """The node that is nearest by its pings needs 128 ms for the bytes of a question: large ones go elsewhere."""
    narrow = msgspec.structs.replace(KIND, name="narrow", count=1, upload_mbit_s=1.0)
    wide = msgspec.structs.replace(KIND, name="wide", count=1)
    trace = Trace(np.ones(40), np.full(40, 4000), np.full(40, 5))
    fleet = FleetFile(kind=(narrow, wide), network=Network(median_ms=20))
    truth = Truth([narrow, wide], np.array([20.0, 60.0]), trace, np.zeros(40))
    policy = open_policy("least-delay", np.random.default_rng(0), truth, [name for name, _ in fleet.nodes], "question")
    outcomes = World(
        *(fleet, truth, trace, policy),
        arrivals_s=10.0 * np.arange(1, 41),
        deadline_ms=60_000.0,
        lengths_known=True,
        draw=np.random.default_rng(0),
    ).run()
    work_ms = 10 + 4000 + 50
    assert outcomes.delays_ms[0] == pytest.approx(20 + 128 + work_ms)
    assert outcomes.delays_ms[20:] == pytest.approx(60 + work_ms)


def test_a_slow_node_is_left_within_five_answers() -> None:
    """Throttled threefold, the nearest is no more the soonest."""
    outcomes = ran(Happening(since=0.25, share=1.0, node="k-000", slower=3.0))
    slow = np.flatnonzero(outcomes.delays_ms > 200)
    assert 1 <= len(slow) <= 5
    assert np.median(outcomes.delays_ms[-20:]) == pytest.approx(140.0)


def test_a_longer_way_is_noticed() -> None:
    """By pings, before the next question pays for it twice."""
    outcomes = ran(Happening(since=0.25, until=0.75, node="k-000", link_ms=200.0))
    assert (outcomes.delays_ms > 200).sum() <= 2
    assert np.median(outcomes.delays_ms[15:25]) == pytest.approx(140.0)


def test_a_death_loses_no_question() -> None:
    """What a dead node had is answered by another when its will has come."""
    outcomes = ran(Happening(since=0.25, until=0.75, node="k-000", down=True), gap_s=0.3)
    assert not np.isnan(outcomes.delays_ms).any()
    assert outcomes.attempts > 40


def test_what_is_too_late_has_failed() -> None:
    """It is no answer, and ends the run all the same."""
    outcomes = ran(gap_s=0.0, questions=30, deadline_ms=400.0)
    failed = np.isnan(outcomes.delays_ms).sum()
    assert 0 < failed < 30
    assert outcomes.counters["failed_deadline"] + outcomes.counters.get("failed_overloaded", 0) == failed


def test_deadlines_are_minded_by_hub_and_nodes() -> None:
    """In an overload the hub refuses at once, and what it takes is in time; published policies take everything."""
    asked = {"gap_s": 0.02, "questions": 300, "deadline_ms": 600.0}
    rankings, minded = ran(**asked), ran(**asked, minds_deadlines=True)
    assert rankings.refused == 0
    assert minded.refused == minded.counters["failed_overloaded"] > 50
    assert minded.counters.get("failed_deadline", 0) < 0.1 * (300 - minded.refused)
    assert np.isnan(minded.delays_ms).sum() < np.isnan(rankings.delays_ms).sum()
    assert ran(**asked, policy="least-inflight", minds_deadlines=True).refused == 0
