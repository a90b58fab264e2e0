"""What Prometheus is told of a hub adds up."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from hub.metrics import Metrics
from tests.hub.rows import record


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Value by name and label values, as Prometheus reads them."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_questions_are_counted_by_outcome() -> None:
    """Once each, when they have ended."""
    metrics = Metrics()
    for outcome in ("answered", "answered", "no_node"):
        metrics.ended(record(outcome=outcome), 0.0)
    assert samples(metrics)["edge_hub_questions_total", "answered"] == 2
    assert samples(metrics)["edge_hub_questions_total", "no_node"] == 1
