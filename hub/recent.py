"""What was seen lately, bounded: a dictionary that forgets what was not touched for longest.

Knows nothing of what it holds. It is how every memory of the core keeps its bound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `limit` entries, the least recently put or got leaving first.

    >>> seen = Recent[str, int](2)
    >>> seen.put("a", 1); seen.put("b", 2); seen.get("a")
    1
    >>> seen.put("c", 3); list(seen)
    ['a', 'c']
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit is {limit}: at least 1 is needed")
        self._limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The entry, now the most recent one; None where there is none."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep `value`, forgetting the oldest entry where there are too many."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def pop(self, key: K) -> V | None:
        """Forget one entry and return it."""
        return self._entries.pop(key, None)

    def newest_first(self) -> Iterator[V]:
        """Every entry, the one touched last first."""
        return reversed(self._entries.values())

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)
