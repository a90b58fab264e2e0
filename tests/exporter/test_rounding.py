"""Codes for blocks on their own: round to nearest, and the search for better scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.rounding import relative_importance, round_to_nearest, search


@given(
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([32, 64, 128]),
    rows=st.integers(1, 5),
    columns=st.integers(1, 200),
    scale=st.floats(1e-6, 1e6),
    shift=st.floats(-3, 3),
    seed=st.integers(0, 1000),
)
def test_no_weight_moves_by_more_than_its_step(
    bits: int, block: int, rows: int, columns: int, scale: float, shift: float, seed: int
) -> None:
    """A weight comes back within one step of its block: half for rounding it, half for the zero point's rounding."""
    weights = ((np.random.default_rng(seed).standard_normal((rows, columns)) + shift) * scale).astype(np.float32)
    blocks = round_to_nearest(weights, bits, block)
    steps = np.repeat(blocks.scales, block, axis=1)[:, :columns]
    assert np.all(np.abs(blocks.dequantized() - weights) <= steps * 1.001)


@given(bits=st.sampled_from([4, 8]), seed=st.integers(0, 1000))
def test_zero_stays_zero(bits: int, seed: int) -> None:
    """Zero is representable in every block, whatever else is in it and whichever way its scale was found."""
    weights = np.random.default_rng(seed).uniform(1, 2, (2, 64)).astype(np.float32)
    weights[:, ::7] = 0
    for blocks in (round_to_nearest(weights, bits), search(weights, bits)):
        assert np.all(blocks.dequantized()[:, ::7] == 0)


def test_many_rows_quantize_as_few_do() -> None:
    """The matrix is worked on in pieces; where they are cut does not matter."""
    weights = np.random.default_rng(0).standard_normal((9000, 64)).astype(np.float32)
    for method in (round_to_nearest, search):
        whole, part = method(weights, 4), method(weights[8100:], 4)
        assert np.array_equal(whole.codes[8100:], part.codes)
        assert np.array_equal(whole.zero_points[8100:], part.zero_points)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_search_errs_less_where_it_matters(bits: int) -> None:
    """The weighted error is never above round to nearest's, and clearly below it at 4 bits with unlike inputs."""
    draw = np.random.default_rng(0)
    weights = draw.standard_t(4, (64, 128)).astype(np.float32)
    importance = draw.lognormal(0, 2, 128).astype(np.float32)

    def error(blocks: object) -> float:
        moved = blocks.dequantized() - weights  # type: ignore[attr-defined]
        return float((relative_importance(importance) * moved**2).sum())

    plain, searched = error(round_to_nearest(weights, bits)), error(search(weights, bits, importance=importance))
    assert searched <= plain * (0.75 if bits == 4 else 1.0)
