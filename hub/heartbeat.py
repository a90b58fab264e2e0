"""Is a node still there, and how far away? Pings, in a small fleet one a second, and what its pongs say.

Counts lost pings and measures round trips for one node. Knows nothing of other nodes, topics or clocks.
"""

from __future__ import annotations

from typing import Final

PING_EVERY_S: Final = 1.0
PINGS_PER_S: Final = 100.0  # to all nodes together: a large fleet is pinged less often, so that answers come first
SELDOM_S: Final = 10.0  # but at least so often
LOST_PINGS: Final = 3  # in a row make a node suspect
_REMEMBERED: Final = 64  # pings whose pong is still recognised: a link of more than a minute is no link


def ping_every_s(nodes: int) -> float:
    """The seconds between two pings to one of so many nodes.

    >>> ping_every_s(40), ping_every_s(500), ping_every_s(5000)
    (1.0, 5.0, 10.0)
    """
    return min(max(PING_EVERY_S, nodes / PINGS_PER_S), SELDOM_S)


class Heartbeat:
    """The pings to one node. Sequence numbers go up by one and are never used again for this node.

    >>> beat = Heartbeat()
    >>> beat.ping(10.0), beat.ping(11.0), beat.silent
    (1, 2, False)
    >>> beat.pong(2, 3.0, 11.063)
    (11.0, 60.0)
    >>> [beat.ping(12.0 + i) for i in range(3)], beat.silent
    ([3, 4, 5], True)
    """

    def __init__(self) -> None:
        self._seq = 0
        self._sent_s: dict[int, float] = {}
        self._measured_from = 1
        self._unanswered = 0

    @property
    def silent(self) -> bool:
        """The last three pings have had no answer."""
        return self._unanswered >= LOST_PINGS

    def ping(self, now: float) -> int:
        """A ping leaves; its sequence number."""
        self._seq += 1
        self._sent_s[self._seq] = now
        self._sent_s.pop(self._seq - _REMEMBERED, None)
        self._unanswered += 1
        return self._seq

    def pong(self, seq: int, hold_ms: float, now: float) -> tuple[float, float | None] | None:
        """A pong came: when its ping left, and the round trip in milliseconds without the node's hold.

        The round trip is None where it measures no distance; the whole is None for a pong to no ping of ours.
        """
        sent_s = self._sent_s.pop(seq, None)
        if sent_s is None:
            return None
        if self.silent:
            self.distrust()  # an outage was no distance, neither this pong's nor that of the pings behind it
        self._unanswered = 0
        if seq < self._measured_from:
            return sent_s, None
        return sent_s, round(max((now - sent_s) * 1000 - hold_ms, 0.0), 6)

    def restart(self) -> None:
        """The link or the node was away: what was sent before is neither lost nor awaited."""
        self._sent_s.clear()
        self._unanswered = 0

    def distrust(self) -> None:
        """This hub or the node was held up: pongs under way show that the node lives, not how far it is."""
        self._measured_from = self._seq + 1
