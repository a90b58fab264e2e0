"""Keeps the keys and values of prompts and answers, so that what begins alike is computed once.

A radix tree of token ids (Zheng et al., SGLang: Efficient Execution of Structured Language Model Programs, 2024): each
node is a run of tokens with its keys and values, its children are the ways in which those go on. What was used least
recently goes first. In a causal model the keys and values of a token depend on the tokens before it alone, so any
beginning of a sequence that was seen serves any other that begins so. Knows nothing of text or of sessions.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.runtime.cache import Block, KvCache

Ids = NDArray[np.int64]


class _Run:
    """Some tokens in a row, and what may follow them by its first token."""

    __slots__ = ("block", "children", "ids", "parent")

    def __init__(self, parent: _Run | None, ids: Ids, block: Block | None) -> None:
        self.parent = parent
        self.ids = ids
        self.block = block
        self.children: dict[int, _Run] = {}


class PrefixCache:
    """At most `limit_bytes` of keys and values; 0 keeps nothing."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._root = _Run(None, np.zeros(0, np.int64), None)
        # The latest used at the end, each run behind all that follow it in the tree: so the first is always a leaf.
        self._by_use: collections.OrderedDict[_Run, None] = collections.OrderedDict()

    def load(self, ids: Sequence[int], cache: KvCache, row: int) -> int:
        """Append the longest known beginning of `ids` to `row`, which is empty; how many tokens that is.

        There must be room for all of `ids`.
        """
        wanted = np.asarray(ids, np.int64)
        path = self._path(wanted)
        for run, tokens in path:
            assert run.block is not None
            cache.append(row, run.block[:, :, :tokens])
        self._touch([run for run, _ in path])
        return int(cache.lengths[row])

    def store(self, ids: Sequence[int], cache: KvCache, row: int) -> None:
        """Keep what `row` holds of `ids`, its sequence: what is not known yet is copied."""
        fits = self.limit_bytes // cache.bytes_per_token
        wanted = np.asarray(ids[:fits], np.int64)
        path = [run if tokens == len(run.ids) else self._split(run, tokens) for run, tokens in self._path(wanted)]
        known = sum(len(run.ids) for run in path)
        if known < len(wanted):
            end = path[-1] if path else self._root
            leaf = _Run(end, wanted[known:], cache.read(row, known, len(wanted)))
            end.children[int(wanted[known])] = leaf
            assert leaf.block is not None
            self.bytes += leaf.block.nbytes
            path.append(leaf)
        self._touch(path)
        self._evict()

    def _path(self, ids: Ids) -> list[tuple[_Run, int]]:
        """The runs that `ids` begin with, and how many tokens of each: all of it, but for the last."""
        path: list[tuple[_Run, int]] = []
        run, done = self._root, 0
        while done < len(ids) and (child := run.children.get(int(ids[done]))) is not None:
            tokens = _common(child.ids, ids[done:])
            path.append((child, tokens))
            if tokens < len(child.ids):
                break
            run, done = child, done + tokens
        return path

    def _touch(self, path: Sequence[_Run]) -> None:
        """These, from the root on, were used just now."""
        for run in reversed(path):
            self._by_use[run] = None
            self._by_use.move_to_end(run)

    def _split(self, run: _Run, tokens: int) -> _Run:
        """Make two runs of one, the first of `tokens`, and return that."""
        assert run.parent is not None
        assert run.block is not None
        head = _Run(run.parent, run.ids[:tokens].copy(), run.block[:, :, :tokens].copy())
        run.parent.children[int(run.ids[0])] = head
        run.parent = head
        run.ids, run.block = run.ids[tokens:].copy(), run.block[:, :, tokens:].copy()
        head.children[int(run.ids[0])] = run
        return head

    def _evict(self) -> None:
        """Drop what was used least recently until the rest fits."""
        while self.bytes > self.limit_bytes:
            oldest, _ = self._by_use.popitem(last=False)
            assert oldest.parent is not None
            assert oldest.block is not None
            assert not oldest.children
            del oldest.parent.children[int(oldest.ids[0])]
            self.bytes -= oldest.block.nbytes


def _common(one: Ids, other: Ids) -> int:
    """How many tokens two sequences begin with alike.

    >>> _common(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
