"""When was everything there that an answer needs? Arithmetic of spans; the definition of *up* stands here.

- The *broker* is up while its process runs, is not stopped, and listens.
- A *hub* or *node* is up while its process runs, is not stopped, has been loaded (it has tried to connect for the
  first time), and its link passes bytes both ways; a link that is slowed down by up to half a second passes.
- A *device* is up while its link passes bytes both ways.
- Nothing is up while the whole machine stood still, as seen by a thread that wakes twenty times a second.

Nothing is said of connections: to make them again is what hubs, nodes and askers have the time for.
"""

from __future__ import annotations

from collections.abc import Iterable

from .history import BROKER, MACHINE, History

Span = tuple[float, float]


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same moments in order, without overlap.

    >>> merged([(3.0, 4.0), (0.0, 1.0), (0.5, 2.0)])
    [(0.0, 2.0), (3.0, 4.0)]
    """
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif end > start:
            found.append((start, end))
    return found


def outside(spans: Iterable[Span], start: float, end: float) -> list[Span]:
    """Where between `start` and `end` none of them is.

    >>> outside([(1.0, 2.0), (4.0, 9.0)], 0.0, 6.0)
    [(0.0, 1.0), (2.0, 4.0)]
    """
    found, at = [], start
    for first, last in merged(spans):
        if first > at:
            found.append((at, min(first, end)))
        at = max(at, last)
    if at < end:
        found.append((at, end))
    return [(first, last) for first, last in found if last > first]


def has_stretch(spans: Iterable[Span], start: float, end: float, length: float) -> bool:
    """Whether one of them holds `length` seconds in a row between `start` and `end`.

    >>> has_stretch([(0.0, 4.0), (5.0, 12.0)], 0.0, 9.0, 5.0), has_stretch([(0.0, 12.0)], 0.0, 9.0, 5.0)
    (False, True)
    """
    return any(min(last, end) - max(first, start) >= length for first, last in spans)


class Uptime:
    """When broker, device, a hub and a node were all up: for each hub and node the spans in which they were."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._down: dict[str, list[Span]] = {}
        for down in history.down:
            self._down.setdefault(down.party, []).append((down.from_s, down.to_s))
        self._of_device: dict[str, list[list[Span]]] = {}
        # How long a model takes is not known: beside no-op nodes it owes nothing.
        self._counted = [node for node in history.nodes if node not in history.real] or history.nodes

    def together(self, device: str) -> list[list[Span]]:
        """One list of spans for each pair of a hub and a node."""
        if device not in self._of_device:
            shared = [*self._spans(BROKER), *self._spans(MACHINE), *self._spans(device)]
            self._of_device[device] = [
                outside([*shared, *self._spans(hub), *self._spans(node)], self._history.start_s, self._history.end_s)
                for hub in self._history.hubs
                for node in self._counted
            ]
        return self._of_device[device]

    def was_enough(self, device: str, start: float, end: float, length: float) -> bool:
        """Whether one hub and one node were up for `length` seconds in a row, with the broker and the device."""
        return any(has_stretch(spans, start, end, length) for spans in self.together(device))

    def still(self, start: float, end: float) -> float:
        """Seconds between these in which the whole machine stood still."""
        return sum(max(min(last, end) - max(first, start), 0.0) for first, last in merged(self._spans(MACHINE)))

    def _spans(self, party: str) -> list[Span]:
        return self._down.get(party, [])
