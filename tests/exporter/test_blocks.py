"""The layout of quantized matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.blocks import blocked, blocks_of, packed, unpacked


@given(bits=st.sampled_from([4, 8]), rows=st.integers(1, 4), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_what_is_packed_comes_back(bits: int, rows: int, columns: int, seed: int) -> None:
    """Two 4-bit values to a byte, or one of 8, and back."""
    values = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    assert np.array_equal(unpacked(packed(values, bits), bits)[:, :columns], values)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_is_its_code_less_the_zero_point_times_the_scale_and_the_offset(bits: int) -> None:
    """The formula of the docstring, on blocks of three rows."""
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 2**bits, (3, 2, 32)).astype(np.uint8)
    scales, offsets = (draw.standard_normal((3, 2)).astype(np.float32) for _ in range(2))
    zeros = draw.integers(0, 2**bits, (3, 2)).astype(np.uint8)
    blocks = blocks_of(codes, scales, zeros, bits=bits, columns=50, offsets=offsets)
    wanted = (codes.astype(np.float32) - zeros[..., None]) * scales[..., None] + offsets[..., None]
    assert np.allclose(blocks.dequantized(), wanted.reshape(3, 64)[:, :50])


def test_a_short_last_block_is_padded_with_zeros() -> None:
    """40 columns are two blocks of 32, the second with 24 zeros."""
    grouped = blocked(np.ones((2, 40), np.float32), 32)
    assert grouped.shape == (2, 2, 32)
    assert grouped.sum() == 80
