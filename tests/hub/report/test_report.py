"""From rows to the fleet latency report."""

from __future__ import annotations

import io
import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hub.report.report import build_report, report_table
from tests.hub.rows import row

ROWS = [
    row(1000.0, id="1", total_ms=100.0),
    row(1002.0, id="2", total_ms=300.0, node="b", decode_ms=240.0, completion_tokens=48, predicted_ms=270.0),
    row(1004.0, id="3", total_ms=200.0, attempts=2, duplicates=3, network_ms=110.0, predicted_ms=90.0),
    row(1006.0, id="4", outcome="deadline", total_ms=30_000.0, duplicates=1),
    row(1009.9, id="5", outcome="no_node", total_ms=2.0, node=None, bundle=None, model=None, predicted_ms=None),
]


def printed(report: Any) -> str:
    console = Console(width=160, markup=False, file=io.StringIO())
    console.print(report_table(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_document_is_the_contract() -> None:
    """`--json` has the fields that DESIGN.md promises."""
    document = msgspec.to_builtins(build_report(ROWS, slo_ms=250.0))
    assert list(document) == ["window", "fleet", "histogram", "nodes", "models", "prediction"]
    assert {
        *("questions", "answered", "failed", "duplicates", "latency_ms", "stages_ms"),
        *("throughput_per_s", "slo_ms", "slo_attainment"),
    } <= set(document["fleet"])
    assert set(document["fleet"]["latency_ms"]) == {"mean", "p50", "p90", "p95", "p99", "max"}
    assert set(document["fleet"]["stages_ms"]) == {"network", "queue", "prefill", "decode"}
    assert "mape" in document["prediction"]


def test_fleet() -> None:
    """Counts are of all, latencies of answered questions; failures miss the objective."""
    fleet = build_report(ROWS, slo_ms=250.0).fleet
    assert (fleet.questions, fleet.answered, fleet.failed, fleet.duplicates) == (5, 3, 2, 4)
    assert fleet.failures == {"deadline": 1, "no_node": 1}
    latency = fleet.latency_ms
    assert (latency.mean, latency.p50, latency.p90, latency.max) == (200.0, 200.0, 280.0, 300.0)
    assert fleet.slo_attainment == pytest.approx(2 / 5)
    assert fleet.stages_ms.network == pytest.approx((10 + 10 + 110) / 3, abs=1e-3)


def test_window() -> None:
    """Without limits the window runs from the first receipt to the last end; with them, as they say."""
    report = build_report(ROWS[:3], slo_ms=1.0)
    assert (report.window.since, report.window.seconds) == ("1970-01-01T00:16:39.900+00:00", 4.1)
    assert report.fleet.throughput_per_s == pytest.approx(3 / 4.1, abs=1e-4)
    limited = build_report(ROWS[:3], slo_ms=1.0, since_s=900.0, until_s=1020.0)
    assert limited.window.seconds == 120.0
    assert limited.fleet.throughput_per_s == pytest.approx(3 / 120, abs=1e-4)


def test_parts() -> None:
    """Nodes and models apart, and what never had one by itself."""
    report = build_report(ROWS, slo_ms=250.0)
    assert [(part.name, part.questions, part.answered) for part in report.nodes] == [
        ("(none)", 1, 0),
        ("a", 3, 2),
        ("b", 1, 1),
    ]
    assert [part.name for part in report.models] == ["(none)", "smol"]
    by_name = {part.name: part for part in report.nodes}
    assert by_name["b"].decode_tokens_per_s == pytest.approx(200.0)
    assert by_name["(none)"].latency_ms.mean is None


def test_prediction_is_of_first_attempts() -> None:
    """A question that lost its node is no error of the prediction."""
    report = build_report(ROWS, slo_ms=250.0)
    assert report.prediction.questions == 2
    assert report.prediction.mape == pytest.approx((10 / 100 + 30 / 300) / 2)


def test_empty_window_says_so() -> None:
    """No rows: zeros and nulls in the document, one sentence for people."""
    report = build_report([], slo_ms=250.0, since_s=0.0, until_s=3600.0)
    assert (report.fleet.questions, report.fleet.latency_ms.p99, report.fleet.slo_attainment) == (0, None, None)
    assert (report.histogram, report.prediction.mape) == ((), None)
    assert printed(report).strip() == "No question has ended since 1970-01-01T00:00:00.000+00:00: nothing to report."


@given(st.lists(st.floats(0.0, 1e7), min_size=1, max_size=50))
def test_histogram_counts_every_answer(totals: list[float]) -> None:
    """Each answered question is in one bar, bars follow on each other, and percentiles are numpy's."""
    report = build_report([row(total_ms=total) for total in totals], slo_ms=1.0)
    bars = report.histogram
    assert sum(bar.count for bar in bars) == len(totals)
    assert all(one.to_ms == following.from_ms for one, following in itertools.pairwise(bars))
    assert bars[0].from_ms <= min(totals) <= bars[0].to_ms
    assert report.fleet.latency_ms.p95 == pytest.approx(np.percentile(totals, 95), abs=1e-3)


def test_table_tells_it_all() -> None:
    """The terminal shows counts, latencies, stages, nodes and failures."""
    text = printed(build_report(ROWS, slo_ms=250.0))
    for shown in ("5 questions", "1 deadline, 1 no_node", "4 duplicates", "40.0% of all", "100 to 200 ms", "by node"):
        assert shown in text
