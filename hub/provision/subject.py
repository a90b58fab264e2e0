"""Who can have a certificate of a fleet? Names only."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from hub.wire import page_device

Role = Literal["device", "node", "hub", "broker"]
ROLES: Final[tuple[Role, ...]] = ("device", "node", "hub", "broker")


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One identity. `device` is the name under which a node's machine asks.

    >>> Subject("node", "orin-1").identity
    'node-orin-1'
    """

    role: Role
    name: str
    device: str | None = None

    @property
    def identity(self) -> str:
        """The common name of its certificate, which the broker takes for the username."""
        return f"{self.role}-{self.name}"

    @property
    def asks_as(self) -> str | None:
        """The device as which it asks: a node as its machine, a hub for its live page."""
        if self.role == "broker":
            return None
        return page_device(self.name) if self.role == "hub" else self.device or self.name
