"""What the hub has handed to the broker and the broker has not accepted yet, and the asks that wait for that.

Gives publishes their tickets, keeps what must not get lost while there is no link, and acknowledges each receipt
once: when the publish that it waits for is accepted, or when its question has ended otherwise. Knows nothing of
nodes, of time or of why something is published.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from hub import events
from hub.fleet import Key


class Reply(msgspec.Struct, frozen=True):
    """A publish that ends a question, or lets an answer be said again; its acceptance settles the receipts."""

    effect: events.PublishFailure | events.PublishWork
    receipts: list[int]


class Outbox:
    """Effects are appended to `out`, a fresh list for each event."""

    def __init__(self, counters: Counter[str], max_replies: int) -> None:
        self.out: list[events.Effect] = []
        self.is_open = False
        self._counters = counters
        self._max_replies = max_replies
        self._work_by_ticket: dict[int, Key] = {}
        self._ticket_by_work: dict[Key, int] = {}
        self._replies: dict[int, Reply] = {}
        self._unsent: list[Reply] = []
        self._last_ticket = 0

    @property
    def waiting(self) -> int:
        """Publishes that the broker has not accepted, or not been given."""
        return len(self._work_by_ticket) + len(self._replies) + len(self._unsent)

    def publish_work(self, key: Key, effect: events.PublishWork) -> None:
        """Publish the Work of a question in flight, in place of an earlier one. Without a link nothing is kept."""
        self.forget_work(key)
        if self.is_open:
            ticket = self._draw()
            self._work_by_ticket[ticket] = key
            self._ticket_by_work[key] = ticket
            self.out.append(msgspec.structs.replace(effect, ticket=ticket))

    def forget_work(self, key: Key) -> None:
        """The acceptance of this question's Work does not matter any more."""
        ticket = self._ticket_by_work.pop(key, None)
        if ticket is not None:
            del self._work_by_ticket[ticket]

    def reply(self, reply: Reply) -> None:
        """Publish, now or when there is a link."""
        if len(self._replies) + len(self._unsent) >= self._max_replies:
            self._counters["replies_dropped"] += 1  # its asker repeats, or its own timer ends it
            self.acknowledge(reply.receipts)
        elif self.is_open:
            ticket = self._draw()
            self._replies[ticket] = reply
            self.out.append(msgspec.structs.replace(reply.effect, ticket=ticket))
        else:
            self._unsent.append(reply)

    def acknowledge(self, receipts: list[int]) -> None:
        """These asks need no redelivery; empties the list."""
        self.out += [events.AcknowledgeAsk(receipt) for receipt in receipts]
        receipts.clear()

    def accepted(self, ticket: int) -> Key | None:
        """The broker has this publish; the question whose Work it was, if it was that."""
        reply = self._replies.pop(ticket, None)
        if reply is not None:
            self.acknowledge(reply.receipts)
        key = self._work_by_ticket.pop(ticket, None)
        if key is not None:
            del self._ticket_by_work[key]
        return key

    def open(self) -> None:
        """There is a link: what was kept goes out."""
        self.is_open = True
        unsent, self._unsent = self._unsent, []
        for reply in unsent:
            self.reply(reply)

    def close(self) -> None:
        """The link is gone: what was not accepted may be lost. Work is forgotten, replies are kept."""
        self.is_open = False
        self._work_by_ticket.clear()
        self._ticket_by_work.clear()
        self._unsent = [*self._replies.values(), *self._unsent]
        self._replies.clear()

    def _draw(self) -> int:
        self._last_ticket += 1
        return self._last_ticket
