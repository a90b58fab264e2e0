"""Costs on devices that are not here: estimates, and called so."""

from __future__ import annotations

import msgspec
import pytest

import device_profiles
from edge_agent.bench import Cost
from exporter.estimate import Estimate, NoEstimate, estimate

COST = Cost(
    load_ms=100.0, ttft_ms=50.0, fixed_ms=4.0, prefill_ms_per_token=1.2, decode_ms_per_token=5.0,
    peak_rss_bytes=10**8, threads=2, runtime="onnxruntime",
)  # fmt: skip
READ_BYTES = 80_000_000  # 4 ms at 20 GB/s: 0.8 of the limit


def estimated(name: str, cost: Cost = COST, read_bytes: int = READ_BYTES) -> Estimate:
    """An estimate that there is."""
    found = estimate(cost, read_bytes_per_token=read_bytes, here_bytes_per_s=20e9, profile=device_profiles.load(name))
    assert isinstance(found, Estimate)
    return found


def test_decode_reads_its_bytes_at_the_fraction_that_was_reached_here() -> None:
    """A device of 272 GB/s decodes in the bytes over 0.8 of that, and says that this is an estimate."""
    found = estimated("desktop-rtx-4060")
    assert found.bandwidth_fraction == pytest.approx(0.8)
    assert found.decode_ms_per_token == pytest.approx(1e3 * READ_BYTES / (272e9 * 0.8))
    assert found.estimated is True
    assert found.where == "desktop-rtx-4060, from 272 GB/s there and 20.0 GB/s here"
    assert msgspec.json.decode(msgspec.json.encode(found))["estimated"] is True


def test_prefill_and_fixed_scale_with_the_bandwidth() -> None:
    """What is not decoding is scaled by the ratio of bandwidths."""
    found = estimated("jetson-orin-nano-4gb")
    assert found.fixed_ms == pytest.approx(4.0 * 20 / 34)
    assert found.prefill_ms_per_token == pytest.approx(1.2 * 20 / 34)


def test_model_in_a_cache_gets_no_more_than_the_whole_bandwidth() -> None:
    """A model that reads faster here than memory can must not be estimated faster than the other memory can."""
    found = estimated("jetson-orin-nano-4gb", msgspec.structs.replace(COST, decode_ms_per_token=0.01), 10**6)
    assert found.bandwidth_fraction == 1.0
    assert found.decode_ms_per_token == pytest.approx(1e3 * 10**6 / 34e9)


def test_device_without_a_bandwidth_has_no_estimate() -> None:
    """Where no figure holds for the kind of device, there is a reason instead of a guess."""
    found = estimate(COST, read_bytes_per_token=READ_BYTES, here_bytes_per_s=20e9, profile=device_profiles.load("cpu"))
    assert found == NoEstimate("desktop-cpu has no bandwidth of its own: measure on such a machine")
