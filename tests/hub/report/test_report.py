"""From the questions of a window to the fleet latency report."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hub.report.filter import Filter
from hub.report.history import Missing
from hub.report.report import build_report, window_of
from hub.report.sketch import ACCURACY
from hub.report.timing import timing_of
from tests.hub.report.made import MISSING, OBJECTIVE, full, made
from tests.hub.report.many import many
from tests.hub.rows import history, row

ROWS = [
    row(1000.0, id="1", total_ms=100.0),
    row(1002.0, id="2", total_ms=300.0, node="b", decode_ms=240.0, completion_tokens=48, predicted_ms=270.0),
    row(1004.0, id="3", total_ms=200.0, attempts=2, duplicates=3, network_ms=110.0, predicted_ms=90.0),
    row(1006.0, id="4", outcome="deadline", total_ms=30_000.0, duplicates=1),
    row(1009.9, id="5", outcome="no_node", total_ms=2.0, node=None, bundle=None, model=None, predicted_ms=None),
]


def test_the_document_is_the_contract() -> None:
    """`--format json` has the fields that DESIGN.md promises."""
    document = msgspec.to_builtins(made(ROWS))
    assert {"window", "fleet", "histogram", "nodes", "models", "prediction"} <= set(document)
    assert {
        *("questions", "answered", "failed", "duplicates", "latency_ms", "stages_ms"),
        *("throughput_per_s", "slo_ms", "slo_attainment"),
    } <= set(document["fleet"])
    assert {"mean", "p50", "p90", "p95", "p99", "max"} == set(document["fleet"]["latency_ms"])
    assert {"network", "queue", "prefill", "decode"} <= set(document["fleet"]["stages_ms"])
    assert "mape" in document["prediction"]
    assert {"name", "questions", "latency_ms"} <= set(document["nodes"][0])
    assert document["percentile_error"] == ACCURACY


def test_fleet() -> None:
    """Counts are of all, delays of answered questions; failures miss the objective."""
    fleet = made(ROWS).fleet
    assert (fleet.questions, fleet.answered, fleet.failed, fleet.duplicates) == (5, 3, 2, 4)
    assert fleet.failures == {"deadline": 1, "no_node": 1}
    assert (fleet.latency_ms.mean, fleet.latency_ms.max) == (200.0, 300.0)
    assert fleet.latency_ms.p50 == pytest.approx(200.0, rel=ACCURACY)
    assert fleet.slo_attainment == pytest.approx(1 / 5)
    assert fleet.stages_ms.network == pytest.approx((10 + 10 + 110) / 3, abs=1e-3)


def test_window() -> None:
    """Without limits the window runs from the first receipt to the last end; with them, as they say."""
    window = window_of(history(ROWS[:3]), Filter())
    assert (window.since, window.until) == ("1970-01-01T00:16:39.900+00:00", "1970-01-01T00:16:44.000+00:00")
    assert window.seconds == 4.1
    limited = made(ROWS[:3], where=Filter(since_s=900.0, until_s=1020.0, nodes=("a", "b")))
    assert (limited.window.seconds, limited.window.nodes) == (120.0, ("a", "b"))
    assert limited.fleet.throughput_per_s == pytest.approx(3 / 120, abs=1e-6)


def test_parts() -> None:
    """Nodes, models and devices apart, and what never had one by itself."""
    report = made(ROWS)
    nodes = [(part.name, part.questions, part.answered) for part in report.nodes]
    assert nodes == [("(none)", 1, 0), ("a", 3, 2), ("b", 1, 1)]
    assert [part.name for part in report.models] == ["(none)", "smol"]
    assert [part.name for part in report.devices] == ["kitchen"]
    assert report.prediction == report.fleet.prediction


def test_empty_window() -> None:
    """No rows: zeros and nulls in the document; what is missing is told all the same."""
    report = made([], where=Filter(since_s=0.0, until_s=3600.0))
    assert (report.fleet.questions, report.fleet.latency_ms.p99, report.fleet.slo_attainment) == (0, None, None)
    assert (report.histogram, report.nodes, report.timeline.slots, report.slowest) == ((), (), (), ())
    assert report.prediction.mape is None
    assert report.fleet.throughput_per_s == 0.0
    assert report.missing == MISSING
    msgspec.json.encode(report)


def test_one_question() -> None:
    """Every percentile of one delay is that delay, exactly its maximum at most."""
    latency = made([row(total_ms=123.0)]).fleet.latency_ms
    assert (latency.mean, latency.max) == (123.0, 123.0)
    for value in (latency.p50, latency.p90, latency.p95, latency.p99):
        assert value == pytest.approx(123.0, rel=ACCURACY)
        assert value is not None
        assert value <= 123.0


def test_the_document_comes_back_whole() -> None:
    """What is encoded is decoded to the same value: no figure is NaN or infinite."""
    report = full()
    text = msgspec.json.encode(report)
    assert b"NaN" not in text
    assert msgspec.json.decode(text) == msgspec.json.decode(msgspec.json.encode(report))
    assert report.against is not None


def test_order_of_the_rows_does_not_matter() -> None:
    """But for rounding, a report is of a set of questions."""
    rows = many(300)
    shuffled = [rows[number] for number in np.random.default_rng(1).permutation(len(rows))]
    one, other = (
        build_report(timing_of(history(some), 150.0), Filter(), OBJECTIVE, missing=Missing())
        for some in (rows, shuffled)
    )
    assert one == other
