"""The memory that a bundle needs, before and after the work."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import device_profiles
from edge_agent.manifest import CacheLayout
from exporter.memory import BUILD_FACTOR, MemoryBudget, bits_per_weight, check_memory

CACHE = CacheLayout(layers=30, kv_heads=3, head_dim=64, dtype="float32")
NANO = device_profiles.load("jetson-orin-nano-4gb")


def test_small_model_fits_with_cache_and_engine() -> None:
    """SmolLM2 in int4 with 4,096 positions and an engine's building fits the smallest Orin."""
    budget = check_memory(NANO, parameters=134_515_008, weight_bits=5.125, cache=CACHE, context=4096, engine_build=True)
    assert budget.refusal is None
    assert budget.weights_bytes == 134_515_008 * 5.125 / 8
    assert budget.cache_bytes == 2 * 30 * 3 * 64 * 4 * 4096
    assert budget.build_bytes == BUILD_FACTOR * budget.weights_bytes


def test_large_model_is_refused_with_the_arithmetic() -> None:
    """Seven billion weights of 16 bits do not fit 4 GB, and the line says how much is missing where."""
    budget = check_memory(NANO, parameters=7_000_000_000, weight_bits=16, cache=CACHE, context=8192, engine_build=True)
    assert budget.refusal == (
        "14000 MB of weights + 378 MB of cache for 8192 positions + 56000 MB to build the engine = 70378 MB, "
        "jetson-orin-nano-4gb has 4294 MB: take fewer bits, a shorter context, no engine or a larger device"
    )


def test_what_was_written_takes_the_place_of_the_estimate() -> None:
    """After the work the real bytes count, so that a wrong estimate cannot let a bundle through."""
    small = check_memory(NANO, parameters=10**6, weight_bits=4, cache=None, context=1, engine_build=False)
    real = check_memory(
        NANO, parameters=10**6, weight_bits=4, cache=None, context=1, engine_build=False, weights_bytes=5 * 10**9
    )
    assert small.fits
    assert real.refusal == "5000 MB of weights, jetson-orin-nano-4gb has 4294 MB: take fewer bits or a larger device"


def test_engine_can_be_what_does_not_fit() -> None:
    """Weights that fit alone are refused where their engine's building would not fit beside them."""
    without, with_engine = (
        check_memory(NANO, parameters=10**9, weight_bits=8, cache=None, context=1, engine_build=build)
        for build in (False, True)
    )
    assert without.fits
    assert "no engine" in (with_engine.refusal or "")


def test_device_whose_memory_is_not_known_refuses_nothing() -> None:
    """Where the machine decides, nothing can be said."""
    cpu = device_profiles.load("cpu")
    budget = check_memory(cpu, parameters=10**12, weight_bits=32, cache=CACHE, context=10**6, engine_build=False)
    assert budget.fits
    assert budget.refusal is None


@given(st.integers(1, 10**11), st.integers(0, 10**10), st.integers(0, 10**11), st.integers(1, 10**12))
def test_parts_add_up_to_the_sum_that_is_said(weights: int, cache: int, build: int, memory: int) -> None:
    """Whatever the sizes, the MB figures of a refusal add up, and it is refused only when the bytes do not fit."""
    budget = MemoryBudget(
        device="d", memory_bytes=memory, weights_bytes=weights, cache_bytes=cache, context=7, build_bytes=build
    )
    assert (budget.refusal is None) == (weights + cache + build <= memory)
    *parts, total = [int(size) for size in re.findall(r"(\d+) MB", budget.arithmetic)]
    assert (sum(parts) == total) or not parts
    assert total * 10**6 >= budget.need_bytes


def test_scales_and_zero_points_count() -> None:
    """A smaller block costs more bits; weights that are not quantized cost their own."""
    assert bits_per_weight(32) == 32
    assert bits_per_weight(4, block=32) > bits_per_weight(4, block=64) > bits_per_weight(4, block=128) > 4


def test_budget_is_frozen() -> None:
    """A budget that was handed out cannot be made to fit."""
    budget = check_memory(NANO, parameters=1, weight_bits=8, cache=None, context=1, engine_build=False)
    with pytest.raises(AttributeError):
        budget.memory_bytes = 0  # type: ignore[misc]
    assert msgspec.structs.replace(budget, memory_bytes=0).refusal is not None
