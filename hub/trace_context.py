"""Which trace does a message belong to? The W3C's `traceparent` and `tracestate`, as MQTT user properties carry them.

Whatever breaks the syntax (https://www.w3.org/TR/trace-context) is no trace, so that nobody can send more through a
hub than an id. Pure; knows nothing of who makes traces, or what of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

MOST_STATE_CHARS: Final = 512
_MOST_MEMBERS: Final = 32
_PARENT: Final = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]{0,450})?", re.ASCII
)
_MEMBER: Final = re.compile(
    r"([a-z0-9][a-z0-9_\-*/]{0,240}(?:@[a-z0-9][a-z0-9_\-*/]{0,13})?)=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class TraceContext(msgspec.Struct, frozen=True):
    """Where in which trace a message stands."""

    traceparent: str
    tracestate: str = ""

    def properties(self) -> list[tuple[str, str]]:
        """As MQTT user properties."""
        parent = [("traceparent", self.traceparent)]
        return [*parent, ("tracestate", self.tracestate)] if self.tracestate else parent


def trace_in(properties: Iterable[tuple[str, str]]) -> TraceContext | None:
    """The trace that user properties name; None where they name none, two, or one that is not well formed.

    >>> trace_in([("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]).traceparent[3:11]
    '4bf92f35'
    """
    parents = [value for name, value in properties if name == "traceparent"]
    if len(parents) != 1:
        return None
    parent = _parent(parents[0])
    return (
        None if parent is None else TraceContext(parent, _state([v for name, v in properties if name == "tracestate"]))
    )


def _parent(text: str) -> str | None:
    """In the form of version 00, of which later versions are longer; its only flag that is known is `sampled`."""
    match = _PARENT.fullmatch(text)
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(span, 16):
        return None
    return f"00-{trace}-{span}-{int(flags, 16) & 1:02x}"


def _state(texts: list[str]) -> str:
    """What vendors add; nothing where any of it is not well formed."""
    if not texts or sum(map(len, texts)) > MOST_STATE_CHARS:
        return ""
    members = [member.strip(" \t") for text in texts for member in text.split(",")]
    members = [member for member in members if member]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {match.group(1) for match in found if match is not None}
    return ",".join(members) if len(keys) == len(members) <= _MOST_MEMBERS else ""
