"""Which nodes are there: what the core is told to do about questions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from hub import wire
from hub.columns import Fleet
from hub.errors import WireError
from hub.fleet import Load, Standing, loaded
from hub.ledger import Limits
from hub.timers import Timers
from hub.watch import NOTHING, News, Watch
from tests.hub.core_driver import BUNDLE


class World:
    """A watch over an empty fleet, its link open."""

    def __init__(self, **limits: int) -> None:
        self.fleet, self.timers, self.counters = Fleet(), Timers(), Counter[str]()
        self.watch = Watch("hub", self.fleet, self.timers, self.counters, lost_s=30.0, limits=Limits(**limits))
        self.watch.link_opened(0.0)

    def state(self, name: str, now: float = 0.0, epoch: int = 1, status: Any = "ready") -> News:
        bundles = () if status == "offline" else (BUNDLE,)
        state = wire.NodeState(epoch=epoch, status=status, bundles=bundles)
        return self.watch.state_published(name, wire.encode(state), now, live=True)

    def pong(self, name: str, seq: int, now: float, questions: int = 0, hub: str = "hub") -> News:
        backlog = wire.Backlog(questions=questions, ms=100.0 * questions)
        return self.watch.ponged(name, wire.Pong(hub=hub, seq=seq, hold_ms=0.0, backlog=backlog), now)

    def give(self, name: str, key: tuple[str, str], now: float) -> None:
        node = self.fleet.get(name)
        assert node is not None
        load = Load(
            key=key, sent_s=now, start_s=now, before_ms=0.0, decode_ms=10.0, longest_ms=math.inf, deadline_s=math.inf
        )
        self.fleet.put(loaded(node, load))

    def standing(self, name: str) -> Standing | None:
        node = self.fleet.get(name)
        return node.standing if node is not None else None


def seqs(news: News) -> list[int]:
    return [ping.control.seq for ping in news.pings if isinstance(ping.control, wire.Ping)]


def test_new_node_is_pinged_at_once() -> None:
    """A node that appears is usable, and its distance is asked for."""
    world = World()
    news = world.state("a")
    assert (news.usable, seqs(news), world.timers.next_s()) == (True, [1], 1.0)
    assert world.state("a") == NOTHING


def test_three_lost_pings() -> None:
    """Each second a ping; the fourth finds three unanswered, and the node's questions are stranded."""
    world = World()
    world.state("a")
    world.give("a", ("d", "q"), 0.0)
    assert [world.watch.ping_due("a", float(second)).stranded for second in (1, 2)] == [(), ()]
    assert world.watch.ping_due("a", 3.0).stranded == (("d", "q"),)
    assert world.standing("a") == Standing.SUSPECT
    healed = world.pong("a", 4, 3.1)
    assert (healed.usable, world.standing("a")) == (True, Standing.READY)


def test_offline_strands_and_pings_on() -> None:
    """A lost node's questions are stranded; it is pinged until it comes back or is given up."""
    world = World()
    world.state("a")
    world.give("a", ("d", "q"), 0.0)
    assert world.state("a", 5.0, status="offline").stranded == (("d", "q"),)
    assert seqs(world.watch.ping_due("a", 6.0)) != []
    assert world.watch.stayed_away("a") == ()
    assert world.standing("a") == Standing.GONE
    assert ("ping", "a") not in world.timers._at


def test_return_in_time() -> None:
    """A node that came back is not given up by the alarm of its loss."""
    world = World()
    world.state("a")
    world.state("a", 5.0, status="offline")
    assert world.state("a", 6.0, epoch=2).usable
    assert ("lost", "a") not in world.timers._at


def test_idle_node_lacks_old_work() -> None:
    """An idle pong shows what did not arrive, if it was sent well before the ping."""
    world = World()
    world.state("a")
    world.give("a", ("d", "old"), 0.0)
    (seq,) = seqs(world.watch.ping_due("a", 2.0))
    world.give("a", ("d", "new"), 1.9)
    assert world.pong("a", seq, 2.01).missing == (("d", "old"),)
    (seq,) = seqs(world.watch.ping_due("a", 3.0))
    assert world.pong("a", seq, 3.01, questions=1).missing == ()


def test_pong_for_another_hub() -> None:
    """It shows the node's load, not its distance from here, and it heals nobody."""
    world = World()
    world.state("a")
    world.pong("a", 1, 0.02, hub="other", questions=4)
    node = world.fleet.get("a")
    assert node is not None
    assert (node.others, node.network_ms) == (4, None)


@pytest.mark.parametrize("seq", [0, 2, 999])
def test_pong_to_no_ping(seq: int) -> None:
    """A pong that answers nothing is counted and changes nothing."""
    world = World()
    world.state("a")
    before = world.fleet.get("a")
    assert world.pong("a", seq, 0.02) == NOTHING
    assert world.pong("ghost", 1, 0.02) == NOTHING
    assert world.fleet.get("a") == before
    assert world.counters["stray_pong"] == 2


def test_cleared_state() -> None:
    """Clearing the retained state of a node that is gone forgets it; clearing a living one's does nothing."""
    world = World()
    world.state("a")
    world.watch.state_published("a", b"", 1.0, live=True)
    assert world.standing("a") == Standing.READY
    world.state("a", 1.0, status="draining")
    world.state("a", 1.0, status="offline")
    world.watch.state_published("a", b"", 2.0, live=True)
    assert "a" not in world.fleet


def test_room_for_nodes() -> None:
    """A full fleet forgets nodes that are gone for new ones, and otherwise refuses them."""
    world = World(nodes=2)
    world.state("a")
    world.state("b", status="offline")
    assert world.state("c").usable
    assert "b" not in world.fleet
    assert world.state("d") == NOTHING
    assert (len(world.fleet), world.counters["refused_node_state"]) == (2, 1)


def test_garbage_is_an_error() -> None:
    """What is no state raises, for the core to count."""
    with pytest.raises(WireError):
        World().watch.state_published("a", b"{", 0.0, live=True)


def test_nothing_is_sent_without_a_link() -> None:
    """While the link is down nobody is pinged; when it is back, everybody is at once."""
    world = World()
    world.state("a")
    world.watch.link_closed()
    assert world.timers.next_s() is None
    assert world.state("b").pings == ()
    assert {ping.node for ping in world.watch.link_opened(9.0)} == {"a", "b"}


def test_done_of_a_stranger() -> None:
    """A Done from a node that nobody announced is counted."""
    world = World()
    done = wire.Done(hub="hub", device="d", id="q", attempt=1, bundle="b", outcome="answered")
    assert not world.watch.told_by_done("ghost", done, 0.0)
    assert world.counters["stray_done"] == 1
