"""Which nodes are there, and which can be counted on? Keeps the fleet true to states, pongs and silence.

Answers each happening with News: what the core must do about questions because of it. Knows nothing of questions
beyond the keys that nodes are loaded with.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

import msgspec

from hub import events, wire
from hub.columns import Fleet
from hub.fleet import Key, Node, Standing, announced, answered, doubted, given_up, judge, ponged, told
from hub.heartbeat import Heartbeat, ping_every_s
from hub.timers import Timers

STALL_S: Final = 0.25  # an alarm this late says that the hub was held up
MISSING_AFTER_S: Final = 1.0  # a node that says it is idle lacks what was sent this long before the ping
MAX_WORD_CHARS: Final = 256


class WatchLimits(Protocol):
    """The bounds that matter here."""

    @property
    def nodes(self) -> int: ...
    @property
    def bundles_per_node(self) -> int: ...


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What a happening means for questions.

    `stranded` questions have lost their node, `missing` ones did not arrive at a node that lives, and `usable`
    says that a node can take work that could not before. Keys are what a node is loaded with: the core knows
    whether they have gone elsewhere meanwhile.
    """

    pings: tuple[events.PublishControl, ...] = ()
    stranded: tuple[Key, ...] = ()
    missing: tuple[Key, ...] = ()
    usable: bool = False


NOTHING: Final = News()


class Watch:
    """Looks after `fleet` and sets the alarms `ping` and `lost` of each node."""

    def __init__(
        self, hub: str, fleet: Fleet, timers: Timers, counters: Counter[str], *, lost_s: float, limits: WatchLimits
    ) -> None:
        self._hub = hub
        self._fleet = fleet
        self._timers = timers
        self._counters = counters
        self._lost_s = lost_s
        self._limits = limits
        self._beats: dict[str, Heartbeat] = {}
        self._link_open = False

    # --- what nodes say ---------------------------------------------------------------------------------

    def state_published(self, name: str, payload: bytes, now: float, *, live: bool) -> News:
        """A node's retained state. An empty one clears it: that forgets a node that is offline. Raises WireError."""
        before = self._fleet.get(name)
        if not payload:
            if before is None or before.standing != Standing.GONE:
                self._counters["bad_node_state"] += 1
            else:
                self._forget(name)
            return NOTHING
        state = wire.decode_node_state(payload)
        verdict = judge(before, state)
        if verdict == "stale":
            self._counters["stale_node_state"] += 1
            return NOTHING
        if not self._acceptable(state) or (before is None and not self._make_room()):
            self._counters["refused_node_state"] += 1
            return NOTHING
        after = announced(before, name, state, now, live=live)
        stranded = keys_of(before) if before is not None and verdict in ("offline", "restarted") else ()
        self._fleet.put(after)
        if verdict == "offline":
            self._went_offline(after, now)
            return News(stranded=stranded)
        self._timers.cancel(("lost", name))
        if verdict == "same":
            return News(usable=_became_usable(before, after))
        beat = self._beats.setdefault(name, Heartbeat())
        beat.restart()
        return News(pings=self._ping(name, beat, now), stranded=stranded, usable=after.standing == Standing.READY)

    def ponged(self, name: str, pong: wire.Pong, now: float) -> News:
        """A pong; one for another hub still tells the node's backlog."""
        node, beat = self._fleet.get(name), self._beats.get(name)
        if node is None or node.standing == Standing.GONE:
            self._counters["stray_pong"] += 1
            return NOTHING
        if pong.hub != self._hub:
            self._fleet.put(told(node, pong.backlog, now))
            return NOTHING
        measured = beat.pong(pong.seq, pong.hold_ms, now) if beat is not None else None
        if measured is None:
            self._counters["stray_pong"] += 1
            return NOTHING
        sent_s, round_trip_ms = measured
        after = ponged(node, pong.backlog, round_trip_ms, now)
        self._fleet.put(after)
        self._timers.cancel(("lost", name))
        missing: tuple[Key, ...] = ()
        if pong.backlog.questions == 0:
            missing = tuple(load.key for load in node.load if load.sent_s < sent_s - MISSING_AFTER_S)
        return News(missing=missing, usable=_became_usable(node, after))

    def told_by_done(self, name: str, done: wire.Done, now: float) -> bool:
        """A Done tells the node's backlog, whosever question it was. False where the node is not known."""
        node = self._fleet.get(name)
        if node is None:
            self._counters["stray_done"] += 1
            return False
        if done.outcome == "answered":
            node = answered(node, done.timing_ms.compute, now)
        after = told(node, done.backlog, now, ended=(done.device, done.id))
        self._fleet.put(msgspec.structs.replace(after, ended_s=now))
        return True

    # --- silence ----------------------------------------------------------------------------------------

    def ping_due(self, name: str, now: float) -> News:
        """The next ping of a node; three without an answer make it suspect."""
        node = self._fleet.get(name)
        beat = self._beats[name]
        if node is None:
            return NOTHING
        stranded: tuple[Key, ...] = ()
        if beat.silent and node.standing in (Standing.READY, Standing.DRAINING):
            self._counters["suspected"] += node.standing == Standing.READY
            self._fleet.put(doubted(node))
            stranded = keys_of(node)
        return News(pings=self._ping(name, beat, now), stranded=stranded)

    def stayed_away(self, name: str) -> tuple[Key, ...]:
        """A lost node did not come back in time; the questions it still had."""
        node = self._fleet.get(name)
        if node is None or node.standing != Standing.LOST:
            return ()
        self._timers.cancel(("ping", name))
        self._fleet.put(given_up(node))
        return keys_of(node)

    def notice_stall(self, now: float) -> bool:
        """An alarm that is long overdue shows that this process was held up: pongs under way measure nothing."""
        due_s = self._timers.next_s()
        if due_s is not None and now - due_s > STALL_S:
            self._counters["stalls"] += 1
            for beat in self._beats.values():
                beat.distrust()
            return True
        return False

    # --- the link ---------------------------------------------------------------------------------------

    def link_opened(self, now: float) -> list[events.PublishControl]:
        """Every node that may be there is pinged at once."""
        self._link_open = True
        pings: list[events.PublishControl] = []
        for name, beat in self._beats.items():
            beat.restart()
            node = self._fleet.get(name)
            if node is not None and node.standing != Standing.GONE:
                pings += self._ping(name, beat, now)
        return pings

    def link_closed(self) -> None:
        """Without a link, silence says nothing."""
        self._link_open = False
        for name in self._beats:
            self._timers.cancel(("ping", name))

    # --- inside -----------------------------------------------------------------------------------------

    def _ping(self, name: str, beat: Heartbeat, now: float) -> tuple[events.PublishControl, ...]:
        if not self._link_open:
            return ()
        self._timers.set(("ping", name), now + ping_every_s(len(self._beats)))
        ping = wire.Ping(hub=self._hub, seq=beat.ping(now))
        return (events.PublishControl(node=name, control=ping),)

    def _went_offline(self, node: Node, now: float) -> None:
        """A lost node is pinged on: its will may have come late, and a pong shows that it lives."""
        beat = self._beats.setdefault(node.name, Heartbeat())
        beat.restart()
        if node.standing == Standing.LOST:
            self._timers.set(("lost", node.name), now + self._lost_s)
        else:
            self._timers.cancel(("ping", node.name))

    def _acceptable(self, state: wire.NodeState) -> bool:
        words = [word for bundle in state.bundles for word in (bundle.bundle, bundle.model, bundle.task)]
        names = {bundle.bundle for bundle in state.bundles}
        return (
            len(names) == len(state.bundles) <= self._limits.bundles_per_node
            and max(map(len, words), default=0) <= MAX_WORD_CHARS
        )

    def _make_room(self) -> bool:
        """Whether one more node can be kept, forgetting one that is gone if need be."""
        if len(self._fleet) < self._limits.nodes:
            return True
        gone = next((node.name for node in self._fleet.values() if node.standing == Standing.GONE), None)
        if gone is None:
            return False
        self._forget(gone)
        return True

    def _forget(self, name: str) -> None:
        self._fleet.forget(name)
        self._beats.pop(name, None)
        self._timers.cancel(("ping", name))
        self._timers.cancel(("lost", name))


def keys_of(node: Node) -> tuple[Key, ...]:
    """The questions that a node is loaded with."""
    return tuple(load.key for load in node.load)


def _became_usable(before: Node | None, after: Node) -> bool:
    if after.standing != Standing.READY or before is None:
        return False
    return before.standing != Standing.READY or before.bundles != after.bundles
