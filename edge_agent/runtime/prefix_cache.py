"""Keeps the keys and values of prompts and answers, so that what begins alike is computed once.

A radix tree of token ids (Zheng et al., SGLang: Efficient Execution of Structured Language Model Programs, 2024): each
node is a run of tokens with its keys and values, its children are the ways in which those go on. What was used least
recently goes first. In a causal model the keys and values of a token depend on the tokens before it alone, so any
beginning of a sequence that was seen serves any other that begins so. Knows nothing of text or of sessions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.runtime.cache import Block, KvCache

Ids = NDArray[np.int64]


class _Run:
    """Some tokens in a row, and what may follow them by its first token."""

    __slots__ = ("block", "children", "ids", "parent", "used")

    def __init__(self, parent: _Run | None, ids: Ids, block: Block | None, used: int) -> None:
        self.parent = parent
        self.ids = ids
        self.block = block
        self.used = used
        self.children: dict[int, _Run] = {}


class PrefixCache:
    """At most `limit_bytes` of keys and values; 0 keeps nothing."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._root = _Run(None, np.zeros(0, np.int64), None, 0)
        self._clock = 0  # counts uses

    def load(self, ids: Sequence[int], cache: KvCache, row: int) -> int:
        """Append the longest known beginning of `ids` to `row`, which is empty; how many tokens that is.

        There must be room for all of `ids`.
        """
        wanted = np.asarray(ids, np.int64)
        for run, tokens in self._path(wanted):
            assert run.block is not None
            cache.append(row, run.block[:, :, :tokens])
        return int(cache.lengths[row])

    def longest(self, ids: Sequence[int]) -> int:
        """How many tokens `load` would find."""
        return sum(tokens for _, tokens in self._path(np.asarray(ids, np.int64)))

    def store(self, ids: Sequence[int], cache: KvCache, row: int) -> None:
        """Keep what `row` holds of `ids`, its sequence: what is not known yet is copied."""
        fits = self.limit_bytes // cache.bytes_per_token
        wanted = np.asarray(ids[:fits], np.int64)
        known, end = 0, self._root
        for run, tokens in list(self._path(wanted)):
            known += tokens
            end = run if tokens == len(run.ids) else self._split(run, tokens)
        if known == len(wanted):
            return
        new = wanted[known:]
        leaf = _Run(end, new, cache.read(row, known, len(wanted)), self._clock)
        end.children[int(new[0])] = leaf
        assert leaf.block is not None
        self.bytes += leaf.block.nbytes
        self._evict()

    def _path(self, ids: Ids) -> Iterator[tuple[_Run, int]]:
        """The runs that `ids` begin with, and how many tokens of each; they are the most recently used from now."""
        self._clock += 1
        run, done = self._root, 0
        while done < len(ids) and (child := run.children.get(int(ids[done]))) is not None:
            child.used = self._clock
            tokens = _common(child.ids, ids[done:])
            yield child, tokens
            if tokens < len(child.ids):
                return
            run, done = child, done + tokens

    def _split(self, run: _Run, tokens: int) -> _Run:
        """Make two runs of one, the first of `tokens`, and return that."""
        assert run.parent is not None
        assert run.block is not None
        head = _Run(run.parent, run.ids[:tokens].copy(), run.block[:, :, :tokens].copy(), run.used)
        run.parent.children[int(run.ids[0])] = head
        run.parent, run.used = head, self._clock - 1  # only the first of the two has just been used
        run.ids, run.block = run.ids[tokens:].copy(), run.block[:, :, tokens:].copy()
        head.children[int(run.ids[0])] = run
        return head

    def _evict(self) -> None:
        """Drop runs that nothing follows, the least recently used first, until the rest fits."""
        while self.bytes > self.limit_bytes:
            oldest = min(self._leaves(self._root), key=lambda run: run.used)
            assert oldest.parent is not None
            assert oldest.block is not None
            del oldest.parent.children[int(oldest.ids[0])]
            self.bytes -= oldest.block.nbytes

    def _leaves(self, run: _Run) -> Iterator[_Run]:
        pending = [run]
        while pending:
            run = pending.pop()
            if run.children:
                pending += run.children.values()
            elif run.parent is not None:
                yield run


def _common(one: Ids, other: Ids) -> int:
    """How many tokens two sequences begin with alike.

    >>> _common(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
