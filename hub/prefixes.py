"""What does a node still have of a device's earlier questions? Its conversation, or the beginning of its prompts.

A node keeps the keys and values of what it has read, and the turns of a session (edge_agent/conversation.py). The hub
hears in each Done how many prompt tokens were known. Bounded; knows nothing of how a question is priced for it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from hub import wire
from hub.recent import Recent

MOST_NODES: Final = 8  # that one device's prompts are remembered on


class Kept(msgspec.Struct, frozen=True):
    """Prompt tokens that a node has in its life `epoch`."""

    node: str
    epoch: int
    tokens: int


class Prefixes:
    """By device, and by device and session.

    >>> prefixes = Prefixes(100)
    >>> prefixes.learn("kitchen", None, "a", 1, wire.Tokens(prompt=120, cached=100, completion=9))
    >>> prefixes.of_device("kitchen")
    (Kept(node='a', epoch=1, tokens=100),)
    >>> prefixes.learn("kitchen", "s", "a", 1, wire.Tokens(prompt=120, cached=0, completion=9))
    >>> prefixes.of_session("kitchen", "s")
    Kept(node='a', epoch=1, tokens=129)
    """

    def __init__(self, most: int) -> None:
        self._devices: Recent[str, tuple[Kept, ...]] = Recent(most)
        self._sessions: Recent[tuple[str, str], Kept] = Recent(most)

    def of_device(self, device: str) -> tuple[Kept, ...]:
        """What nodes knew of the device's latest prompt outside of sessions, the latest first."""
        return self._devices.get(device) or ()

    def of_session(self, device: str, session: str) -> Kept | None:
        """Who has the conversation."""
        return self._sessions.get((device, session))

    def learn(self, device: str, session: str | None, node: str, epoch: int, tokens: wire.Tokens) -> None:
        """A node has answered."""
        if session is not None:
            self._sessions.put((device, session), Kept(node, epoch, tokens.prompt + tokens.completion))
            return
        others = tuple(kept for kept in self.of_device(device) if kept.node != node)
        self._devices.put(device, (Kept(node, epoch, tokens.cached), *others[: MOST_NODES - 1]))
