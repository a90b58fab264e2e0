"""GPTQ: the error of one weight is made good by those after it."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.gptq import gptq
from exporter.rounding import round_to_nearest, search


def correlated_inputs(columns: int, count: int = 2000) -> np.ndarray:
    """(count, columns) inputs that move together, as those of a language model do."""
    draw = np.random.default_rng(1)
    mix = draw.standard_normal((columns // 4, columns))
    inputs: np.ndarray = draw.standard_normal((count, columns // 4)) @ mix + 0.3 * draw.standard_normal(
        (count, columns)
    )
    return inputs.astype(np.float32)


@pytest.mark.parametrize("block", [32, 64])
def test_outputs_move_less_than_by_rounding_or_by_search(block: int) -> None:
    """On inputs that move together the layer's output errs by far less than with codes chosen block by block."""
    inputs = correlated_inputs(128)
    weights = np.random.default_rng(0).standard_normal((48, 128)).astype(np.float32)
    moments = inputs.T @ inputs / len(inputs)

    def error(blocks: object) -> float:
        moved = blocks.dequantized() - weights  # type: ignore[attr-defined]
        return float(((inputs @ moved.T) ** 2).mean())

    ours = error(gptq(weights, moments, 4, block))
    assert ours < 0.5 * error(round_to_nearest(weights, 4, block))
    assert ours < 0.7 * error(search(weights, 4, block, importance=moments.diagonal()))


def test_independent_inputs_gain_nothing_and_lose_nothing() -> None:
    """Where inputs do not move together there is nothing to make good: the codes are those of the search."""
    weights = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    moments = np.eye(64, dtype=np.float32)
    assert np.allclose(gptq(weights, moments, 4).dequantized(), search(weights, 4).dequantized(), atol=1e-6)


def test_inputs_that_never_move_are_no_obstacle() -> None:
    """Dead inputs, or no calibration signal at all, still give codes near the weights."""
    weights = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    moments = np.zeros((64, 64), np.float32)
    moments[:10, :10] = np.eye(10)
    for one in (moments, np.zeros_like(moments)):
        blocks = gptq(weights, one, 4)
        assert np.abs(blocks.dequantized() - weights).mean() < 0.2


def test_a_short_last_block_is_refused() -> None:
    """Columns must be whole blocks; the caller has another method for the rest."""
    with pytest.raises(ValueError, match="40 columns are no multiple of the block size 32"):
        gptq(np.zeros((2, 40), np.float32), np.eye(40, dtype=np.float32), 4)
