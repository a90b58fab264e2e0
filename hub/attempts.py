"""When may a link try to connect again, and for how long may that hold up everything else?

Behind an attempt that took long to fail (or before any, with `look_first`) a thread looks first whether the broker can
be reached: else everything that the loop serves stands still again and again, for as long as the network swallows
packets. Knows nothing of MQTT; `now` is monotonic seconds and the spread is drawn by its owner.
"""

from __future__ import annotations

from typing import Final

from hub import reach
from hub.reach import Reach

FIRST_RETRY_S: Final = 0.1
LAST_RETRY_S: Final = 1.0  # who has 5 s of a broker to answer in must not spend them waiting to connect
CONNECT_LIMIT_S: Final = 2.0  # of an attempt that nothing is known about: everything else waits for it
DISTRUST_RETRY_S: Final = 10.0  # what a certificate or a clock is does not change by the second
SLOW_CONNECT_S: Final = 0.5
LOOK_EVERY_S: Final = 0.02


class Attempts:
    """The attempts of one link to connect to `host` and `port`."""

    def __init__(self, host: str, port: int, *, look_first: bool) -> None:
        self.due_at: float | None = 0.0  # None while a connection is up or under way
        self.limit_s = CONNECT_LIMIT_S
        self._host = host
        self._port = port
        self._look_first = look_first
        self._was_slow = look_first  # the last attempt to connect took long to fail
        self._retry_s = FIRST_RETRY_S
        self._reach: Reach | None = None

    def may_connect(self, now: float) -> bool | None:
        """Once one is due: whether the broker can be reached, as far as that has to be known; None until it is."""
        if not self._was_slow:
            return True
        if self._reach is None:
            self._reach = Reach(self._host, self._port)
        reached = self._reach.reached
        if reached is None:
            self.due_at = now + LOOK_EVERY_S
            return None
        self._reach = None
        if reached:
            self.limit_s = reach.LIMIT_S  # it may be slow, but it answers
        return reached

    def begun(self) -> None:
        """One is under way."""
        self.due_at = None

    def failed(self, took_s: float) -> None:
        """The one under way did not come to a connection."""
        self._was_slow = self._look_first or took_s > SLOW_CONNECT_S

    def succeeded(self) -> None:
        """The link is open: the next loss starts from the shortest wait."""
        self._retry_s = FIRST_RETRY_S

    def wait(self, now: float, spread: float, least_s: float = 0.0) -> None:
        """Let the next one be due after the wait, at least `least_s`, times `spread`; then the wait is doubled."""
        self.due_at = now + max(self._retry_s, least_s) * spread
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
