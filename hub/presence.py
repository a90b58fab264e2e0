"""How a node or hub shows that it is there: one retained state, a will, and an epoch that only goes up.

Knows the state topic and nothing of what the state says. Two things can go wrong on a broker, and both are mended
here: a will can overtake the next birth (the retained state then says `offline` of somebody who is there), and two
processes can be started under one name. MQTT 5 lets a broker tell the loser of a takeover (reason 0x8E), but
Mosquitto 2.0.11 and rumqttd just close the connection; so whoever finds, on coming back, a state of a later
epoch under its own name leaves instead of fighting. Epochs begin at the wall clock's milliseconds, so the process
that started last stays; they are only ever compared with other epochs of the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from hub import wire
from hub.errors import LinkError

LOOK_FIRST_S: Final = 0.25  # after a reconnect: how long the retained state may take to show a namesake


class _Seen(msgspec.Struct):
    """What any retained state has."""

    epoch: wire.Count
    status: str


class Presence:
    """The retained state of one name.

    `publish(epoch)` is to publish the state with this epoch; `call_later(seconds, call)` is the loop's timer.
    """

    def __init__(
        self,
        topic: wire.Topic,
        start_epoch: int,
        *,
        publish: Callable[[int], None],
        call_later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self.topic = str(topic)
        self.name = topic.name
        self.epoch = start_epoch
        self._publish = publish
        self._call_later = call_later
        self._connections = 0
        self._shown = False

    def next_epoch(self) -> int:
        """For the will of the connection that is about to be made."""
        self.epoch += 1
        self._shown = False
        return self.epoch

    def opened(self) -> None:
        """The connection stands: show the state, after a look whether somebody else has taken the name."""
        self._connections += 1
        if self._connections == 1:
            self._show()
            return
        connection = self._connections
        self._call_later(LOOK_FIRST_S, lambda: self._show() if connection == self._connections else None)

    def received(self, payload: bytes) -> None:
        """A state was published under our name. Raises LinkError when a namesake that started later is there.

        Raises WireError when it is no state.
        """
        if not payload:
            return
        seen = wire.decode(_decoder, payload)
        if not self._shown:
            if self._connections > 1 and seen.epoch > self.epoch:
                raise LinkError(f"another process took over the name {self.name!r} at the broker: give each its own")
            self.epoch = max(self.epoch, seen.epoch)
            return
        if seen.epoch > self.epoch or (seen.status == "offline" and seen.epoch <= self.epoch):
            self.epoch = max(self.epoch, seen.epoch) + 1
            self._publish(self.epoch)

    def changed(self) -> None:
        """The state has changed: show it again, if it is shown at all."""
        if self._shown:
            self._publish(self.epoch)

    def _show(self) -> None:
        if not self._shown:
            self._shown = True
            self._publish(self.epoch)


_decoder = msgspec.json.Decoder(_Seen)
