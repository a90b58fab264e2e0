"""Caches start small, double, keep what is in them, and end at the context."""

from __future__ import annotations

import mmap
from pathlib import Path

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
    assert set(cache.arrays(0, 1)) == {"0.key", "0.value", "1.key", "1.value"}
    assert KvCache(LAYOUT, 100).capacity == 100


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_elements_are_of_the_layout(dtype: str) -> None:
    """Half precision takes half the bytes."""
    cache = KvCache(CacheLayout(layers=1, kv_heads=1, head_dim=16, dtype=dtype), 256)  # type: ignore[arg-type]
    assert cache.arrays(0, 1)["0.key"].dtype == np.dtype(dtype)


@given(st.integers(1, 3000), st.lists(st.integers(1, 700), max_size=12))
def test_room_is_made_by_doubling_and_nothing_is_lost(context: int, steps: list[int]) -> None:
    """Capacity is enough, at most twice what is needed or the first size, never above the context."""
    cache = KvCache(LAYOUT, context)
    written: list[tuple[int, int]] = []
    for step in steps:
        length = int(cache.lengths[0])
        if length + step > context:
            with pytest.raises(ContextOverflow) as overflow:
                cache.reserve(step)
            error = overflow.value
            assert (error.prompt_tokens, error.max_tokens, error.context) == (length, step, context)
            return
        before = cache.capacity
        assert cache.reserve(step) == (cache.capacity != before)
        for array in cache.arrays(0, 1).values():
            array[:, :, length : length + step] = length
        written.append((length, step))
        cache.lengths[0] = length + step
        assert cache.capacity in {min(context, FIRST_POSITIONS << doubled) for doubled in range(6)}
        assert length + step <= cache.capacity <= min(context, max(FIRST_POSITIONS, 2 * (length + step)))
        for start, size in written:
            assert all((array[:, :, start : start + size] == start).all() for array in cache.arrays(0, 1).values())


def filled(cache: KvCache, row: int, tokens: int, value: float) -> None:
    """Give a row `tokens` positions that all hold `value`."""
    cache.reserve(tokens, row)
    cache.append(row, np.full((4, 2, tokens, 4), value, np.float32))


def test_rows_grow_together_and_keep_what_is_theirs() -> None:
    """A long sequence in one row moves the others' keys and values along."""
    cache = KvCache(LAYOUT, 2000, rows=3)
    filled(cache, 0, 5, 1.0)
    filled(cache, 2, 700, 2.0)
    assert (cache.capacity, cache.lengths.tolist()) == (1024, [5, 0, 700])
    assert (cache.read(0, 0, 5) == 1).all()
    assert (cache.read(2, 0, 700) == 2).all()
    assert all(array.flags.c_contiguous for array in cache.arrays(1, 3).values())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_that_no_token_uses_is_not_taken() -> None:
    """Eight long rows of a few tokens each cost what the tokens cost, not what the rows could hold."""

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = resident_bytes()
    cache = KvCache(CacheLayout(layers=16, kv_heads=4, head_dim=64, dtype="float32"), 4096, rows=8)
    cache.reserve(4000, 0)
    for row in range(8):
        cache.append(row, np.ones((32, 4, 5, 64), np.float32))
    assert cache.bytes > 1_000_000_000
    assert resident_bytes() - before < 50_000_000


def test_rows_change_places() -> None:
    """Each row then holds what the other held, and as much of it."""
    cache = KvCache(LAYOUT, 100, rows=2)
    filled(cache, 0, 7, 1.0)
    filled(cache, 1, 3, 2.0)
    cache.swap(0, 1)
    assert cache.lengths.tolist() == [3, 7]
    assert (cache.read(0, 0, 3) == 2).all()
    assert (cache.read(1, 0, 7) == 1).all()


def test_what_is_read_is_a_copy() -> None:
    """What is kept of a row does not change with it."""
    cache = KvCache(LAYOUT, 100)
    filled(cache, 0, 3, 1.0)
    kept = cache.read(0, 1, 3)
    cache.arrays(0, 1)["0.key"][:] = 9
    assert kept.shape == (4, 2, 2, 4)
    assert (kept == 1).all()


def test_overflow_names_the_numbers() -> None:
    """The message holds prompt, answer and context."""
    with pytest.raises(ContextOverflow, match=r"90 prompt tokens and 11 answer tokens .* context of 100"):
        KvCache(LAYOUT, 100).require(90, 11)
    KvCache(LAYOUT, 100).require(90, 10)


def test_a_context_of_nothing_is_refused() -> None:
    """There is no cache without positions, or without rows."""
    with pytest.raises(ValueError, match="holds nothing"):
        KvCache(LAYOUT, 0)
    with pytest.raises(ValueError, match="hold nothing"):
        KvCache(LAYOUT, 10, rows=0)
