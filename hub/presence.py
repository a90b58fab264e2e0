"""How a node or hub shows that it is there: one retained state, a will, and an epoch that only goes up.

Knows the state topic and nothing of what the state says. Two things can go wrong on a broker, and both are mended
here: a will can overtake the next birth (the retained state then says `offline` of somebody who is there), and two
processes can be started under one name. MQTT 5 lets a broker tell the loser of a takeover (reason 0x8E), but
Mosquitto 2.0.11 and rumqttd just close the connection. So whoever loses its connection looks first, as a
nameless client, and leaves when it finds a living state of a later epoch under its own name. Epochs begin at the
wall clock's milliseconds, so the process that started last stays; they are only ever compared with other epochs of
the same name.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Final

import msgspec

from hub import wire
from hub.broker_url import BrokerUrl
from hub.errors import LinkError, WireError
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link

LOOK_S: Final = 0.25  # how long to look: a namesake's will can come before its birth


class _Seen(msgspec.Struct):
    """What any retained state has."""

    epoch: wire.Count
    status: str


class Presence:
    """The retained state of one name; `publish(epoch)` is to publish it."""

    def __init__(self, loop: Loop, url: BrokerUrl, topic: wire.Topic, publish: Callable[[int], None]) -> None:
        self.topic = str(topic)
        self.name = topic.name
        self.epoch = time.time_ns() // 1_000_000
        self._loop = loop
        self._url = url
        self._publish = publish
        self._shown = False
        self._looking: Link | None = None

    def next_epoch(self) -> int:
        """For the will of the connection that is about to be made."""
        self.epoch += 1
        return self.epoch

    def opened(self) -> None:
        """The connection stands: show the state."""
        self._shown = True
        self._publish(self.epoch)

    def closed(self, link: Link) -> None:
        """The connection broke: hold `link` back until a look has shown that the name is still ours."""
        self._shown = False
        if self._looking is not None:
            return
        link.paused = True
        look = self._looking = Link(
            self._url,
            f"look-{self.name}-{uuid.uuid4().hex[:12]}",
            Handlers(
                received=self._looked,
                opened=lambda: self._loop.call_at(time.monotonic() + LOOK_S, lambda: self._resume(link, look)),
            ),
            subscriptions=[(self.topic, 1)],
            look_first=True,
        )
        self._loop.add(look)

    def received(self, payload: bytes) -> None:
        """A state was published under our name: if it is not what we say, say it again with a higher epoch.

        So it is where the state was cleared, by somebody who took us to be gone. Raises WireError when it is no state.
        """
        seen = _decode(payload)
        if seen is None:
            self.changed()
        elif self._shown and (seen.epoch > self.epoch or seen.status == "offline"):
            self.epoch = max(self.epoch, seen.epoch) + 1
            self._publish(self.epoch)

    def changed(self) -> None:
        """The state has changed: show it again, if it is shown at all."""
        if self._shown:
            self._publish(self.epoch)

    def _looked(self, message: Received) -> None:
        try:
            seen = _decode(message.payload)
        except WireError:
            return  # no state, no namesake; the timer goes on
        if seen is not None and seen.epoch > self.epoch and seen.status != "offline":
            raise LinkError(f"another process took over the name {self.name!r} at {self._url}: give each its own")

    def _resume(self, link: Link, look: Link) -> None:
        if look is self._looking:
            self._looking = None
            self._loop.remove(look)
            link.paused = False


_decoder = msgspec.json.Decoder(_Seen)


def _decode(payload: bytes) -> _Seen | None:
    """The state in `payload`; None for a cleared one. Raises WireError."""
    return wire.decode(_decoder, payload) if payload else None
