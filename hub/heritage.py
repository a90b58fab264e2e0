"""Brings here what waits at the broker for a hub that is gone: its asks, to the last one.

Asks are shared by the broker, and some brokers (Mosquitto) go on giving a member that is gone its share. All that
stands in a session of a known name, which outlives its hub. So the heir connects under that name, takes what comes,
lets the share go at once, and the session when it is empty. A hub that comes back takes its session back by
connecting; then there is nothing more to do here. Knows nothing of what asks say, or of who is heir to whom.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from hub import wire
from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link

log = logging.getLogger(__name__)

SESSION_S: Final = 3600  # how long the broker keeps asks for a hub that is away; each has its own expiry besides
QUIET_S: Final = 1.0  # without a message, until nothing more is expected
LOOK_EVERY_S: Final = 0.2


def session_of(hub: str) -> str:
    """The name under which a hub takes asks; where hubs share a secret, `BrokerUrl.owned` makes it theirs."""
    return f"hub-{hub}-asks"


class Heritage:
    """What hubs left behind at the broker `url`.

    `received` gets the asks, `taken_over` the name of each hub that nothing is left of.
    """

    def __init__(
        self, loop: Loop, url: BrokerUrl, received: Callable[[Received], None], taken_over: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._url = url
        self._received = received
        self._taken_over = taken_over
        self._links: dict[str, Link] = {}
        self._heard_s: dict[str, float] = {}
        self._refused: set[str] = set()

    def take_over(self, hub: str) -> None:
        """Let what waits for `hub` come here, unless that is under way, or the broker does not allow it."""
        if hub in self._links or hub in self._refused:
            return
        link = self._links[hub] = Link(
            self._url,
            self._url.owned(session_of(hub)),
            Handlers(
                received=lambda message: self._asked(hub, message),
                opened=lambda: self._opened(hub, link),
                closed=lambda why: self._loop.call_soon(lambda: self._drop(hub, link)),
                refused=lambda why: self._forbidden(hub, link, why),
            ),
            session_expiry_s=SESSION_S,  # should this hub die, too, another one goes on
            by_hand=True,
            look_first=True,
            heritable=True,
            dropped=[wire.Topic.shared("ask", self._url.owned(wire.ASK_GROUP)), wire.Topic.all_of("ask")],
        )
        self._loop.add(link)

    def acknowledge(self, receipt: int) -> None:
        """Let the broker forget an ask, if it came this way."""
        for link in self._links.values():
            link.acknowledge(receipt)

    def close(self) -> None:
        """Leave what is not done yet to another hub."""
        for hub, link in list(self._links.items()):
            self._drop(hub, link)

    # --- inside -----------------------------------------------------------------------------------------

    def _asked(self, hub: str, message: Received) -> None:
        self._heard_s[hub] = time.monotonic()
        self._received(message)

    def _opened(self, hub: str, link: Link) -> None:
        log.info("hub %s is gone: its asks come here", hub)
        self._heard_s[hub] = time.monotonic()
        self._look_later(hub, link)

    def _look_later(self, hub: str, link: Link) -> None:
        self._loop.call_at(time.monotonic() + LOOK_EVERY_S, lambda: self._look(hub, link))

    def _look(self, hub: str, link: Link) -> None:
        """Is there anything left?"""
        if self._links.get(hub) is not link:
            return
        if not link.is_settled or time.monotonic() - self._heard_s[hub] < QUIET_S:
            self._look_later(hub, link)
            return
        self._drop(hub, link, for_good=True)
        self._taken_over(hub)

    def _drop(self, hub: str, link: Link, *, for_good: bool = False) -> None:
        if self._links.get(hub) is link:
            del self._links[hub]
            self._heard_s.pop(hub, None)
            self._loop.remove(link, for_good=for_good)

    def _forbidden(self, hub: str, link: Link, why: str) -> None:
        log.warning("asks that wait for hub %s stay there: %s", hub, why)
        self._refused.add(hub)
        self._loop.call_soon(lambda: self._drop(hub, link))
