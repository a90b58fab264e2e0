"""What is known of the other hubs."""

from __future__ import annotations

from typing import Any

import pytest

from hub import wire
from hub.columns import Fleet
from hub.errors import WireError
from hub.fleet import announced, wait_ms, waiting
from hub.ledger import Limits
from hub.peers import MOST_HUBS, Peers
from tests.hub.core_driver import (
    BUNDLE,
    EXPECTED,
)

NOW = 10.0


class World:
    """Hub `m` beside others, and two nodes."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 (frozen)
        self.fleet = Fleet()
        for name in ("a", "b"):
            state = wire.NodeState(epoch=1, status="ready", bundles=(BUNDLE,))
            self.fleet.put(announced(None, name, state, NOW, live=True))
        self.peers = Peers("m", self.fleet, limits)

    def says(self, hub: str, status: Any, epoch: int = 1) -> None:
        self.peers.state_published(hub, wire.encode(wire.HubState(epoch=epoch, status=status)))

    def sends(self, node: str, question_id: str, *, now: float = NOW, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "hub": "x", "device": "kitchen", "question": wire.Question(id=question_id, question="Why?"), "attempt": 1,
            "budget_ms": 5000.0, "bundle": BUNDLE.bundle, "reply_to": "edge/v1/answer/kitchen", "expected": EXPECTED,
        }  # fmt: skip
        self.peers.sent(node, wire.Work(**{**fields, **changes}), 100, now)

    def done(self, node: str, question_id: str, outcome: Any = "answered", attempt: int = 1) -> None:
        done = wire.Done(
            hub="x", device="kitchen", id=question_id, attempt=attempt, bundle=BUNDLE.bundle, outcome=outcome
        )
        self.peers.done(node, done, NOW)

    def loads(self, node: str) -> list[str]:
        found = self.fleet.get(node)
        assert found is not None
        return [load.key[1] for load in found.load]


def test_heir_is_the_least_of_those_that_are_there() -> None:
    """What a hub leaves behind is for one of the others, and for the next where that one goes, too."""
    world = World()
    for hub in ("c", "x"):
        world.says(hub, "ready")
    world.says("x", "offline")
    assert world.peers.left_behind == ()
    world.says("c", "offline")
    assert world.peers.left_behind == ("c", "x")
    assert not world.peers.any_there


def test_late_will_is_dropped() -> None:
    """An `offline` of an earlier epoch says nothing of the hub that is there."""
    world = World()
    world.says("x", "ready", epoch=5)
    world.says("x", "offline", epoch=4)
    assert world.peers.is_there("x")


def ponged(world: World, *hubs: str, seconds: int, from_s: float = NOW) -> list[bool]:
    """Once a second the nodes answer the pings of these hubs; whether that changed who can be counted on."""
    times = [from_s + second for second in range(seconds)]
    return [world.peers.ping_answered(hub, now) for now in times for hub in hubs]


def test_a_hub_whose_pings_are_not_answered_is_silent() -> None:
    """It stands still, or its link does: it is as good as gone, until the nodes answer it again or it says a word."""
    world = World()
    for hub in ("x", "y"):
        world.says(hub, "ready")
    assert ponged(world, "m", "y", seconds=3) == [False] * 6
    assert world.peers.is_there("x")
    assert ponged(world, "m", "y", seconds=2, from_s=NOW + 3) == [True, False, False, False]
    assert (world.peers.is_there("x"), world.peers.is_there("y")) == (False, True)
    assert world.peers.left_behind == ("x",)
    assert world.peers.any_there
    world.says("x", "offline", epoch=0)  # a will that comes late
    with pytest.raises(WireError):
        world.peers.state_published("x", b"null")
    assert not world.peers.is_there("x")
    assert world.peers.ping_answered("x", NOW + 5)
    assert world.peers.is_there("x")
    assert world.peers.left_behind == ()
    ponged(world, "m", "y", seconds=4, from_s=NOW + 5)
    world.says("x", "ready", epoch=2)
    assert world.peers.is_there("x")


def test_nobody_is_silent_while_nobody_is_heard() -> None:
    """Where the nodes answer nobody, or all that was held up comes at once, it says nothing of another hub."""
    world = World()
    world.says("x", "ready")
    assert not any(world.peers.ping_answered("m", NOW + 9.0) for _ in range(20))
    assert not world.peers.ping_answered("m", NOW + 60.0)
    assert world.peers.is_there("x")
    world.peers.link_closed()
    world.says("x", "ready")
    assert ponged(world, "m", seconds=3, from_s=NOW + 61) == [False] * 3


def test_who_does_not_come_back_with_the_link_is_gone() -> None:
    """Of hubs that were there before the link broke, those are left behind that say nothing over the next one."""
    world = World()
    for hub in ("x", "y"):
        world.says(hub, "ready", epoch=7)
    world.peers.link_closed()
    world.says("x", "ready", epoch=2)  # the broker lost what it had saved of the last
    assert world.peers.is_there("x")
    assert world.peers.left_behind == ("y",)
    world.peers.state_published("y", b"")
    assert world.peers.left_behind == ()


def test_who_is_silent_is_no_heir() -> None:
    """The hub with the least name that can be counted on goes on with what others leave behind."""
    world = World()
    for hub in ("c", "x"):
        world.says(hub, "ready")
    world.says("x", "offline")
    assert world.peers.left_behind == ()
    ponged(world, "m", seconds=4)
    assert world.peers.left_behind == ("c", "x")
    world.peers.state_published("c", b"")  # nothing is left of it: it was taken over
    assert world.peers.left_behind == ("x",)


def test_cleared_state_is_forgotten() -> None:
    """Of a hub whose state was cleared nothing is left to take over."""
    world = World()
    world.says("x", "offline")
    world.peers.state_published("x", b"")
    assert world.peers.left_behind == ()


def test_hubs_are_bounded() -> None:
    """However many names say something, so many are known."""
    world = World()
    for number in range(MOST_HUBS + 10):
        world.says(f"x{number:04}", "offline")
    assert len(world.peers.left_behind) == MOST_HUBS


def test_garbage_is_refused() -> None:
    """What is no state raises WireError and changes nothing."""
    world = World()
    with pytest.raises(WireError):
        world.peers.state_published("x", b"{}")
    assert not world.peers.any_there


def test_work_of_others_loads_its_node_until_it_is_done() -> None:
    """What another hub has sent counts as wait at once, by what that hub expects it to take."""
    world = World()
    world.sends("a", "1")
    node = world.fleet.get("a")
    assert node is not None
    assert wait_ms(waiting(node), NOW, world.fleet.tail) == pytest.approx(80, abs=1)
    assert (world.loads("a"), world.loads("b")) == (["1"], [])
    world.done("a", "1")
    assert world.loads("a") == []
    assert len(world.peers) == 0


def test_second_attempt_is_beside_the_first() -> None:
    """Two nodes at one question are both busy; one that gives up is free, and the other still has it."""
    world = World()
    world.sends("a", "1")
    world.sends("b", "1", attempt=2)
    assert (world.loads("a"), world.loads("b")) == (["1"], ["1"])
    world.done("b", "1", "internal", attempt=2)
    assert (world.loads("a"), world.loads("b")) == (["1"], [])
    known = world.peers.find(("kitchen", "1"))
    assert known is not None
    assert [attempt.node for attempt in known.attempts] == ["a"]
    world.done("a", "1", "internal")
    assert world.peers.find(("kitchen", "1")) is None


def test_what_is_late_is_swept() -> None:
    """A question whose time is over loads its node no more, whatever was heard of it."""
    world = World()
    world.sends("a", "1", budget_ms=1000.0)
    world.sends("a", "2", budget_ms=9000.0)
    world.peers.sweep(NOW + 2)
    assert world.loads("a") == ["2"]


def test_memory_is_bounded() -> None:
    """The oldest questions go first, by number and by bytes, and their load with them."""
    world = World(Limits(in_flight=1, in_flight_bytes=10_000))
    for number in range(6):
        world.sends("a", str(number))
    assert world.loads("a") == ["2", "3", "4", "5"]
    world = World(Limits(in_flight_bytes=250))
    for number in range(3):
        world.sends("a", str(number))
    assert world.loads("a") == ["1", "2"]


def test_orphans_are_questions_whose_hub_is_gone() -> None:
    """And they can be asked anew as they were, with what is left of their budget."""
    world = World()
    world.says("x", "ready")
    world.sends("a", "1", plain=True, correlation=b"c")
    assert world.peers.orphans == ()
    world.says("x", "offline")
    (orphan,) = world.peers.orphans
    ask = orphan.ask(NOW + 2)
    assert (ask.key, ask.budget_ms, ask.sender.plain) == (("kitchen", "1"), 3000.0, True)
    assert (ask.sender.reply_to, ask.sender.correlation) == ("edge/v1/answer/kitchen", b"c")
    assert world.peers.is_well(orphan)
