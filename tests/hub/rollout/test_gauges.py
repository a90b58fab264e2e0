"""What Prometheus is told of rollouts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from hub.rollout.gauges import STATUSES, RolloutGauges
from hub.rollout.order import NodeProgress, Progress
from hub.rollout.view import PHASES, rows_of, summary
from tests.hub.rollout.scene import order


def test_nodes_by_phase_and_what_became_of_it() -> None:
    """Every phase and status of a rollout is told, those of nobody as 0: so a rate or an alert finds them."""
    progress = Progress(status="stopped", nodes={"a": NodeProgress(wave=0, stage="failed"), "b": NodeProgress(wave=1)})
    view = summary(order(), progress, rows_of(order(), progress, None))
    registry = CollectorRegistry()
    registry.register(RolloutGauges(lambda: (view,)))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"rollout": "r1", **labels})

    assert {phase: value("edge_hub_rollout_nodes", phase=phase) for phase in PHASES} == {
        **dict.fromkeys(PHASES, 0),
        "failed": 1,
        "queued": 1,
    }
    assert [status for status in STATUSES if value("edge_hub_rollout_status", status=status)] == ["stopped"]


def test_without_rollouts_there_is_nothing() -> None:
    """No series at all."""
    assert all(not metric.samples for metric in RolloutGauges(tuple).collect())
