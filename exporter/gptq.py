"""How can the error of one weight be made good by the weights after it?

GPTQ (Frantar et al., Accurate Post-Training Quantization for Generative Pre-trained Transformers, 2023): columns are
rounded one after the other, and what each rounding changes in the layer's output on calibration text is taken up by the
columns not yet rounded, by the inverse of the inputs' second moments. Each block's scale is searched (`rounding.py`)
when its turn comes, on the weights as they are then.

Does not know where the second moments come from (`calibrate.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.blocks import Blocks, Codes, Floats, blocks_of
from exporter.rounding import relative_importance, search_grid

if TYPE_CHECKING:
    import numpy as np

DAMPING: Final = 0.01  # of the mean second moment, as in the paper
_ROWS_AT_ONCE: Final = 16_384


def gptq(matrix: Floats, moments: Floats, bits: int, block: int = 32) -> Blocks:
    """Quantize float32 (rows, columns) for inputs whose second moments E[x x^T] are `moments` (columns, columns).

    Columns must be a multiple of `block`: raises ValueError otherwise.
    """
    import numpy as np

    rows, columns = matrix.shape
    if columns % block:
        raise ValueError(f"{columns} columns are no multiple of the block size {block}")
    factor = _inverse_factor(moments)
    importance = relative_importance(moments.diagonal())
    parts = [
        _quantized(
            np.array(matrix[start : start + _ROWS_AT_ONCE].T, np.float32, order="C"), factor, importance, bits, block
        )
        for start in range(0, rows, _ROWS_AT_ONCE)
    ]
    codes, scales, zeros = (np.concatenate(group) for group in zip(*parts, strict=True))
    return blocks_of(codes, scales, zeros, bits=bits, columns=columns)


def _inverse_factor(moments: Floats) -> Floats:
    """The upper Cholesky factor U of the damped inverse moments: inverse = U^T U."""
    import numpy as np

    squares = moments.diagonal().astype(np.float64)
    mean = float(squares.mean())
    dead = squares <= 1e-12 * mean if mean > 0 else np.ones(len(squares), bool)
    damped = moments.astype(np.float64) + np.diag(DAMPING * mean + dead * max(mean, 1.0))
    lower: np.ndarray = np.linalg.cholesky(np.linalg.inv(damped))
    return np.ascontiguousarray(lower.T, np.float32)


def _quantized(
    weights: Floats, factor: Floats, importance: Floats, bits: int, block: int
) -> tuple[Codes, Floats, Codes]:
    """Codes (rows, blocks, block), scales and zero points (rows, blocks).

    `weights` (columns, rows), each column side by side in memory, is used up. NumPy on one thread: the steps are small
    and many, and threads would wait for one another at each.
    """
    import numpy as np

    columns, rows = weights.shape
    top = np.float32(2**bits - 1)
    codes = np.empty((columns // block, block, rows), np.uint8)
    scales, zeros = (np.empty((columns // block, rows), np.float32) for _ in range(2))
    for number, start in enumerate(range(0, columns, block)):
        part, within = weights[start : start + block], factor[start : start + block, start : start + block]
        found = search_grid(part.T[:, None], importance[start : start + block], bits)
        scale, zero = found[0][:, 0], found[1][:, 0]
        errors = np.empty((block, rows), np.float32)
        for column in range(block):
            code = np.clip(np.rint(part[column] / scale) + zero, 0, top)
            codes[number, column] = code
            error = np.divide(part[column] - (code - zero) * scale, within[column, column], out=errors[column])
            part[column + 1 :] -= within[column, column + 1 :, None] * error
        weights[start + block :] -= factor[start : start + block, start + block :].T @ errors
        scales[number], zeros[number] = scale, zero
    return codes.transpose(2, 0, 1), scales.T, zeros.T.astype(np.uint8)
