"""What passes between a link and its owner? What came, what is left behind, and what the link calls.

Knows nothing of connections, and of paho no more than how a message of it looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it came. `receipt` is to be given to `Link.acknowledge` where the link acknowledges by hand.

    `again` says that the broker has sent it before, and got no acknowledgement: MQTT's flag DUP.
    """

    topic: str
    payload: bytes
    retained: bool
    receipt: int
    response_topic: str | None
    correlation: bytes | None
    expiry_s: int | None
    user_properties: tuple[tuple[str, str], ...]
    again: bool = False


class Will(msgspec.Struct, frozen=True):
    """What the broker publishes, retained, when this connection breaks."""

    topic: str
    payload: bytes


class Handlers(msgspec.Struct, frozen=True, kw_only=True):
    """What a link calls, always in the loop's thread."""

    received: Callable[[Received], None]
    opened: Callable[[], None] = lambda: None
    closed: Callable[[str], None] = lambda why: None
    accepted: Callable[[int], None] = lambda ticket: None
    refused: Callable[[str], None] | None = None  # instead of LinkError, where one can do without the link


def received_from(message: Any, receipt: int) -> Received:
    """A message of paho's as ours. Raises UnicodeDecodeError for a topic that is not UTF-8."""
    properties = message.properties
    return Received(
        topic=message.topic,
        payload=bytes(message.payload),
        retained=message.retain,
        receipt=receipt,
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        expiry_s=getattr(properties, "MessageExpiryInterval", None),
        user_properties=tuple(getattr(properties, "UserProperty", ())),
        again=bool(message.dup),
    )
