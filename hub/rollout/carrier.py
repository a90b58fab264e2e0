"""Carries rollouts out: looks once a second at what is ordered and how the nodes are, and tells them what to serve.

In a thread of its own, because it waits for disks; of the hub's thread it takes frozen values and lets it publish. Of
the hubs that have the same directory one carries out, the others wait for it to end. What is to be told to whom is
decided in `plan.py`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.parse import urlsplit

from hub import wire
from hub.core import Core
from hub.errors import RolloutError, WireError
from hub.fleet import Node, Standing
from hub.http_server import Address
from hub.rollout.orders import Orders
from hub.rollout.plan import Note, Persist, Rollout
from hub.rollout.view import View, left_out, rows_of, summary
from hub.rollout.waves import Seen
from hub.running_hub import RunningHub

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
SETTLE_S: Final = 3.0  # after the hub is connected, until what is retained has come
ANSWERS_WITHIN_S: Final = 10.0
MOST_SHOWN: Final = 8  # rollouts, the latest
_MOST_SOURCE_CHARS: Final = 512  # as the wire has it
_ABSENT: Final = (Standing.LOST, Standing.GONE)


class Hub(RunningHub, Protocol):
    """The hub through which nodes are told."""

    def publish_desired(self, node: str, desired: wire.Desired) -> None:
        """Tell a node, retained, what it is to serve."""
        ...


def look(core: Core, now: float) -> list[Node]:
    """The fleet as it is: in the hub's thread, so it takes no more than the frozen values."""
    return list(core.fleet.values())


class Carrier:
    """Of the rollouts in the directory `root`; nodes find the files at `source`. Raises RolloutError.

    `heard` is for the service (`desired_heard`), and `start` for when there is a hub.
    """

    def __init__(self, root: Path, source: str, *, settle_s: float = SETTLE_S) -> None:
        self._orders = Orders(root)
        self._sources = (source,)
        self._settle_s = settle_s
        self._lock: IO[bytes] | None = None
        self._ready_s: float | None = None
        self._rollouts: dict[str, Rollout] = {}
        self._damaged: dict[str, str] = {}  # those that are left out, and why
        self._epochs: dict[str, int] = {}  # the highest that each node was told in these rollouts
        self._heard: dict[str, int] = {}  # ... and by whomever
        self._settled: dict[str, View] = {}
        self._views: tuple[View, ...] = ()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def heard(self, node: str, payload: bytes) -> None:
        """What a node was told, by whomever; in the hub's thread."""
        with contextlib.suppress(WireError):
            if payload:
                self._heard[node] = max(self._heard.get(node, 0), wire.decode_desired(payload).epoch)

    def views(self) -> tuple[View, ...]:
        """The latest rollouts in figures, the last one first; from any thread."""
        return self._views

    def start(self, hub: Hub) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, args=(hub,), name="rollouts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and let another hub go on."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(ANSWERS_WITHIN_S)
        if self._lock is not None:
            self._lock.close()

    def _run(self, hub: Hub) -> None:
        fault = ""
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                self.look(hub, time.monotonic())
                fault = ""
            except RolloutError as error:  # of the directory: said once, until it is another
                if str(error) != fault:
                    fault = str(error)
                    log.error("rollouts stand still: %s", fault)
            except TimeoutError:
                log.warning("the hub's loop has not answered within %.0f s", ANSWERS_WITHIN_S)
            except Exception:  # one bad second must not end all rollouts, nor in silence
                log.exception("rollouts could not be looked at")

    # --- once a second ----------------------------------------------------------------------------------

    def look(self, hub: Hub, now: float) -> None:
        """Do what there is to do now."""
        if self._lock is None:
            self._lock = self._orders.only_one()
            if self._lock is None:
                return self._watch()
            self._rollouts.clear()  # another hub may have gone on with them
            self._settled.clear()
            log.info("this hub carries out the rollouts in %s", self._orders.root)
        if not hub.ready:
            self._ready_s = None
            return None
        self._ready_s = self._ready_s or now
        if now - self._ready_s < self._settle_s:
            return None
        self._read()
        nodes = {node.name: node for node in hub.call(look).result(ANSWERS_WITHIN_S)}
        newest = {rollout.order.replaces: rollout for rollout in self._in_order()}
        views: list[View] = []
        for rollout in self._in_order():
            rollout.closed = newest[rollout.order.replaces] is not rollout
            views.append(self._go_on(rollout, nodes, hub, now))
        self._show(views, self._damaged)
        return None

    def _go_on(self, rollout: Rollout, nodes: Mapping[str, Node], hub: Hub, now: float) -> View:
        """Carry one of them on, unless nothing more comes of it; what is shown of it."""
        order = rollout.order
        if rollout.is_settled and order.name in self._settled:
            return self._settled[order.name]
        seen = self._seen(rollout, nodes)
        self._carry_out(rollout, seen, hub, now)
        view = summary(order, rollout.progress, rows_of(order, rollout.progress, seen))
        if rollout.is_settled:
            self._settled[order.name] = view
        return view

    def _in_order(self) -> list[Rollout]:
        return sorted(self._rollouts.values(), key=lambda rollout: (rollout.order.at_s, rollout.order.name))

    def _read(self) -> None:
        """Take up what is new, and what somebody wants stopped."""
        names = self._orders.names()
        self._damaged = {name: why for name, why in self._damaged.items() if name in names}
        for name in names:
            try:
                if name not in self._rollouts:
                    order, progress = self._orders.order(name), self._orders.progress(name)
                    self._damaged.pop(name, None)
                    self._rollouts[name] = Rollout(order, progress, self._sources)
                    for node, one in progress.nodes.items():
                        self._told(node, max(one.epoch, one.undo_epoch))
                    log.info("rollout %s: %s version %d, %s", name, order.bundle, order.version, progress.status)
                rollout = self._rollouts.get(name)
                if rollout is not None and rollout.is_open and (why := self._orders.stop_of(name)) is not None:
                    rollout.cancel(why)
            except RolloutError as error:
                if self._damaged.get(name) != str(error):  # said once; it may be mended while the hub runs
                    log.error("rollout %s is left out: %s", name, error)
                self._damaged[name] = str(error)

    def _seen(self, rollout: Rollout, nodes: Mapping[str, Node]) -> dict[str, Seen]:
        busy = set().union(*(other.held for other in self._rollouts.values() if other is not rollout))
        return {
            name: self._seen_of(name, nodes.get(name), busy=name in busy)
            for name in nodes.keys() | rollout.progress.nodes.keys()
        }

    def _seen_of(self, name: str, node: Node | None, *, busy: bool) -> Seen:
        known = 0 if node is None or node.deployment is None else node.deployment.epoch
        told = (self._epochs.get(name, 0), self._heard.get(name, 0))
        epoch = max([known, *(each for each in told if each <= known + wire.MOST_SKIPPED_EPOCHS)])  # as the node does
        if node is None:
            return Seen(is_there=False, epoch=epoch, busy=busy)
        return Seen(
            is_there=node.standing not in _ABSENT,
            deploys=node.deploys,
            busy=busy,
            profile=node.profile,
            bundles=node.bundles,
            deployment=node.deployment,
            epoch=epoch,
        )

    def _carry_out(self, rollout: Rollout, seen: Mapping[str, Seen], hub: Hub, now: float) -> None:
        name = rollout.order.name
        for effect in rollout.step(seen, now):
            if isinstance(effect, Persist):
                try:
                    self._orders.write_progress(name, effect.progress)
                except RolloutError as error:  # nobody may be told: go on from what is there, as after a restart
                    log.error("rollout %s stands still: %s", name, error)
                    del self._rollouts[name]
                    return
            elif isinstance(effect, Note):
                log.info("%s", effect.text)
            else:
                self._told(effect.node, effect.desired.epoch)
                hub.publish_desired(effect.node, effect.desired)

    def _told(self, node: str, epoch: int) -> None:
        self._epochs[node] = max(self._epochs.get(node, 0), epoch)

    # --- what is shown ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Another hub carries out: show what it has written."""
        views = [summary(order, progress, rows_of(order, progress, None)) for order, progress in self._orders.all()]
        self._show(views, self._orders.damaged())

    def _show(self, views: list[View], damaged: Mapping[str, str]) -> None:
        views += [left_out(name, why) for name, why in damaged.items()]
        self._views = tuple(reversed(views[-MOST_SHOWN:]))


def source_of(url: str | None, address: str, *, tls: bool) -> str:
    """Where nodes find the files, without a slash at its end. Raises RolloutError.

    >>> source_of(None, "127.0.0.1:9810", tls=False), source_of("https://hub.lan:9810/", "0.0.0.0:9810", tls=True)
    ('http://127.0.0.1:9810', 'https://hub.lan:9810')
    """
    found = (url or f"{'https' if tls else 'http'}://{address}").rstrip("/")
    host = urlsplit(found).hostname if found.isascii() and found.isprintable() and " " not in found else None
    if not host or not found.startswith(("http://", "https://")) or len(found) > _MOST_SOURCE_CHARS:
        raise RolloutError(f"{url!r} is no address of bundles: give one that begins with https://")
    if found.startswith("http://") and not Address(host, 0).on_loopback:
        raise RolloutError(f"{url!r} is plain HTTP to other machines: give one that begins with https://")
    return found
