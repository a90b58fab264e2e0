"""Holds the keys and values of the tokens that a decoder has seen, one row for each sequence, and makes room for more.

Rows start small and double up to the context, so a short answer does not pay for the longest possible one (8,192
positions of SmolLM2 in float32 are 377 MB); memory that no token has touched is only reserved. Knows nothing of
sessions or of how the rows are bound.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import ContextOverflow
from edge_agent.manifest import CacheLayout

FIRST_POSITIONS: Final = 256

Block = NDArray[np.generic]  # keys and values of some tokens in a row: (2 * layers, kv_heads, tokens, head_dim)


class Positions:
    """How many positions each of `rows` sequences has, and may have. Where the keys and values lie is not said here.

    `lengths` int32 (rows,) says how many positions of each row are in use, `capacity` for how many there is room now:
    here for all.
    """

    def __init__(self, context: int, rows: int, bytes_per_token: int) -> None:
        if context < 1:
            raise ValueError(f"a context of {context} holds nothing")
        if rows < 1:
            raise ValueError(f"{rows} rows hold nothing")
        self.context = context
        self.rows = rows
        self.bytes_per_token = bytes_per_token
        self.lengths = np.zeros(rows, np.int32)
        self.capacity = context

    def require(self, prompt_tokens: int, max_tokens: int) -> None:
        """Raise ContextOverflow unless a prompt and an answer of these lengths fit into the context."""
        if prompt_tokens + max_tokens > self.context:
            raise ContextOverflow(prompt_tokens, max_tokens, self.context)

    def reserve(self, more: int, row: int = 0) -> bool:
        """Make room for `more` positions in `row`; True if the arrays were replaced. Raises ContextOverflow."""
        length = int(self.lengths[row])
        self.require(length, more)
        needed = length + more
        if needed <= self.capacity:
            return False
        capacity = self.capacity
        while capacity < needed:
            capacity *= 2
        self._grow(min(capacity, self.context))
        return True

    def _grow(self, capacity: int) -> None:
        raise AssertionError(f"there was room for {self.capacity} positions from the start")


class KvCache(Positions):
    """Layer by layer, keys then values, in arrays of shape (rows, kv_heads, capacity, head_dim) of the host's memory.

    The arrays are replaced when the cache grows; `reserve` says when.
    """

    def __init__(self, layout: CacheLayout, context: int, rows: int = 1) -> None:
        super().__init__(context, rows, layout.bytes_per_position)
        self._layout = layout
        self.capacity = min(FIRST_POSITIONS, context)
        self._all = self._allocate(self.capacity)

    @property
    def bytes(self) -> int:
        """Bytes reserved, used or not."""
        return self._all.nbytes

    def arrays(self, first: int, last: int) -> dict[str, NDArray[np.generic]]:
        """Rows `first` to `last` (exclusive) by `{layer}.key` and `{layer}.value`: views of contiguous memory."""
        names = (f"{layer}.{half}" for layer in range(self._layout.layers) for half in ("key", "value"))
        return {name: self._all[number, first:last] for number, name in enumerate(names)}

    def read(self, row: int, first: int, last: int) -> Block:
        """A copy of positions `first` to `last` (exclusive) of `row`."""
        return self._all[:, row, :, first:last].copy()

    def append(self, row: int, block: Block) -> None:
        """Write `block` behind what `row` holds; there must be room for it."""
        length, tokens = int(self.lengths[row]), block.shape[2]
        self._all[:, row, :, length : length + tokens] = block
        self.lengths[row] += tokens

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
        lengths = int(self.lengths[one]), int(self.lengths[other])
        moved = self.read(one, 0, lengths[0])
        self._all[:, one, :, : lengths[1]] = self._all[:, other, :, : lengths[1]]
        self._all[:, other, :, : lengths[0]] = moved
        self.lengths[one], self.lengths[other] = lengths[1], lengths[0]

    def _grow(self, capacity: int) -> None:
        grown = self._allocate(capacity)
        for row, length in enumerate(self.lengths.tolist()):
            grown[:, row, :, :length] = self._all[:, row, :, :length]
        self._all, self.capacity = grown, capacity

    def _allocate(self, capacity: int) -> NDArray[np.generic]:
        """Zeroed, so that no position holds a NaN by chance."""
        layout = self._layout
        shape = (2 * layout.layers, self.rows, layout.kv_heads, capacity, layout.head_dim)
        return untouched(shape, layout.dtype)


def untouched(shape: tuple[int, ...], dtype: str) -> NDArray[np.generic]:
    """An array of zeros that takes memory page by page, where it is written.

    NumPy asks for huge pages. Rows lie apart by their capacity, so one position of each would make all of it resident.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
