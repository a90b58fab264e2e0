"""The threads of a node's deployments: one decides, one works; whoever calls is never held up.

Before the service is up, `bundles_to_open` says what to serve; then `start` goes on with whatever was under way. The
thread that decides also looks at clocks: `clock` is monotonic seconds, `local_time` what the clock on the wall says.
Knows nothing of MQTT, nor of how a bundle answers.
"""

from __future__ import annotations

import datetime
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.bundle import Bundle
from edge_agent.deploy import events
from edge_agent.deploy.carrier import Carrier, Checker, Work
from edge_agent.deploy.events import Event
from edge_agent.deploy.fetch import Fetcher
from edge_agent.deploy.host import Host
from edge_agent.deploy.quiet_hours import QuietHours
from edge_agent.deploy.record import Slot
from edge_agent.deploy.shelf import Shelf
from edge_agent.deploy.state import deployment
from edge_agent.memory import available_bytes
from hub import wire

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
CLOSE_S: Final = 5.0


class ToOpen(msgspec.Struct, frozen=True):
    """A deployed bundle to serve in the place of the fixed one of the model `replaces`, or beside all."""

    path: Path
    bundle: str
    replaces: str


def _wall_clock() -> datetime.time:
    return datetime.datetime.now().time()


class Deployer:
    """Takes Desired and gives the node the bundle it is to serve. Closes `shelf` in the end.

    `check` opens a bundle and verifies it, its signature included; `fixed` are the bundles of `--bundle`.
    """

    def __init__(
        self,
        shelf: Shelf,
        fetcher: Fetcher,
        check: Checker,
        *,
        fixed: Sequence[Bundle] = (),
        quiet_hours: QuietHours | None = None,
        clock: Callable[[], float] = time.monotonic,
        local_time: Callable[[], datetime.time] = _wall_clock,
        free_memory: Callable[[], int | None] = available_bytes,
        tick_s: float = TICK_S,
    ) -> None:
        self._shelf = shelf
        self._quiet_hours = quiet_hours
        self._clock = clock
        self._local_time = local_time
        self._tick_s = tick_s
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._works: queue.SimpleQueue[tuple[int, Work] | None] = queue.SimpleQueue()  # with the epoch it is for
        self._carrier = Carrier(
            shelf, fetcher, check, fixed=fixed, free_memory=free_memory, tell=self._events.put, clock=clock
        )
        self._threads: tuple[threading.Thread, ...] = ()

    # --- before the service is up -----------------------------------------------------------------------

    def bundles_to_open(self) -> list[ToOpen]:
        """What was deployed here and is to serve now. Called once: it counts the crash before, if there was one."""
        self._carrier.take(events.Started(), self._clock())
        slots = self._carrier.state.record.slots
        return [one for replaces, slot in slots.items() if (one := self._to_open(replaces, slot)) is not None]

    def could_not_open(self, replaces: str, why: str) -> ToOpen | None:
        """What to open in its place; None for the fixed bundle of that model, or nothing. Nothing is removed yet."""
        self._carrier.take(events.CouldNotOpen(replaces, why), self._clock())
        return self._to_open(replaces, self._carrier.state.record.slots.get(replaces, Slot()))

    def _to_open(self, replaces: str, slot: Slot) -> ToOpen | None:
        placed = slot.serving
        return None if placed is None else ToOpen(self._shelf.folder(placed.folder), placed.bundle, replaces)

    @property
    def deployment(self) -> wire.Deployment | None:
        """How far it has come; None before the first Desired."""
        return deployment(self._carrier.state)

    # --- while the service runs, from any thread --------------------------------------------------------

    def start(self, host: Host) -> None:
        """Questions are taken: go on with what was under way, and take Desired."""
        self._carrier.host = host
        self._events.put(events.Resumed())
        for run, name in ((self._decide, "deployer"), (self._work, "deployment")):
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads = (*self._threads, thread)
            thread.start()

    def desired(self, desired: wire.Desired) -> None:
        """A Desired came, perhaps again."""
        self._events.put(events.DesiredReceived(desired))

    def question_ended(self, bundle: str, failed: bool, predicted_ms: float, actual_ms: float, beside: float) -> None:
        """A question was answered by `bundle` in so much compute, or failed by its fault (`internal`)."""
        self._events.put(events.QuestionEnded(bundle, failed, predicted_ms, actual_ms, beside))

    def close(self, limit_s: float = CLOSE_S, *, in_order: bool = True) -> None:
        """End in good order, so that this is no crash; what was under way goes on at the next start.

        Where the service has failed, `in_order` is false: then it is one. Of two calls the first counts.
        """
        if not self._threads:
            self._carrier.take(events.Closed(in_order), self._clock())
        self._events.put(events.Closed(in_order))
        end = self._clock() + limit_s
        for thread in self._threads:
            thread.join(max(end - self._clock(), 0.0))
        if any(thread.is_alive() for thread in self._threads):
            log.warning("a deployment did not end within %g s: it ends with the process", limit_s)
        else:
            self._shelf.close()

    # --- in the threads ---------------------------------------------------------------------------------

    def _decide(self) -> None:
        was_quiet, looked_at = False, -self._tick_s
        while True:
            now = self._clock()
            if now - looked_at >= self._tick_s:
                looked_at, is_quiet = now, self._is_quiet()
                if is_quiet != was_quiet:
                    was_quiet = is_quiet
                    self._take(events.QuietChanged(is_quiet))
                self._take(events.TimePassed())
            try:
                event = self._events.get(timeout=self._tick_s)
            except queue.Empty:
                continue
            self._take(event)
            if isinstance(event, events.Closed):
                self._works.put(None)
                return

    def _is_quiet(self) -> bool:
        return self._quiet_hours is not None and self._quiet_hours.holds(self._local_time())

    def _take(self, event: Event) -> None:
        try:
            for work in self._carrier.take(event, self._clock()):
                self._works.put((self._carrier.state.record.epoch, work))
        except BaseException:  # a bug in a step must not end what can still go back
            log.exception("%s could not be taken", type(event).__name__)

    def _work(self) -> None:
        while (job := self._works.get()) is not None:
            epoch, work = job
            try:
                event = work()
            except BaseException as error:  # a library's panic is no Exception: it must not end the thread, nor be lost
                log.exception("the deployment of epoch %d failed", epoch)
                event = events.Failed(epoch, f"{type(error).__name__}: {error}")
            if event is not None:
                self._events.put(event)
