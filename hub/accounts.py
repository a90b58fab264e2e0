"""Is every answer of every node accounted for, by a row or at least by a note?

Nodes number their answers, so that a report can say how many rows are missing. What a node answered after its question
had ended gets a note. What it answered to a hub that is gone gets a row, pieced together from the node's own words.
Knows nothing of where rows and notes are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hub import events, wire
from hub.fleet import Node
from hub.questions import pieced_together
from hub.recent import Recent

MOST_NODES: Final = 10_000


class Accounts:
    """Kept by `hub`."""

    def __init__(self, hub: str) -> None:
        self._hub = hub
        self._last: Recent[str, tuple[int, int]] = Recent(
            MOST_NODES
        )  # of each node: epoch, and the highest number heard

    def done(
        self, node: Node, done: wire.Done, *, ours: bool, known: bool, effects: Sequence[events.Effect]
    ) -> list[events.Effect]:
        """What is to be kept of a node's answer, beside the `effects` that it had.

        `ours` says that no other hub keeps its records, `known` that its question was in flight here or has ended here.
        """
        if done.outcome != "answered" or done.number is None:
            return []
        epoch, last = self._last.get(node.name) or (node.epoch, 0)
        self._last.put(node.name, (node.epoch, max(done.number, last if epoch == node.epoch else 0)))
        if not ours or any(isinstance(effect, events.StoreRecord) for effect in effects):
            return []
        if known:
            return [events.StoreNote(events.LateAnswer(node=node.name, epoch=node.epoch, number=done.number))]
        return [events.StoreRecord(pieced_together(done, node, self._hub))]

    def ponged(self, node: Node, pong: wire.Pong) -> list[events.Effect]:
        """A node says which answer was its last: a note where that one was not heard, or where it is heard first."""
        if pong.answers is None:
            return []
        known = self._last.get(node.name)
        if known is not None and known[0] == node.epoch and pong.answers <= known[1]:
            return []
        self._last.put(node.name, (node.epoch, pong.answers))
        return [events.StoreNote(events.AnswersTold(node=node.name, epoch=node.epoch, number=pong.answers))]
