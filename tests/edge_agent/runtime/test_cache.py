"""Caches start small, double, keep what is in them, and end at the context."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import ContextOverflow
from edge_agent.manifest import CacheLayout
from edge_agent.runtime.cache import FIRST_POSITIONS, KvCache

LAYOUT = CacheLayout(layers=2, kv_heads=2, head_dim=4, dtype="float32")


def test_a_new_cache_is_small() -> None:
    """A context of 4,096 costs 256 positions until more are used."""
    cache = KvCache(LAYOUT, 4096)
    assert cache.capacity == FIRST_POSITIONS
    assert cache.bytes == 2 * 2 * 2 * 4 * 4 * FIRST_POSITIONS
    assert set(cache.arrays) == {"0.key", "0.value", "1.key", "1.value"}
    assert KvCache(LAYOUT, 100).capacity == 100


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_elements_are_of_the_layout(dtype: str) -> None:
    """Half precision takes half the bytes."""
    cache = KvCache(CacheLayout(layers=1, kv_heads=1, head_dim=16, dtype=dtype), 256)  # type: ignore[arg-type]
    assert cache.arrays["0.key"].dtype == np.dtype(dtype)


@given(st.integers(1, 3000), st.lists(st.integers(1, 700), max_size=12))
def test_room_is_made_by_doubling_and_nothing_is_lost(context: int, steps: list[int]) -> None:
    """Capacity is enough, at most twice what is needed or the first size, never above the context."""
    cache = KvCache(LAYOUT, context)
    written: list[tuple[int, int]] = []
    for step in steps:
        if cache.length + step > context:
            with pytest.raises(ContextOverflow) as overflow:
                cache.reserve(step)
            error = overflow.value
            assert (error.prompt_tokens, error.max_tokens, error.context) == (cache.length, step, context)
            return
        before = cache.arrays
        assert cache.reserve(step) == (cache.arrays is not before)
        for array in cache.arrays.values():
            array[:, :, cache.length : cache.length + step] = cache.length
        written.append((cache.length, step))
        cache.length += step
        assert cache.capacity in {min(context, FIRST_POSITIONS << doubled) for doubled in range(6)}
        assert cache.length <= cache.capacity <= min(context, max(FIRST_POSITIONS, 2 * cache.length))
        for start, size in written:
            assert all((array[:, :, start : start + size] == start).all() for array in cache.arrays.values())


def test_overflow_names_the_numbers() -> None:
    """The message holds prompt, answer and context."""
    with pytest.raises(ContextOverflow, match=r"90 prompt tokens and 11 answer tokens .* context of 100"):
        KvCache(LAYOUT, 100).require(90, 11)
    KvCache(LAYOUT, 100).require(90, 10)


def test_a_context_of_nothing_is_refused() -> None:
    """There is no cache without positions."""
    with pytest.raises(ValueError, match="holds nothing"):
        KvCache(LAYOUT, 0)
