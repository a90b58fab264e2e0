"""Measuring: in a process of its own, with numbers that follow from what was measured."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import bench
from edge_agent.bench import BenchReport, bench_bundle, cache_bytes, line_through, measure_decoder, read_bandwidth
from edge_agent.bundle import open_bundle
from edge_agent.errors import RuntimeUnavailable
from edge_agent.manifest import CacheLayout, Graph
from edge_agent.onnx_file import read_onnx


def test_a_graph_is_measured_in_another_process(tiny_graph: tuple[Path, Graph]) -> None:
    """All figures are there and positive, and the memory is not that of this process."""
    ballast = np.ones(700 * 2**20, np.uint8)
    cost = measure_decoder(*tiny_graph, threads=1, prompt_tokens=8, new_tokens=8)
    assert min(cost.load_ms, cost.ttft_ms, cost.decode_ms_per_token) > 0
    assert min(cost.fixed_ms, cost.prefill_ms_per_token) >= 0
    assert cost.threads == 1
    assert cost.runtime.startswith("onnxruntime ")
    assert 10 * 2**20 < cost.peak_rss_bytes < ballast.nbytes


def test_a_measurement_that_fails_says_why(tiny_graph: tuple[Path, Graph], tmp_path: Path) -> None:
    """The last words of the measuring process are in the error, in one line."""
    with pytest.raises(RuntimeUnavailable, match=r"missing\.onnx: measuring ended with 1: .*BundleError") as failure:
        measure_decoder(tmp_path / "missing.onnx", tiny_graph[1])
    assert "\n" not in str(failure.value)


def test_a_measurement_without_end_is_ended(tiny_graph: tuple[Path, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    """The measuring process is killed after its time, and that is said."""
    monkeypatch.setattr(bench, "_TIMEOUT_S", 0.01)
    with pytest.raises(RuntimeUnavailable, match="took more than"):
        measure_decoder(*tiny_graph)


@given(st.floats(0, 100), st.floats(0, 10))
def test_a_line_is_found_again(fixed: float, slope: float) -> None:
    """Times that lie on a line give that line."""
    lengths = [9, 18, 37, 74, 148]
    found = line_through(lengths, [fixed + slope * length for length in lengths])
    np.testing.assert_allclose(found, (fixed, slope), atol=1e-6)


@given(st.lists(st.floats(0, 1000), min_size=5, max_size=5))
def test_costs_are_never_negative(times_ms: list[float]) -> None:
    """Whatever was measured, no prompt is predicted to take less than nothing."""
    fixed, slope = line_through([9, 18, 37, 74, 148], times_ms)
    assert fixed >= 0
    assert slope >= 0


def test_cache_bytes_are_those_of_keys_and_values() -> None:
    """SmolLM2 at 8,192 positions: 377 MB."""
    layout = CacheLayout(layers=30, kv_heads=3, head_dim=64, dtype="float32")
    assert cache_bytes(layout, 8192) == 377_487_360
    assert cache_bytes(msgspec.structs.replace(layout, dtype="float16"), 8192) == 377_487_360 // 2


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_bandwidth_is_that_of_some_memory(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a slow disk and a fast GPU; also where memory is short and threads do not divide it."""
    assert 0.2e9 < read_bandwidth(threads) < 5e12
    monkeypatch.setattr(bench, "available_bytes", lambda: 0)
    assert 0.2e9 < read_bandwidth(threads) < 5e12


def test_a_report_follows_from_the_measurement(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are inverses of times, the roofline is bytes over bandwidth over time."""
    monkeypatch.setattr(bench, "read_bandwidth", lambda threads: 1e9)
    opened = open_bundle(tiny_bundle)
    report = bench_bundle(opened, threads=1, prompt_tokens=10, new_tokens=20)
    weights = read_onnx(tiny_bundle / "model/decoder.onnx")
    assert isinstance(report, BenchReport)
    assert report.weights_bytes == weights.weights_bytes
    assert report.decode_tokens_per_s == pytest.approx(1e3 / report.decode_ms_per_token)
    assert report.prefill_tokens_per_s == pytest.approx(1e4 / report.ttft_ms)
    read_bytes = weights.bytes_per_token + 2 * 2 * 2 * 16 * 4 * 20
    assert report.roofline_fraction == pytest.approx(1e3 * read_bytes / 1e9 / report.decode_ms_per_token)


def test_the_peak_is_read_from_the_system() -> None:
    """This process has a peak, and it is at least what it uses now."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert bench.peak_rss_bytes() >= 0.9 * resident
