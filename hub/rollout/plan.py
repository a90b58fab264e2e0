"""A rollout as a state machine: what nodes say goes in, what they are told comes out. Pure; `now` is monotonic seconds.

What becomes of a node:

    waiting -> told -> serving            it serves the bundle for good
                    -> failed             it refused the bundle, or went back from it
                    -> stuck -> ...       it has said nothing for `silent_s`, and counts as failed until it speaks
    waiting -> serving                    it had the bundle already, and is told nothing
    told, stuck, serving -> undoing -> undone      the rollout was stopped, and it has gone back

What becomes of the rollout:

    waiting -> active -> done             nobody is left who is there: later ones still get it
                      -> stopped          more than `max_failure` of those that were told have failed
    waiting, active   -> cancelled        somebody has stopped it

- Nobody but the canaries is told anything before each of them serves the bundle, or has failed within `max_failure`;
  a wave begins when those before it have come to that. Who is away holds up nobody, and has its turn when it is back;
  a canary that goes away before it was told anything changes its place with one that is there.
- Of the nodes that serve the model half stay out of it at any time, see `waves.at_once`.
- A node that another rollout is busy with is left alone until it has ended there: there is one Desired for each node.
- Once a rollout is stopped or cancelled nothing but `undo` is said, to each node that was told and did not itself
  go back. Nodes that had the bundle before keep it.
- What fails after a rollout was done is told, and stops nothing: the fleet has proven the bundle.
- Before anything is published it is persisted, so a hub that is started again says the same, with the same epochs.
  Only how long a node has been silent is forgotten; that begins anew.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from hub import wire
from hub.printable import printable
from hub.rollout.order import OPEN, NodeProgress, Order, Progress, Stage, Status, is_target, named_in
from hub.rollout.waves import Seen, at_once, canaries, in_turn, waves

REPEAT_S: Final = 30.0  # after which a node that has not said it heard is told the same once more

_ENDS: Final[dict[wire.Phase, Stage]] = {"serving": "serving", "refused": "failed", "undone": "failed"}
_GONE_BACK: Final = ("undone", "refused", "serving")  # with the epoch of an undo: what was there before, or nothing
_UNDER_WAY: Final = ("told", "stuck")


class PublishDesired(msgspec.Struct, frozen=True):
    """Tell a node, retained."""

    node: str
    desired: wire.Desired


class Note(msgspec.Struct, frozen=True):
    """One line for the log."""

    text: str


class Persist(msgspec.Struct, frozen=True):
    """Have this on the disk before anything else is done."""

    progress: Progress


Effect = PublishDesired | Note | Persist
_NOBODY: Final = Seen(is_there=False)


class Rollout:
    """One rollout, from its order and what was persisted of it; `sources` are where its files can be had."""

    def __init__(self, order: Order, progress: Progress = Progress(), sources: tuple[str, ...] = ()) -> None:  # noqa: B008 (frozen)
        self.order = order
        self.closed = False  # to those that were not there
        self._sources = sources
        self._progress = progress
        self._status: Status = progress.status
        self._why = progress.why
        self._nodes = dict(progress.nodes)
        self._said: dict[str, tuple[wire.Deployment | None, float]] = {}  # what each said last, and since when
        self._published_s: dict[str, float] = {}
        self._notes: list[Note] = []

    @property
    def progress(self) -> Progress:
        """How far it had come after the last step."""
        return self._progress

    @property
    def is_open(self) -> bool:
        """Whether it is under way, or about to be."""
        return self._status in OPEN

    @property
    def is_settled(self) -> bool:
        """Whether nothing more comes of it, whatever nodes say."""
        return not self.is_open and (self._status != "done" or self.closed) and not self.under_way

    @property
    def under_way(self) -> set[str]:
        """The nodes that are to do something."""
        return {name for name, one in self._nodes.items() if one.stage in ("told", "undoing")}

    @property
    def held(self) -> set[str]:
        """Those among them that no other rollout may tell anything: a later one takes over who came late to this."""
        return set() if self._status == "done" and self.closed else self.under_way

    def cancel(self, why: str) -> None:
        """Somebody has stopped it; has no effect where it has ended."""
        if self.is_open:
            self._end("cancelled", why)

    def step(self, seen: Mapping[str, Seen], now: float) -> list[Effect]:
        """What is to be done now, with the nodes as they are."""
        self._begin_or_join(seen)
        for name, one in list(self._nodes.items()):
            self._nodes[name] = self._heard(name, one, seen.get(name, _NOBODY), now)
        told: list[PublishDesired] = []
        if self._status == "active":
            self._stop_beyond_limit()
        if self._status == "active" or (self._status == "done" and not self.closed):
            told += self._tell_next(seen, now)
        elif self._status in ("stopped", "cancelled"):
            told += self._undo(seen)
        if self._status == "active":
            self._finish(seen)
        self._published_s.update((each.node, now) for each in told)
        told += self._repeat(seen, now)
        notes, self._notes = self._notes, []
        after = Progress(status=self._status, why=self._why, nodes=dict(self._nodes))
        persist = [Persist(after)] if after != self._progress else []
        self._progress = after
        return [*persist, *notes, *told]

    # --- who gets it ------------------------------------------------------------------------------------

    def _begin_or_join(self, seen: Mapping[str, Seen]) -> None:
        """Choose the waves when the first target is there; who comes later is of the last one."""
        if self._status == "waiting":
            targets = self._targets(seen)
            ready = sum(node.is_ready for node in targets.values())
            if ready:
                ordered = in_turn(targets, self.order.name)
                first = canaries(self.order.canary, len(ordered), ready)
                for name, wave in zip(ordered, waves(first, len(ordered)), strict=True):
                    self._nodes[name] = NodeProgress(wave=wave)
                self._status = "active"
                self._note(f"{len(ordered)} nodes, {first} of them first: {', '.join(ordered[:first][:8])}")
        elif self._status == "active" or (self._status == "done" and not self.closed):
            last = max(1, *(one.wave for one in self._nodes.values()))
            for name in self._targets(seen).keys() - self._nodes.keys():
                self._nodes[name] = NodeProgress(wave=last)

    def _targets(self, seen: Mapping[str, Seen]) -> dict[str, Seen]:
        to = self.order.to
        found = {name: node for name, node in seen.items() if is_target(name, node.profile, to)}
        return {**{name: seen.get(name, _NOBODY) for name in named_in(to)}, **found}

    # --- what they say ----------------------------------------------------------------------------------

    def _heard(self, name: str, one: NodeProgress, node: Seen, now: float) -> NodeProgress:
        said = node.deployment
        if said is not None and (said.rollout != self.order.name or said.epoch != (one.undo_epoch or one.epoch)):
            said = None
        before = self._said.get(name)
        if before is None or before[0] != said:
            self._said[name] = (said, now)
        if one.stage == "waiting":
            return replace(one, stage="serving") if self._has_it(node) else one
        if one.stage == "told" and said is not None and said.quiet and node.is_there:
            self._said[name] = (said, now)  # quiet hours end when they end
        if said is None or one.undo_epoch:
            one = self._gone_back(name, one, said)
        else:
            one = self._come_on(name, one, said) if one.stage != "stuck" or self._said[name][1] == now else one
        if one.stage == "told" and now - self._said[name][1] > self.order.silent_s + self.order.trial.seconds:
            self._note(f"{name} has said nothing for {now - self._said[name][1]:.0f} s, and counts as failed")
            return replace(one, stage="stuck", why=f"said nothing more{f' since {one.phase}' if one.phase else ''}")
        return one

    def _has_it(self, node: Seen) -> bool:
        order = self.order
        return self._status in ("active", "done") and node.is_ready and node.has(order.bundle, order.version)

    def _come_on(self, name: str, one: NodeProgress, said: wire.Deployment) -> NodeProgress:
        """As it says; figures that change all the time are kept where the phase has changed, too."""
        stage: Stage = _ENDS.get(said.phase, "told")
        why = printable(said.why)
        if stage == one.stage and said.phase == one.phase and why == one.why:
            return one
        if stage == "failed" and one.stage != "failed":
            self._note(f"{name} {_what(said.phase)}: {why or 'it does not say why'}")
        elif stage == "serving" and one.stage != "serving":
            self._note(f"{name} serves it")
        return replace(one, stage=stage, phase=said.phase, why=why, fetched_bytes=said.fetched_bytes)

    def _gone_back(self, name: str, one: NodeProgress, said: wire.Deployment | None) -> NodeProgress:
        if one.stage != "undoing" or said is None or said.epoch != one.undo_epoch or said.phase not in _GONE_BACK:
            return one
        self._note(f"{name} has gone back")
        return replace(one, stage="undone", phase=said.phase, why=printable(said.why) or one.why)

    # --- what they are told -----------------------------------------------------------------------------

    def _stop_beyond_limit(self) -> None:
        told = sum(one.epoch > 0 for one in self._nodes.values())
        failed = [name for name, one in self._nodes.items() if one.stage in ("failed", "stuck")]
        if len(failed) > self.order.max_failure * told:
            why = f"{len(failed)} of {told} nodes failed, at most {100 * self.order.max_failure:g}% may: "
            self._end("stopped", why + "; ".join(f"{name}: {self._nodes[name].why or '?'}" for name in failed[:3]))

    def _end(self, status: Status, why: str) -> None:
        self._status, self._why = status, why
        self._note(f"{status}: {why}")

    def _tell_next(self, seen: Mapping[str, Seen], now: float) -> list[PublishDesired]:
        self._swap_absent_canaries(seen)
        wave = self._open_wave(seen)
        model = self.order.replaces
        under_way = [seen[name] for name, one in self._nodes.items() if one.stage in _UNDER_WAY and name in seen]
        room = at_once(seen.values(), model) - sum(node.is_there and node.serves(model) for node in under_way)
        told: list[PublishDesired] = []
        for name, one in self._nodes.items():
            node = seen.get(name, _NOBODY)
            if one.stage != "waiting" or one.wave > wave or not node.is_ready:
                continue
            if node.serves(model):
                if room <= 0:
                    continue
                room -= 1
            epoch = _after(node.epoch)
            self._nodes[name] = replace(one, stage="told", epoch=epoch)
            self._said[name] = (None, now)
            told.append(PublishDesired(name, self.order.desired(epoch, self._sources)))
        return told

    def _swap_absent_canaries(self, seen: Mapping[str, Seen]) -> None:
        waiting = [name for name, one in self._nodes.items() if one.stage == "waiting"]
        ready = [name for name in waiting if self._nodes[name].wave > 0 and seen.get(name, _NOBODY).is_ready]
        absent = [name for name in waiting if self._nodes[name].wave == 0 and not seen.get(name, _NOBODY).is_ready]
        for away, there in zip(absent, ready, strict=False):
            self._nodes[away], self._nodes[there] = (
                replace(self._nodes[away], wave=self._nodes[there].wave),
                replace(self._nodes[there], wave=0),
            )

    def _open_wave(self, seen: Mapping[str, Seen]) -> int:
        """The first wave in which somebody is to be told, or is under way."""
        return min(
            (
                one.wave
                for name, one in self._nodes.items()
                if one.stage == "told" or (one.stage == "waiting" and seen.get(name, _NOBODY).is_ready)
            ),
            default=0,
        )

    def _finish(self, seen: Mapping[str, Seen]) -> None:
        stages = Counter(one.stage for one in self._nodes.values())
        ready = any(one.stage == "waiting" and seen.get(name, _NOBODY).is_ready for name, one in self._nodes.items())
        if stages["told"] or ready or not stages["serving"] + stages["failed"] + stages["stuck"]:
            return
        waiting = f", {stages['waiting']} are waited for" if stages["waiting"] else ""
        self._end("done", f"{stages['serving']} of {len(self._nodes)} nodes serve it{waiting}")

    def _undo(self, seen: Mapping[str, Seen]) -> list[PublishDesired]:
        told: list[PublishDesired] = []
        for name, one in self._nodes.items():
            node = seen.get(name, _NOBODY)
            if one.epoch == 0 or one.stage not in ("told", "stuck", "serving") or node.busy:
                continue
            epoch = _after(max(node.epoch, one.epoch))
            self._nodes[name] = replace(one, stage="undoing", undo_epoch=epoch)
            told.append(PublishDesired(name, self.order.desired(epoch, self._sources, undo=True)))
        return told

    def _repeat(self, seen: Mapping[str, Seen], now: float) -> list[PublishDesired]:
        """Tell again who has not said that it heard: all of them once after this hub was started, then who is there."""
        told: list[PublishDesired] = []
        for name, one in self._nodes.items():
            node, epoch = seen.get(name, _NOBODY), max(one.epoch, one.undo_epoch)
            wanted = one.stage == "undoing" or (one.stage == "told" and self._status in ("active", "done"))
            heard = node.epoch > epoch or (node.deployment is not None and node.deployment.epoch >= epoch)
            if not wanted or heard:
                continue
            at_s = self._published_s.get(name, -math.inf)
            if now - at_s >= REPEAT_S and (node.is_there or at_s == -math.inf):
                self._published_s[name] = now
                desired = self.order.desired(epoch, self._sources, undo=one.stage == "undoing")
                told.append(PublishDesired(name, desired))
        return told

    def _note(self, text: str) -> None:
        self._notes.append(Note(f"rollout {self.order.name}: {text}"))


def _after(epoch: int) -> int:
    """The next epoch. A node may say that it has heard the last one there is: it is then told that one, which it takes
    for an old message, so it fails, and nobody else with it.
    """
    return min(epoch + 1, wire.MAX_COUNT)


def _what(phase: wire.Phase) -> str:
    return "refused it" if phase == "refused" else "went back"
