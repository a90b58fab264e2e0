"""Who can have a certificate of a fleet? Names only."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal

import msgspec

from hub.wire import page_device

Role = Literal["device", "node", "hub", "broker"]
_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?\Z")
_MOST_HOST_CHARS: Final = 253
ROLES: Final[tuple[Role, ...]] = ("device", "node", "hub", "broker")


def is_host(text: str) -> bool:
    """Whether `text` is the name of a host, in ASCII, or an address.

    >>> [is_host(text) for text in ("hub.example.org", "10.0.0.7", "::1", "hub:9810", "a b", "")]
    [True, True, True, False, False, False]
    """
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return len(text) <= _MOST_HOST_CHARS and _HOST.match(text) is not None
    return True


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
