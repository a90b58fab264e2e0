"""What waits at a real Mosquitto for a hub that is gone comes to another one, and none of it twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hub import wire
from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received
from hub.heritage import SESSION_S, Heritage, session_of
from hub.loop import Loop
from hub.mqtt_link import Link

pytestmark = pytest.mark.broker
SHARED = wire.Topic.shared("ask", wire.ASK_GROUP)


class World:
    """A dead hub's session at a broker, somebody who asks, and an heir."""

    def __init__(self, url: str) -> None:
        self.url = BrokerUrl.parse(url)
        self.loop = Loop()
        self.got: list[Received] = []
        self.done: list[str] = []
        self.accepted: list[int] = []
        self.asker = Link(self.url, "asker", Handlers(received=print, accepted=self.accepted.append))
        self.loop.add(self.asker)
        self.heritage = Heritage(self.loop, self.url, self.got.append, self.done.append)
        self.until(lambda: self.asker.is_open)

    def until(self, condition: Callable[[], object], limit_s: float = 10.0) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, "did not happen in time"
            self.loop.run_once(0.02)

    def hub(self, name: str, got: list[Received]) -> Link:
        """Take asks as a hub does, and acknowledge none."""
        link = Link(
            self.url, session_of(name), Handlers(received=got.append), subscriptions=[(SHARED, 1)],
            session_expiry_s=SESSION_S, by_hand=True, heritable=True,
        )  # fmt: skip
        self.loop.add(link)
        self.until(lambda: link.is_open)
        return link

    def ask(self, *questions: str) -> None:
        before = len(self.accepted)
        for question in questions:
            self.asker.publish("edge/v1/ask/kitchen", question.encode(), qos=1)
        self.until(lambda: len(self.accepted) == before + len(questions))

    def payloads(self) -> list[str]:
        return [message.payload.decode() for message in self.got]

    def acknowledge_all(self) -> None:
        for message in self.got:
            self.heritage.acknowledge(message.receipt)


@pytest.fixture
def world(mosquitto: Any) -> Iterator[World]:
    world = World(mosquitto.url)
    yield world
    world.heritage.close()
    world.loop.close()


def test_everything_comes_over(world: World) -> None:
    """What the dead hub had not acknowledged, and what the broker kept for it since, in order; then it is over."""
    unacknowledged: list[Received] = []
    dead = world.hub("x", unacknowledged)
    first = [f"before {number}" for number in range(3)]
    world.ask(*first)
    world.until(lambda: len(unacknowledged) == 3)
    world.loop.remove(dead)
    rest = [f"since {number}" for number in range(50)]  # more than Mosquitto has in flight at a time
    world.ask(*rest)
    world.heritage.take_over("x")
    world.heritage.take_over("x")  # is under way
    world.until(lambda: world.acknowledge_all() or len(world.got) >= 53)
    world.until(lambda: world.acknowledge_all() or world.done)
    assert world.payloads() == first + rest
    assert world.done == ["x"]


def test_nothing_more_is_kept_for_it(world: World) -> None:
    """The dead hub has no share any more: what is asked from now on goes to the others, all of it."""
    others: list[Received] = []
    world.loop.remove(world.hub("x", []))
    world.hub("y", others)
    world.heritage.take_over("x")
    world.until(lambda: world.done)
    world.ask("one", "two", "three", "four")
    world.until(lambda: len(others) == 4)
    assert world.got == []


def test_unacknowledged_ask_is_waited_for(world: World) -> None:
    """The session is kept until the last ask is acknowledged: were this hub to die, another one would get it."""
    world.loop.remove(world.hub("x", []))
    world.ask("why?")
    world.heritage.take_over("x")
    world.until(lambda: world.got)
    world.heritage.close()
    again: list[Received] = []
    world.hub("x", again)
    world.until(lambda: again)
    assert [message.payload for message in again] == [b"why?"]
    assert world.done == []


def test_hub_that_comes_back_takes_over_again(world: World) -> None:
    """It connects under its name, and that is the end of it here."""
    world.loop.remove(world.hub("x", []))
    world.ask("why?")
    world.heritage.take_over("x")
    world.until(lambda: world.got)
    back: list[Received] = []
    link = world.hub("x", back)
    world.until(lambda: back)
    world.acknowledge_all()  # void
    world.until(lambda: not world.heritage._links)
    assert link.is_open
    assert world.done == []


def test_forbidden_session_is_left(mosquitto: Any) -> None:
    """A broker that refuses it is asked once; this hub goes on."""
    mosquitto.stop()
    config = mosquitto.folder / "mosquitto.conf"
    config.write_text(config.read_text() + "clientid_prefixes asker\n")
    mosquitto.start()
    world = World(mosquitto.url)
    world.heritage.take_over("x")
    world.until(lambda: world.heritage._refused == {"x"} and not world.heritage._links)
    world.heritage.take_over("x")
    assert not world.heritage._links
    world.loop.close()
