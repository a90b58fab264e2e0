"""What a hub tells Prometheus of its rollouts. Bounded: the latest ones, and a fixed list of phases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, get_args

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hub.rollout.order import Status
from hub.rollout.view import PHASES, View

STATUSES: Final[tuple[str, ...]] = (*get_args(Status), "damaged")


class RolloutGauges(Collector):
    """Tells of what `views` gives, at each scrape."""

    def __init__(self, views: Callable[[], tuple[View, ...]]) -> None:
        self._views = views

    def collect(self) -> Iterable[Metric]:
        nodes = GaugeMetricFamily(
            "edge_hub_rollout_nodes", "Nodes of the latest rollouts, by how far they are.", labels=("rollout", "phase")
        )
        status = GaugeMetricFamily(
            "edge_hub_rollout_status", "1 for what has become of a rollout.", labels=("rollout", "status")
        )
        for view in self._views():
            for phase in PHASES:
                nodes.add_metric((view["name"], phase), view["phases"].get(phase, 0))
            for one in STATUSES:
                status.add_metric((view["name"], one), float(view["status"] == one))
        yield nodes
        yield status
