"""Which codes and scales stand best for a block of weights, looked at on its own?

`round_to_nearest` spans each block from its least to its greatest weight. `search` tries narrower spans and keeps the
one whose error, weighted by how much each input matters, is least, then fits scale and zero point to the codes by
weighted least squares (the search of llama.cpp's k-quants, K. Kawrakow; with weights E[x^2] as in AWQ, Lin et al.
2023).

Does not know the graph, nor how an error in one block can be made good in the next (`gptq.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.blocks import Blocks, Codes, Floats, blocked, blocks_of

if TYPE_CHECKING:
    pass

_ROWS_AT_ONCE: Final = 8192  # bounds the temporaries, about 20 bytes a weight
_SPANS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6)  # of the whole one: those that are tried


def round_to_nearest(matrix: Floats, bits: int, block: int = 32) -> Blocks:
    """Quantize float32 (rows, columns) along its columns; the error of a weight is at most about half its step.

    Zero is always representable, so the padding of a last short block costs nothing.
    """
    import numpy as np

    parts = [
        _rounded(blocked(matrix[start : start + _ROWS_AT_ONCE], block), bits)
        for start in range(0, len(matrix), _ROWS_AT_ONCE)
    ]
    codes, scales, zeros = (np.concatenate(group) for group in zip(*parts, strict=True))
    return blocks_of(codes, scales, zeros, bits=bits, columns=matrix.shape[1])


def search(matrix: Floats, bits: int, block: int = 32, *, importance: Floats | None = None) -> Blocks:
    """Quantize float32 (rows, columns) with the least weighted squared error that the search finds.

    `importance` float32 (columns,) is the mean square of each input, None for equal ones.
    """
    import numpy as np

    columns = matrix.shape[1]
    weighted = blocked(
        relative_importance(np.ones(columns, np.float32) if importance is None else importance)[None], block
    )
    parts = []
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        rows = blocked(matrix[start : start + _ROWS_AT_ONCE], block)
        scales, zeros = search_grid(rows, weighted, bits)
        codes = np.clip(np.rint(rows / scales[..., None]) + zeros[..., None], 0, 2**bits - 1)
        parts.append((codes.astype(np.uint8), scales, zeros.astype(np.uint8)))
    all_codes, all_scales, all_zeros = (np.concatenate(group) for group in zip(*parts, strict=True))
    return blocks_of(all_codes, all_scales, all_zeros, bits=bits, columns=columns)


def relative_importance(mean_squares: Floats) -> Floats:
    """Mean squares of the inputs, about 1 on average; an input that never moved still has to be right."""
    import numpy as np

    mean = max(float(mean_squares.mean()), 1e-30)
    return (mean_squares / np.float32(mean) + np.float32(1e-3)).astype(np.float32)


def search_grid(weights: Floats, importance: Floats, bits: int) -> tuple[Floats, Floats]:
    """Scales and whole zero points, each float32 (rows, blocks), for weights (rows, blocks, block).

    `importance` broadcasts against the weights. The result is never worse, by its own measure, than round to nearest.
    """
    import numpy as np

    top = 2**bits - 1
    low = np.minimum(weights.min(-1), 0)
    high = np.maximum(weights.max(-1), 0)
    best_scale, best_zero = np.ones_like(low), np.zeros_like(low)
    best_error = np.full_like(low, np.inf)
    for span in _SPANS:
        scale = (high - low) * np.float32(span / top)
        scale[scale <= 0] = 1.0
        zero = np.clip(np.rint(-low * np.float32(span) / scale), 0, top)
        codes = weights / scale[..., None]
        np.rint(codes, out=codes)
        np.clip(codes, -zero[..., None], (top - zero)[..., None], out=codes)
        # With these codes the error is a parabola in the scale: take the scale of its lowest point.
        weighted = importance * codes
        over, under = (weighted * weights).sum(-1), (weighted * codes).sum(-1)
        fitted = np.where((under > 0) & (over > 0), over / np.maximum(under, 1e-30), scale)
        for one in (scale, fitted):
            error = one * one * under - 2 * one * over  # less sum(importance * weights^2), the same for all
            better = error < best_error
            best_error[better], best_scale[better], best_zero[better] = error[better], one[better], zero[better]
    return best_scale, best_zero


def _rounded(grouped: Floats, bits: int) -> tuple[Codes, Floats, Codes]:
    """Codes (rows, blocks, block), scales and zero points (rows, blocks)."""
    import numpy as np

    top = 2**bits - 1
    low = np.minimum(grouped.min(axis=2), 0.0)
    high = np.maximum(grouped.max(axis=2), 0.0)
    scales = (high - low) / np.float32(top)
    scales[scales == 0] = 1.0
    zeros = np.clip(np.rint(-low / scales), 0, top)
    codes = np.clip(np.rint(grouped / scales[:, :, None]) + zeros[:, :, None], 0, top).astype(np.uint8)
    return codes, scales.astype(np.float32), zeros.astype(np.uint8)
