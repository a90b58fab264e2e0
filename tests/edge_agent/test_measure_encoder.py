"""Measuring an encoder: in a process of its own, and no longer than it takes texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.bench import bench_bundle
from edge_agent.bundle import open_bundle
from edge_agent.errors import RuntimeUnavailable
from edge_agent.measure_encoder import measure_encoder
from tests.edge_agent.encoder_bundles import build_encoder, encoder_bundle

ROWS = {"good": (1.0, 0.0)}


def test_a_graph_is_measured_in_another_process(tmp_path: Path) -> None:
    """All figures are there; nothing is decoded."""
    path = tmp_path / "encoder.onnx"
    graph = build_encoder(path, "feature-extraction", ROWS)
    cost = measure_encoder(path, graph, tokens=8, threads=1)
    assert min(cost.load_ms, cost.ttft_ms, cost.peak_rss_bytes) > 0
    assert min(cost.fixed_ms, cost.prefill_ms_per_token) >= 0
    assert (cost.decode_ms_per_token, cost.threads) == (0.0, 1)


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    """The last words of the measuring process are in the error."""
    graph = build_encoder(tmp_path / "encoder.onnx", "feature-extraction", ROWS)
    with pytest.raises(RuntimeUnavailable, match=r"missing\.onnx: measuring ended with 1: .*BundleError"):
        measure_encoder(tmp_path / "missing.onnx", graph, tokens=8)


def test_a_bundle_is_benched_with_texts_that_it_takes(tmp_path: Path) -> None:
    """Texts of 37 tokens were asked for, it takes 16; what speaks of decoding is absent."""
    bundle = encoder_bundle(tmp_path, "feature-extraction", ROWS, max_tokens=16)
    report = bench_bundle(open_bundle(bundle), threads=1, prompt_tokens=37, new_tokens=96)
    assert report.prefill_tokens_per_s == pytest.approx(16e3 / report.ttft_ms)
    assert (report.decode_tokens_per_s, report.decode_ms_per_token, report.roofline_fraction) == (None, None, None)
    assert report.weights_bytes == 13 * 2 * 4 + 2 * 8
