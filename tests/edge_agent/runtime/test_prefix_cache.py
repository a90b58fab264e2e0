"""What begins alike is found, whatever was kept, split and dropped meanwhile."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.manifest import CacheLayout
from edge_agent.runtime.cache import KvCache
from edge_agent.runtime.prefix_cache import PrefixCache

LAYOUT = CacheLayout(layers=1, kv_heads=1, head_dim=2, dtype="float32")
BYTES_PER_TOKEN = 2 * 2 * 4

ids_of_few = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def cache_of(ids: list[int]) -> KvCache:
    """A cache whose keys and values at each position are the sum of the ids so far, as in a causal model."""
    cache = KvCache(LAYOUT, 64)
    sums = np.cumsum(np.asarray(ids) + 1).astype(np.float32)
    cache.append(0, np.broadcast_to(sums[None, None, :, None], (2, 1, len(ids), 2)))
    return cache


def loaded(prefixes: PrefixCache, ids: list[int]) -> int:
    """How many tokens are found; what is found must be what was computed."""
    cache = KvCache(LAYOUT, 64)
    found = prefixes.load(ids, cache, 0)
    np.testing.assert_array_equal(cache.read(0, 0, found), cache_of(ids).read(0, 0, found))
    return found


def common(one: list[int], other: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(st.lists(ids_of_few, max_size=12), ids_of_few)
def test_the_longest_known_beginning_is_found(stored: list[list[int]], asked: list[int]) -> None:
    """With room for all, it is the longest beginning shared with anything stored, and its values are right."""
    prefixes = PrefixCache(1_000_000)
    for ids in stored:
        prefixes.store(ids, cache_of(ids), 0)
    assert loaded(prefixes, asked) == max((common(ids, asked) for ids in stored), default=0)
    different = {tuple(ids[:end]) for ids in stored for end in range(1, len(ids) + 1)}
    assert prefixes.bytes == BYTES_PER_TOKEN * len(different)  # what is shared is kept once


@given(st.lists(ids_of_few, max_size=20), st.integers(0, 10))
def test_memory_is_bounded(stored: list[list[int]], tokens: int) -> None:
    """Never more than the limit, and what is found is still right."""
    prefixes = PrefixCache(tokens * BYTES_PER_TOKEN)
    for ids in stored:
        prefixes.store(ids, cache_of(ids), 0)
        assert prefixes.bytes <= tokens * BYTES_PER_TOKEN
        assert loaded(prefixes, ids) == min(len(ids), tokens)  # what is too long keeps its beginning


def test_the_least_recently_used_goes_first() -> None:
    """Asking for something keeps it."""
    prefixes = PrefixCache(6 * BYTES_PER_TOKEN)
    for ids in ([1, 1, 1], [2, 2, 2]):
        prefixes.store(ids, cache_of(ids), 0)
    assert loaded(prefixes, [1, 1, 1]) == 3
    prefixes.store([0, 0, 0], cache_of([0, 0, 0]), 0)
    assert [loaded(prefixes, [token] * 3) for token in (0, 1, 2)] == [3, 3, 0]
    assert loaded(prefixes, [1, 1, 5]) == 2


def test_a_cache_of_nothing_keeps_nothing() -> None:
    """A limit of 0 turns it off."""
    prefixes = PrefixCache(0)
    prefixes.store([1, 2], cache_of([1, 2]), 0)
    assert (prefixes.bytes, loaded(prefixes, [1, 2])) == (0, 0)
