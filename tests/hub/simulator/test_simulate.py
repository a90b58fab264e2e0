"""The whole comparison."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hub.simulator.fleet_file import FleetFile, Kind, Network
from hub.simulator.policies import POLICIES
from hub.simulator.simulate import LoadResult, Plan, simulate
from hub.simulator.trace import generated

SLOW = Kind(name="slow", count=4, fixed_ms=20, prefill_ms_per_token=2, decode_ms_per_token=40, jitter=0.05)
QUICK = Kind(name="quick", count=2, fixed_ms=2, prefill_ms_per_token=0.2, decode_ms_per_token=4, jitter=0.05)
PLAN = Plan(
    trace=generated("short", np.random.default_rng(7), questions=1500),
    fleet=FleetFile(kind=(SLOW, QUICK), network=Network(median_ms=30, sigma=0.5, jitter=0.1)),
    matrix=None,
    hub_site=0,
    loads=(0.7,),
    policies=POLICIES,
    objective="fleet",
    slo_ms=500.0,
    deadline_ms=60_000.0,
    lengths_known=True,
    seed=3,
)


@pytest.fixture(scope="module")
def result() -> LoadResult:
    (one,) = simulate(PLAN)
    return one


def test_ours_is_the_least(result: LoadResult) -> None:
    """The fleet's objective has the least mean of all, of the greedy oracle too; the question's of all others."""
    means = {name: one.mean_ms for name, one in result.policies.items()}
    peers = [means[name] or 0.0 for name in POLICIES if not name.startswith("least-delay") and name != "oracle"]
    fleet, question, oracle = means["least-delay-fleet"], means["least-delay-question"], means["oracle"]
    assert fleet is not None
    assert question is not None
    assert oracle is not None
    assert fleet < oracle
    assert question < min(peers)
    assert fleet < question


def test_figures_of_a_policy(result: LoadResult) -> None:
    """Percentiles in order, every question counted, the oracle once over itself."""
    for one in result.policies.values():
        assert one.p50_ms is not None
        assert one.p95_ms is not None
        assert one.p99_ms is not None
        assert one.p50_ms <= one.p95_ms <= one.p99_ms
        assert one.questions == 1500
    assert result.policies["oracle"].over_oracle == 1.0
    assert result.policies["least-delay"] == result.policies["least-delay-fleet"]
    assert all(len(curve) == 101 for curve in result.curves.values())


def test_a_seed_tells_all() -> None:
    """The same seed gives the same figures to the last digit, another one others."""
    small = msgspec.structs.replace(PLAN, policies=("least-delay", "prequal"), trace=PLAN.trace.of(200))
    first, again = list(simulate(small)), list(simulate(small))
    assert msgspec.json.encode(first) == msgspec.json.encode(again)
    (other,) = simulate(msgspec.structs.replace(small, seed=4))
    assert other.policies != first[0].policies


def test_load_one_is_what_the_fleet_can_do() -> None:
    """The sum over nodes of one over the mean service time."""
    (one,) = simulate(msgspec.structs.replace(PLAN, loads=(1.0,), policies=("random",), trace=PLAN.trace.of(50)))
    prompt, answer = PLAN.trace.of(50).prompt_tokens.mean(), PLAN.trace.of(50).answer_tokens.mean()
    rate = 4 / (20 + 2 * prompt + 40 * answer) + 2 / (2 + 0.2 * prompt + 4 * answer)
    assert one.rate_per_s == pytest.approx(1000 * rate, rel=0.01)


@pytest.mark.parametrize("lengths_known", [False, True])
def test_in_an_overload_ours_answers_most_in_time(lengths_known: bool) -> None:
    """Of all policies, with a near deadline: it alone refuses, and says how many; the far deadline refuses nobody."""
    names = ("least-delay-fleet", "peak-ewma", "least-inflight", "p2c", "oracle")
    near = msgspec.structs.replace(
        PLAN, policies=names, loads=(1.3,), deadline_ms=1000.0, slo_ms=1000.0, lengths_known=lengths_known
    )
    (one,) = simulate(near)
    ours, *others = (one.policies[name] for name in names)
    assert ours.slo_attainment > max(other.slo_attainment for other in others)
    assert 0 < ours.refused < ours.failed
    assert [other.refused for other in others] == [0] * len(others)
    assert not PLAN.minds_deadlines


def test_where_there_is_room_nobody_is_refused() -> None:
    """A near deadline alone is no reason."""
    near = msgspec.structs.replace(PLAN, policies=("least-delay-fleet",), deadline_ms=1000.0, slo_ms=1000.0)
    (one,) = simulate(near)
    assert one.policies["least-delay-fleet"].refused == 0
    assert one.policies["least-delay-fleet"].slo_attainment > 0.99
