"""Holds the keys and values of the tokens that a decoder has seen, and makes room for more.

Buffers start small and double up to the context, so a short answer does not pay for the longest possible one
(8,192 positions of SmolLM2 in float32 are 377 MB). Knows nothing of sessions or of how the buffers are bound.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import ContextOverflow
from edge_agent.manifest import CacheLayout

FIRST_POSITIONS: Final = 256


class KvCache:
    """One row of keys and values per layer: arrays of shape (1, kv_heads, capacity, head_dim).

    `length` positions are in use. The arrays are replaced when the cache grows; `reserve` says when.
    """

    def __init__(self, layout: CacheLayout, context: int) -> None:
        if context < 1:
            raise ValueError(f"a context of {context} holds nothing")
        self._layout = layout
        self.context = context
        self.length = 0
        self.capacity = min(FIRST_POSITIONS, context)
        self.arrays = self._allocate(self.capacity)

    @property
    def bytes(self) -> int:
        """Bytes held, used or not."""
        return sum(array.nbytes for array in self.arrays.values())

    def require(self, prompt_tokens: int, max_tokens: int) -> None:
        """Raise ContextOverflow unless a prompt and an answer of these lengths fit into the context."""
        if prompt_tokens + max_tokens > self.context:
            raise ContextOverflow(prompt_tokens, max_tokens, self.context)

    def reserve(self, more: int) -> bool:
        """Make room for `more` positions; True if the arrays were replaced. Raises ContextOverflow."""
        self.require(self.length, more)
        needed = self.length + more
        if needed <= self.capacity:
            return False
        capacity = self.capacity
        while capacity < needed:
            capacity *= 2
        self._grow(min(capacity, self.context))
        return True

    def _grow(self, capacity: int) -> None:
        grown = self._allocate(capacity)
        for name in grown:
            grown[name][:, :, : self.length] = self.arrays[name][:, :, : self.length]
        self.arrays, self.capacity = grown, capacity

    def _allocate(self, capacity: int) -> dict[str, NDArray[np.generic]]:
        """Arrays by `{layer}.key` and `{layer}.value`; zeroed, so that no position holds a NaN by chance."""
        layout = self._layout
        shape = (1, layout.kv_heads, capacity, layout.head_dim)
        return {
            f"{layer}.{half}": np.zeros(shape, dtype=layout.dtype)
            for layer in range(layout.layers)
            for half in ("key", "value")
        }
