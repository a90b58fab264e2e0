"""How is a matrix written in 4 or 8 bits, block by block?

Every `block` consecutive weights of an output row share a float32 scale and an integer zero point (integer, because
ONNX Runtime's CPU kernels are about 30 times slower with floating ones), and may share a float32 offset:

    weight = (code - zero_point) * scale + offset

Offsets are what grids with a minimum of their own need (GGUF's Q4_1, for one); `quantize.py` says how a graph computes
them. Values only; does not know which codes are good ones (`round_codes.py`, `gptq.py`, `grid.py`).
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

BLOCK_SIZES: Final = (32, 64, 128)
Codes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """A quantized matrix of `rows` x `columns`.

    `codes` uint8 (rows, blocks, block * bits / 8), `scales` float32 (rows, blocks), `zero_points` uint8
    (rows, ceil(blocks * bits / 8)), `offsets` float32 (rows, blocks) or None for zero. 4-bit values lie two to a byte,
    the first in the low half; a last block that is short is padded with its zero point.
    """

    bits: int
    block: int
    columns: int
    codes: Codes
    scales: Floats
    zero_points: Codes
    offsets: Floats | None = None

    def dequantized(self) -> Floats:
        """The float32 (rows, columns) matrix that these blocks stand for."""
        rows, blocks = self.scales.shape
        codes = unpacked(self.codes, self.bits).reshape(rows, blocks, self.block).astype(np.float32)
        zeros = unpacked(self.zero_points, self.bits)[:, :blocks, None]
        weights = (codes - zeros) * self.scales[:, :, None]
        if self.offsets is not None:
            weights += self.offsets[:, :, None]
        whole: Floats = weights.reshape(rows, blocks * self.block)[:, : self.columns]
        return whole


def blocked(matrix: Floats, block: int) -> Floats:
    """(rows, columns) as (rows, blocks, block), padded with zeros; a copy only where there is something to pad."""
    rows, columns = matrix.shape
    blocks = -(-columns // block)
    if columns % block:
        padded = np.zeros((rows, blocks * block), np.float32)
        padded[:, :columns] = matrix
        matrix = padded
    return np.ascontiguousarray(matrix).reshape(rows, blocks, block)


def blocks_of(
    codes: Codes, scales: Floats, zero_points: Codes, *, bits: int, columns: int, offsets: Floats | None = None
) -> Blocks:
    """Pack unpacked codes (rows, blocks, block) and zero points (rows, blocks)."""
    rows, count, block = codes.shape
    return Blocks(
        bits=bits,
        block=block,
        columns=columns,
        codes=packed(codes.reshape(rows, -1), bits).reshape(rows, count, block * bits // 8),
        scales=np.ascontiguousarray(scales, np.float32),
        zero_points=packed(zero_points, bits),
        offsets=offsets,
    )


def packed(values: Codes, bits: int) -> Codes:
    """uint8 (rows, n) to (rows, ceil(n * bits / 8)).

    >>> packed(np.array([[1, 2, 3]], np.uint8), 4).tolist()
    [[33, 3]]
    """
    if bits == 8:
        return np.ascontiguousarray(values)
    if values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1))).astype(np.uint8)
    return (values[:, 0::2] | (values[:, 1::2] << 4)).astype(np.uint8)


def unpacked(values: Codes, bits: int) -> Codes:
    """The reverse of `packed`: uint8 (rows, ...) to (rows, values); a padded one stays at the end.

    >>> unpacked(np.array([[33, 3]], np.uint8), 4).tolist()
    [[1, 2, 3, 0]]
    """
    flat = values.reshape(len(values), -1)
    if bits == 8:
        return flat
    return np.stack((flat & 15, flat >> 4), axis=-1).reshape(len(flat), -1)
