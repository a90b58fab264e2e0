"""Whose turn is it? Drives links, timers and calls from other threads, all in the thread that calls `run_once`.

It knows nothing of what the links carry. What a turn publishes is written at its end, all of a connection at once: each
write by itself wakes the broker, and that costs more than all else that a small message does.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import math
import select
import socket
import time
from collections.abc import Callable

from hub.mqtt_link import Link


class Loop:
    """Drives links, timers and calls from other threads, all in one thread.

    >>> loop = Loop()
    >>> loop.call_soon(lambda: print("called"))
    >>> loop.run_once(0)
    called
    >>> loop.close()
    """

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._calls: collections.deque[Callable[[], None]] = collections.deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    def add(self, link: Link) -> None:
        """Start driving `link`, if it is not driven yet; it connects on the next `run_once`."""
        if link not in self._links:
            self._links.append(link)

    def remove(self, link: Link, *, for_good: bool = False) -> None:
        """Leave the broker of `link` and drive it no more; `for_good` keeps no session for it either."""
        link.leave(for_good=for_good)
        self._links.remove(link)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Call once `time.monotonic()` has reached `when`."""
        heapq.heappush(self._timers, (when, next(self._order), call))

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call on the next turn; the one method that any thread (or signal handler) may use."""
        self._calls.append(call)
        with contextlib.suppress(OSError):  # full: a wake-up is on its way already; closed: nobody listens any more
            self._wake_out.send(b"\0")

    def run_once(self, limit_s: float) -> None:
        """Wait for at most `limit_s` seconds for something to do, and do it. Raises LinkError."""
        now = time.monotonic()
        for link in list(self._links):
            link.tend(now)
        self._write()
        self._wait_and_serve(min(limit_s, self._time_to_next(time.monotonic())))
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        self._write()

    def close(self) -> None:
        """Leave all brokers and free the sockets."""
        for link in self._links:
            link.leave()
        self._wake_in.close()
        self._wake_out.close()

    def _write(self) -> None:
        for link in list(self._links):
            link.write()

    def _time_to_next(self, now: float) -> float:
        times = [1.0]  # keepalives are looked after at least once a second
        if self._calls:
            times.append(0.0)
        if self._timers:
            times.append(self._timers[0][0] - now)
        times += [link.due_at - now for link in self._links if link.due_at is not None]
        return max(min(times), 0.0)

    def _wait_and_serve(self, limit_s: float) -> None:
        poller = select.poll()
        poller.register(self._wake_in.fileno(), select.POLLIN)
        by_fileno: dict[int, Link] = {}
        for link in self._links:
            waiting = link.fileno_and_mask()
            if waiting is not None:
                poller.register(*waiting)
                by_fileno[waiting[0]] = link
        # poll takes whole milliseconds; round up, so that a timer is not polled for in a busy loop
        for fileno, mask in poller.poll(math.ceil(limit_s * 1000)):
            if fileno in by_fileno:
                if mask & ~select.POLLOUT:
                    by_fileno[fileno].read()
            else:
                with contextlib.suppress(BlockingIOError):
                    self._wake_in.recv(4096)
