"""Is every answer of every node accounted for, by a row or at least by a note?

Nodes number their answers. Who has not heard a number asks the node to tell it again, and a report can say what is
missing all the same. What a node answered after its question had ended gets a note; what it answered to a hub that is
gone, or was away, gets a row that is pieced together from the node's own words. Knows nothing of where rows are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from hub import events, wire
from hub.fleet import Node
from hub.questions import pieced_together
from hub.recent import Recent

MOST_NODES: Final = 10_000
MOST_MISSING: Final = 1024  # of one node; a node remembers no more
MOST_TIMES: Final = 3  # that one node is asked in a row
ASK_AGAIN_S: Final = 1.0  # a node tells a few at a time


class Heard(msgspec.Struct, frozen=True):
    """What is known of a node's answers: the life of its process, the highest number, and those below not heard."""

    life: int
    last: int
    missing: frozenset[int] = frozenset()
    asked: int = 0  # times, since the last one that was missing came
    ask_at_s: float = 0.0


class Accounts:
    """Kept by `hub`; `heard` is what its records tell of the time before."""

    def __init__(self, hub: str, heard: Mapping[str, Heard]) -> None:
        self._hub = hub
        self._heard: Recent[str, Heard] = Recent(MOST_NODES)
        for name, known in heard.items():
            self._heard.put(name, known)

    def done(
        self, node: Node, done: wire.Done, *, ours: bool, known: bool, effects: Sequence[events.Effect]
    ) -> list[events.Effect]:
        """What is to be kept of a node's answer, beside the `effects` that it had.

        `ours` says that no other hub keeps its records, `known` that its question was in flight here or has ended here.
        """
        if done.outcome != "answered" or done.number is None:
            return []
        before = self._heard.get(node.name)
        self._heard.put(node.name, _with(before, done.life, done.number) if before else Heard(done.life, done.number))
        if not ours or any(isinstance(effect, events.StoreRecord) for effect in effects):
            return []
        if done.again and (before is None or before.life != done.life or done.number not in before.missing):
            return []
        if known:
            return [events.StoreNote(events.LateAnswer(node=node.name, life=done.life, number=done.number))]
        return [events.StoreRecord(pieced_together(done, node, self._hub))]

    def ponged(self, node: Node, pong: wire.Pong, now: float) -> list[events.Effect]:
        """A node says which answer was its last. What was not heard is asked for, and noted."""
        if pong.answers is None:
            return []
        before, effects = self._heard.get(node.name), list[events.Effect]()
        known = _up_to(before, pong.life, pong.answers) if before else Heard(pong.life, pong.answers)
        if before is None or (known.life, known.last) != (before.life, before.last):
            told = events.AnswersTold(node=node.name, life=pong.life, number=pong.answers)
            effects.append(events.StoreNote(told))
        if known.missing and known.asked < MOST_TIMES and now >= known.ask_at_s:
            retell = wire.Retell(hub=self._hub, first=min(known.missing))
            effects.append(events.PublishControl(node=node.name, control=retell))
            known = msgspec.structs.replace(known, asked=known.asked + 1, ask_at_s=now + ASK_AGAIN_S)
        self._heard.put(node.name, known)
        return effects


def _up_to(heard: Heard, life: int, last: int) -> Heard:
    """A node has answered up to `last`; in a new life it has begun with 1 again."""
    if life != heard.life:
        heard = Heard(life, 0)
    if last <= heard.last:
        return heard
    new = range(max(heard.last + 1, last - MOST_MISSING + 1), last + 1)
    missing = frozenset(number for number in heard.missing if number > last - MOST_MISSING) | frozenset(new)
    return Heard(life, last, missing, 0, heard.ask_at_s)


def _with(heard: Heard, life: int, number: int) -> Heard:
    """This number was heard."""
    if life == heard.life and number == heard.last + 1:  # as nearly always
        return msgspec.structs.replace(heard, last=number)
    after = _up_to(heard, life, number)
    if number not in after.missing:
        return after
    return msgspec.structs.replace(after, missing=after.missing - {number}, asked=0)
