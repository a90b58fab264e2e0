"""Whether a place in a queue will be missed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.crowding import Demand, place_missed
from hub.decision import Terms
from hub.delay import FLOW_TAU_S, Flow
from hub.fleet import Node, Standing

NOW = 600.0
WORK_MS = 50.0
BUDGET_MS = 1000.0


def node(busy: float) -> Node:
    """A node with answers of WORK_MS, for a long while at them for that share of its time."""
    used_ms = busy * 1000 * FLOW_TAU_S * (1 - math.exp(-NOW / FLOW_TAU_S))
    flow = Flow(since_s=0.0, at_s=NOW, answers=used_ms / WORK_MS, compute_ms=used_ms)
    return Node(name="n", epoch=1, standing=Standing.READY, flow=flow)


def terms(wait_ms: float, **changes: float) -> Terms:
    values = {"network_ms": 0.0, "fixed_ms": WORK_MS, "prefill_ms": 0.0, "decode_ms": 0.0, "prompt_tokens": 1.0}
    return Terms(node="n", bundle="b", wait_ms=wait_ms, completion_tokens=1.0, **{**values, **changes})


def missed(wait_ms: float, busy: float, unmet: float = 0.0) -> float:
    return place_missed(terms(wait_ms), node(busy), BUDGET_MS, unmet, NOW)


def test_nobody_misses_what_nobody_wants() -> None:
    """With an empty queue, or at a node that has answered nobody yet, no place is missed."""
    assert missed(0.0, 1.0) == 0.0
    assert place_missed(terms(900.0), Node(name="n", epoch=1, standing=Standing.READY), BUDGET_MS, 0.5, NOW) == 0.0


def test_at_the_deadline_each_place_is() -> None:
    """A queue that is as long as the deadline allows has one for nobody else."""
    assert missed(960.0, 0.5) == 1.0
    assert missed(949.0, 0.5) == pytest.approx(1.0, abs=0.02)


def test_without_drift_it_is_the_share_of_the_way() -> None:
    """A node that just manages what comes is as likely to fall behind as to catch up."""
    assert missed(475.0, 1.0) == pytest.approx(0.5, abs=0.01)


def test_an_idle_fleet_s_queue_runs_empty_first_and_an_overloaded_one_s_does_not() -> None:
    """What the nodes' answers do not show counts: the questions that had none."""
    assert missed(475.0, 0.7) < 0.1
    assert missed(475.0, 1.0, unmet=0.25) > 0.9
    assert missed(475.0, 0.7, unmet=0.3) == pytest.approx(0.5, abs=0.01)


def test_delays_longer_than_predicted_leave_less_room() -> None:
    """By the node's bias the deadline is nearer."""
    late = place_missed(terms(400.0, log_bias=0.5), node(1.0), BUDGET_MS, 0.0, NOW)
    assert late > missed(400.0, 1.0)


@pytest.mark.parametrize(("busy", "wait_ms"), [(0.8, 300.0), (0.9, 150.0), (0.95, 400.0)])
def test_as_a_queue_does_it(busy: float, wait_ms: float) -> None:
    """Within some hundredths of what a queue with Poisson arrivals does when it is tried."""
    draw, reached, runs = np.random.default_rng(0), 0, 1500
    longest_ms = BUDGET_MS - WORK_MS
    for _ in range(runs):
        left_ms = wait_ms
        while 0.0 < left_ms < longest_ms:
            left_ms -= draw.exponential(WORK_MS / busy)
            if left_ms > 0.0:
                left_ms += draw.exponential(WORK_MS)
        reached += left_ms >= longest_ms
    assert missed(wait_ms, busy) == pytest.approx(reached / runs, abs=0.08)


@given(st.floats(0, 2000), st.floats(0, 1), st.floats(0, 0.99), st.floats(0, 500))
def test_a_chance_that_grows_with_queue_and_demand(wait_ms: float, busy: float, unmet: float, more: float) -> None:
    """Between nothing and certainty, and never less for a longer queue, a busier node or more unanswered questions."""
    least = missed(wait_ms, busy, unmet)
    assert 0.0 <= least <= 1.0
    for other in (
        missed(wait_ms + more, busy, unmet),
        missed(wait_ms, min(busy + more / 500, 1.0), unmet),
        missed(wait_ms, busy, min(unmet + more / 500, 0.99)),
    ):
        assert other >= least - 1e-6


def test_demand_is_of_the_last_minute() -> None:
    """What was not met long ago is not wanted any more; one unlucky question is no overload."""
    demand = Demand()
    demand.ended(0.0, met=False)
    assert demand.unmet == 0.5
    for second in range(60):
        demand.ended(float(second), met=False)
    assert 0.9 < demand.unmet < 1.0
    for second in range(60, 400):
        demand.ended(float(second), met=True)
    assert demand.unmet < 0.01
