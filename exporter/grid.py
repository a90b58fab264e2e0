"""Was a matrix quantized before, and on which grid?

A checkpoint that was stored in 4 or 8 bits (GGUF's Q4_0, Q4_1, Q8_0, Q4_K and their like) comes back as float32, but
its weights still lie on a grid: in every block of consecutive weights they are `minimum + step * code` with small whole
codes. `find_grid` recovers step and codes from the values alone, so the weights can be stored again in as many bits
without being rounded a second time, whatever rows were permuted or concatenated on the way.

Does not know file formats, nor how a grid with a minimum of its own is computed (`quantize.py`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.blocks import Blocks, Codes, Floats, blocked, blocks_of

_ROWS_AT_ONCE: Final = 4096
_DIVISORS: Final = (1, 2, 3, 4, 5, 6, 7)  # the least difference between weights is that many steps, at most
_TOLERANCE: Final = 2e-3  # of a step; float32 rounding of step * code + minimum stays far below


def find_grid(matrix: Floats, bits: int, block: int = 32) -> Blocks | None:
    """`matrix` (rows, columns) in `bits`-bit codes that give back every weight, or None where no such grid exists.

    Zero points are whole; what a grid's minimum leaves over is in `offsets`, None where that is nothing everywhere.

    >>> weights = np.float32([[0.3 * code - 1.0 for code in range(16)] * 2])
    >>> found = find_grid(weights, 4)
    >>> found is not None and bool(np.allclose(found.dequantized(), weights))
    True
    >>> find_grid(np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32), 4) is None
    True
    """
    if matrix.shape[1] % block:
        return None
    parts = []
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        part = _grid_of_rows(blocked(matrix[start : start + _ROWS_AT_ONCE], block), 2**bits - 1)
        if part is None:
            return None
        parts.append(part)
    codes, scales, zeros, offsets = (np.concatenate(group) for group in zip(*parts, strict=True))
    exact = not bool(np.any(np.abs(offsets) > _TOLERANCE * scales))
    return blocks_of(
        codes, scales, zeros, bits=bits, columns=matrix.shape[1], offsets=None if exact else offsets
    )  # fmt: skip


def _grid_of_rows(weights: Floats, top: int) -> tuple[Codes, Floats, Codes, Floats] | None:
    """Codes, scales, zero points and offsets of (rows, blocks, block) weights."""
    ordered = np.sort(weights, axis=2)
    low, high = ordered[:, :, :1], ordered[:, :, -1:]
    gaps = np.diff(ordered, axis=2)
    noise = 1e-6 * np.maximum(np.abs(low), np.abs(high))
    gaps[gaps <= noise] = np.inf
    least = gaps.min(axis=2, keepdims=True)
    least[~np.isfinite(least)] = 1.0  # all weights of the block are one
    step = _step(weights, low, high, least, top)
    if step is None:
        return None
    span = np.rint((high - low) / step)
    step = np.where(span > 0, (high - low) / np.maximum(span, 1), step)  # the ends tell the step best
    zeros = np.clip(np.rint(-low / step), 0, top)
    zeros = np.minimum(zeros, top)
    codes = np.rint((weights - low) / step)
    offsets = low + zeros * step
    return (
        codes.astype(np.uint8),
        step[:, :, 0].astype(np.float32),
        zeros[:, :, 0].astype(np.uint8),
        offsets[:, :, 0].astype(np.float32),
    )


def _step(weights: Floats, low: Floats, high: Floats, least: Floats, top: int) -> NDArray[np.float32] | None:
    """The largest step that explains every block; None if a block has none."""
    found = np.zeros_like(least)
    for divisor in _DIVISORS:
        open_ = found[:, :, 0] == 0
        if not open_.any():
            break
        step = least[open_] / divisor
        steps = np.rint((high[open_] - low[open_]) / step)
        exact = np.where(steps > 0, (high[open_] - low[open_]) / np.maximum(steps, 1), step)
        codes = (weights[open_] - low[open_]) / exact
        fits = (np.abs(codes - np.rint(codes)).max(axis=1) <= _TOLERANCE) & (steps[:, 0] <= top)
        found[open_] = np.where(fits[:, None], exact, 0)
    return None if (found == 0).any() else found
