"""The story of `edge-hub simulate`: trace, fleet and round trips in; for each load and policy, how it would have gone.

The same questions, the same nodes, the same luck for every policy and load; all drawn from one seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hub import wire
from hub.simulator.fleet_file import FleetFile, round_trips_ms
from hub.simulator.policies import open_policy
from hub.simulator.trace import Trace
from hub.simulator.truth import Truth
from hub.simulator.world import Outcomes, World

CURVE_POINTS: Final = 100
Progress = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be simulated. `objective` is what `least-delay` stands for.

    A deadline that is shorter than the one that questions have by default is minded, by nodes and hub; see `World`.
    """

    trace: Trace
    fleet: FleetFile
    matrix: Any  # NDArray of round trips in ms, or None
    hub_site: int
    loads: tuple[float, ...]
    policies: tuple[str, ...]
    objective: str
    slo_ms: float
    deadline_ms: float
    lengths_known: bool
    seed: int

    @property
    def minds_deadlines(self) -> bool:
        """Whether the deadline is near."""
        return self.deadline_ms < wire.DEFAULT_DEADLINE_MS


class PolicyResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one policy did at one load. Milliseconds; NaN is None. `over_oracle` is the ratio of the means.

    `failed` is what had no answer by its deadline; of these, `refused` were told so at once.
    """

    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    slo_attainment: float
    over_oracle: float | None
    questions: int
    failed: int
    refused: int
    attempts: int
    prediction_mape: float | None  # mean of |predicted - actual| / actual


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """All policies at one load; `rate_per_s` is what that load came to."""

    load: float
    rate_per_s: float
    policies: dict[str, PolicyResult]
    curves: dict[str, tuple[float, ...]]  # the delay below which each hundredth of the answers lies


def simulate(plan: Plan, tell: Progress = lambda text: None) -> Iterator[LoadResult]:
    """One result for each load, as it is there."""
    for load in plan.loads:
        outcomes: dict[str, Outcomes] = {}
        rate = 0.0
        for policy in plan.policies:
            tell(f"load {load:g}: {policy}")
            rate, outcomes[policy] = same if (same := _twin(plan, policy, outcomes, rate)) else run(plan, load, policy)
        oracle = outcomes.get("oracle")
        oracle_ms = None if oracle is None else _number(_answered(oracle).mean()) if len(_answered(oracle)) else None
        yield LoadResult(
            load=load,
            rate_per_s=rate,
            policies={name: result_of(one, plan.slo_ms, oracle_ms) for name, one in outcomes.items()},
            curves={name: _curve(one) for name, one in outcomes.items()},
        )


def _twin(plan: Plan, policy: str, outcomes: dict[str, Outcomes], rate: float) -> tuple[float, Outcomes] | None:
    """What has been run already under its other name: `least-delay` is one of the objectives."""
    names = {"least-delay", f"least-delay-{plan.objective}"}
    found = [outcomes[name] for name in names - {policy} if name in outcomes] if policy in names else []
    return (rate, found[0]) if found else None


def run(plan: Plan, load: float, policy: str) -> tuple[float, Outcomes]:
    """Questions a second, and what became of them."""
    drawn = np.random.default_rng(plan.seed)
    nodes = plan.fleet.nodes
    away_ms = round_trips_ms(plan.fleet, plan.matrix, plan.hub_site, drawn)  # first: whatever the number of questions
    luck = drawn.standard_normal(len(plan.trace.gaps))
    truth = Truth([kind for _, kind in nodes], away_ms, plan.trace, luck)
    slots = np.array([kind.parallel for _, kind in nodes])
    rate = load * float((slots * 1000 / truth.mean_service_ms()).sum())
    world = World(
        plan.fleet,
        truth,
        plan.trace,
        open_policy(policy, np.random.default_rng(plan.seed + 1), truth, [name for name, _ in nodes], plan.objective),
        arrivals_s=np.cumsum(plan.trace.gaps) / rate,
        deadline_ms=plan.deadline_ms,
        lengths_known=plan.lengths_known,
        minds_deadlines=plan.minds_deadlines,
        draw=drawn,
    )
    return rate, world.run()


def result_of(outcomes: Outcomes, slo_ms: float, oracle_ms: float | None) -> PolicyResult:
    """The figures of one run."""
    answered = _answered(outcomes)
    questions = len(outcomes.delays_ms)
    known = ~np.isnan(outcomes.delays_ms) & ~np.isnan(outcomes.predicted_ms)
    off = np.abs(outcomes.predicted_ms[known] - outcomes.delays_ms[known]) / np.maximum(outcomes.delays_ms[known], 1e-3)
    mean_ms = _number(answered.mean()) if len(answered) else None
    p50, p95, p99 = np.percentile(answered, (50, 95, 99)) if len(answered) else (math.nan,) * 3
    return PolicyResult(
        mean_ms=mean_ms,
        p50_ms=_number(p50),
        p95_ms=_number(p95),
        p99_ms=_number(p99),
        slo_attainment=float((answered <= slo_ms).sum() / questions),
        over_oracle=None if mean_ms is None or not oracle_ms else mean_ms / oracle_ms,
        questions=questions,
        failed=questions - len(answered),
        refused=outcomes.refused,
        attempts=outcomes.attempts,
        prediction_mape=_number(off.mean()) if known.any() else None,
    )


def _answered(outcomes: Outcomes) -> NDArray[np.float64]:
    found: NDArray[np.float64] = outcomes.delays_ms[~np.isnan(outcomes.delays_ms)]
    return found


def _curve(outcomes: Outcomes) -> tuple[float, ...]:
    answered = _answered(outcomes)
    if not len(answered):
        return ()
    return tuple(float(one) for one in np.percentile(answered, np.linspace(0, 100, CURVE_POINTS + 1)))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
