"""What a hub tells Prometheus: how questions ended here, and how many have not.

Counts as things end, in the hub's thread; asks the hub for what is true now when it is scraped, in another. Knows
nothing of HTTP.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, generate_latest

from hub import events
from hub.decision import Decision


class Metrics:
    """The counters of one hub: a `Listener` of `hub/service.py`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._questions = Counter(
            "edge_hub_questions", "Questions that ended here.", ("outcome",), registry=self._registry
        )

    def decided(self, decision: Decision) -> None:
        """A node was chosen, or none was there."""

    def ended(self, record: events.Record, wall_time_s: float) -> None:
        """A question has its outcome."""
        self._questions.labels(record.outcome).inc()

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats)."""
        return generate_latest(self._registry)
