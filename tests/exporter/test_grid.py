"""Matrices that were quantized before are recognised by their values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.grid import find_grid


def on_grid(bits: int, seed: int, *, with_minimum: bool) -> np.ndarray:
    """(6, 64) weights as a file's float16 scales and minima give them."""
    draw = np.random.default_rng(seed)
    codes = draw.integers(0, 2**bits, (6, 2, 32)).astype(np.float32)
    steps = draw.uniform(1e-3, 0.5, (6, 2, 1)).astype(np.float16).astype(np.float32)
    low = -(2 ** (bits - 1)) * steps
    if with_minimum:
        low = draw.uniform(-3, 1, (6, 2, 1)).astype(np.float16).astype(np.float32)
    weights: np.ndarray = (codes * steps + low).reshape(6, 64)
    return weights


@given(bits=st.sampled_from([4, 8]), seed=st.integers(0, 500), with_minimum=st.booleans())
def test_a_grid_is_found_and_gives_every_weight_back(bits: int, seed: int, with_minimum: bool) -> None:
    """With a minimum of its own or without, whatever the steps, the codes stand for the same weights."""
    weights = on_grid(bits, seed, with_minimum=with_minimum)
    found = find_grid(weights, bits)
    assert found is not None
    assert np.abs(found.dequantized() - weights).max() <= 1e-5 * np.abs(weights).max()
    assert with_minimum or found.offsets is None


def test_few_codes_are_a_grid_too() -> None:
    """A block that uses codes 0, 2 and 5 only, so that its least difference is two steps."""
    weights = np.tile(np.float32([0.0, 0.2, 0.5, 0.2]), 8)[None] - np.float32(0.1)
    found = find_grid(weights, 4)
    assert found is not None
    assert np.allclose(found.dequantized(), weights, atol=1e-6)


def test_equal_weights_are_a_grid() -> None:
    """A block of one value, zero or not, comes back."""
    for value in (0.0, 1.7, -300.0):
        weights = np.full((2, 32), value, np.float32)
        found = find_grid(weights, 4)
        assert found is not None
        assert np.allclose(found.dequantized(), weights)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_that_were_never_quantized_lie_on_none(bits: int) -> None:
    """Random float32 and bfloat16 weights are told apart from codes, as are 8-bit codes from 4-bit ones."""
    import torch

    weights = torch.randn((8, 64), generator=torch.Generator().manual_seed(0))
    assert find_grid(weights.numpy(), bits) is None
    assert find_grid(weights.bfloat16().float().numpy(), bits) is None
    assert find_grid(on_grid(8, 0, with_minimum=False), 4) is None


def test_columns_that_are_no_whole_blocks_are_left_alone() -> None:
    """40 columns have no grid of blocks of 32."""
    assert find_grid(np.zeros((2, 40), np.float32), 4) is None
