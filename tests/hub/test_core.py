"""What the hub does about each thing that happens, by comparing the effects."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from hub import events, wire
from hub.ledger import Limits
from hub.trace_context import TraceContext
from tests.hub.core_driver import (
    BUNDLE,
    TIMING,
    TOKENS,
    Driver,
    acknowledged,
    bundle,
    failures,
    two_nodes,
    without_pings,
    works,
)
from tests.hub.core_machine import CoreMachine


def test_question_answered() -> None:
    """A question becomes Work, is acknowledged when that is accepted, and a record when it is done."""
    hub = Driver()
    hub.node("a")
    effects = hub.ask("Why?", id="q", max_tokens=10, receipt=7, correlation=b"c")
    question = wire.Question(question="Why?", id="q", max_tokens=10)
    work = wire.Work(
        hub="hub",
        device="kitchen",
        question=question,
        attempt=1,
        budget_ms=30_000,
        bundle="smol-int4",
        reply_to="edge/v1/answer/kitchen",
        correlation=b"c",
        plain=False,
        expected=wire.Expected(before_ms=19.0, decode_ms=50.0, tokens=10.0),
    )
    assert effects == [events.PublishWork(node="a", work=work, ticket=1, waited_ms=0.0)]
    assert hub.do(events.PublishAccepted(1)) == [events.AcknowledgeAsk(7)]
    hub.now += 0.1
    (stored,) = hub.done("a")
    assert isinstance(stored, events.StoreRecord)
    record = stored.record
    assert (record.outcome, record.node, record.bundle, record.model) == ("answered", "a", "smol-int4", "smol")
    assert (record.prompt_tokens, record.completion_tokens, record.attempts) == (37, 8, 1)
    assert record.total_ms == pytest.approx(100)
    assert record.network_ms == pytest.approx(100 - TIMING.queue - TIMING.compute)
    assert record.predicted_ms == hub.decisions[0].chosen.delay_ms
    assert hub.core.in_flight == 0


def test_a_trace_goes_where_its_question_goes() -> None:
    """As it came: with the Work of each attempt, and with the record; not with an answer that is only said again."""
    trace = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "rojo=1")
    hub = two_nodes()
    (first,) = (each for each in hub.ask(id="q", trace=trace) if isinstance(each, events.PublishWork))
    hub.now += 0.5
    moved = hub.state(first.node, status="offline", epoch=1)
    (second,) = (each for each in moved if isinstance(each, events.PublishWork))
    assert first.node != second.node
    assert (first.trace, second.trace) == (trace, trace)
    assert (first.waited_ms, second.waited_ms) == (0.0, pytest.approx(500.0))
    done = hub.done(second.node, attempt=2)
    assert [each.trace for each in done if isinstance(each, events.StoreRecord)] == [trace]
    (again,) = (each for each in hub.ask(id="q", trace=trace) if isinstance(each, events.PublishWork))
    assert (again.trace, again.waited_ms) == (None, None)


GARBAGE = (b"", b"{", b"null", b"[1]", b'{"epoch":-1,"status":"ready"}', b'{"type":"pong"}', b"\xff", b'{"a":' * 50_000)


@pytest.mark.parametrize("topic", ["node/a/state", "node/a/report", "node/ghost/state", "node/ghost/report", "x/y"])
@pytest.mark.parametrize("retained", [False, True])
def test_garbage_changes_only_counters(topic: str, retained: bool) -> None:
    """Garbage on any topic is dropped: the fleet, the questions and the next choice are as before."""
    hub = two_nodes()
    hub.ask(id="q")
    before, in_flight, wake = list(hub.core.fleet.values()), hub.core.in_flight, hub.core.next_wake(hub.now)
    for payload in GARBAGE:
        assert hub.receive(topic, payload, retained=retained) == []
    assert list(hub.core.fleet.values()) == before
    assert (hub.core.in_flight, hub.core.next_wake(hub.now)) == (in_flight, wake)
    assert sum(hub.core.counters.values()) >= len(GARBAGE)


def test_random_bytes_change_only_counters() -> None:
    """Five thousand random and broken messages later, nothing but counters has changed."""
    hub = two_nodes()
    hub.ask(id="q")
    draw = random.Random(4)
    valid = [wire.encode(wire.NodeState(epoch=9, status="ready", bundles=(BUNDLE,))), wire.encode(TOKENS)]
    before = list(hub.core.fleet.values())
    for _ in range(5000):
        payload = bytearray(draw.choice(valid))
        payload[draw.randrange(len(payload))] = 0xFF
        topic = draw.choice(["node/a/state", "node/a/report", "node/b/work", "hub/hub/state", "answer/kitchen"])
        assert hub.receive(topic, bytes(payload[: draw.randrange(len(payload) + 1)])) == []
    assert list(hub.core.fleet.values()) == before


def test_state_beyond_limits_is_refused() -> None:
    """A node with too many bundles, with one bundle twice or with endless names is not taken into the fleet."""
    hub = Driver(limits=Limits(bundles_per_node=2))
    hub.state("many", *(bundle(bundle=str(number)) for number in range(3)))
    hub.state("twice", BUNDLE, BUNDLE)
    hub.state("long", bundle(model="x" * 300))
    assert len(hub.core.fleet) == 0
    assert hub.core.counters["refused_node_state"] == 3


def test_node_that_lost_the_work_gets_it_again() -> None:
    """A pong that says "nothing to do" about a node that was sent Work shows that it was lost on the way."""
    hub = Driver()
    hub.node("a")
    hub.accept(hub.ask(id="q"))
    effects = hub.wait_ponging(4.0, "a")
    assert works(effects)[:1] == [("a", 1)]
    assert hub.core.counters["resent"] >= 1


def test_link_lost_before_acceptance() -> None:
    """Unaccepted Work is published again when the link is back; the redelivered ask goes with it."""
    hub = Driver()
    hub.node("a")
    lost = hub.ask(id="q", receipt=1)
    assert hub.do(events.LinkClosed()) == []
    assert hub.accept(lost) == []
    again = without_pings(hub.do(events.LinkOpened()))
    assert works(again) == [("a", 1)]
    assert hub.ask(id="q", receipt=2) == []
    assert acknowledged(hub.accept(again)) == [1, 2]


def test_accepted_work_is_published_again_after_a_reconnect() -> None:
    """A broker without memory loses what it accepted: everything in flight goes out again."""
    hub = Driver()
    hub.node("a")
    hub.accept(hub.ask(id="q", receipt=1))
    hub.do(events.LinkClosed())
    again = hub.do(events.LinkOpened())
    assert works(again) == [("a", 1)]
    assert acknowledged(hub.accept(again)) == []


def test_nothing_is_published_without_a_link() -> None:
    """While the link is down nothing goes out, deadlines hold, and the failure follows when it is back."""
    hub = Driver()
    hub.node("a")
    hub.ask(id="q", deadline_ms=1000, receipt=1)
    hub.do(events.LinkClosed())
    down = hub.wait(5.0)
    assert [type(effect) for effect in down] == [events.StoreRecord]
    up = hub.do(events.LinkOpened())
    assert failures(up) == ["deadline"]
    assert acknowledged(hub.accept(up)) == [1]


def test_silence_without_a_link_is_no_sign() -> None:
    """Nodes are not suspect for pings that could not be answered."""
    hub = two_nodes()
    hub.do(events.LinkClosed())
    hub.wait(10.0)
    hub.do(events.LinkOpened())
    assert works(hub.ask(id="q")) == [("a", 1)]


def test_ask_while_the_link_is_down() -> None:
    """An ask that came over the other connection is placed when the link is back."""
    hub = Driver()
    hub.node("a")
    hub.do(events.LinkClosed())
    assert hub.ask(id="q", receipt=1) == []
    assert acknowledged(hub.accept(hub.do(events.LinkOpened()))) == [1]


def test_fleet_shows_itself_again_after_a_reconnect() -> None:
    """A new link means that states may be under way: no_node is said two seconds later at the earliest."""
    hub = Driver()
    hub.do(events.LinkClosed())
    hub.do(events.LinkOpened())
    assert hub.ask(id="q") == []
    assert failures(hub.wait(2.1)) == ["no_node"]


def test_every_wake_is_in_the_future() -> None:
    """`next_wake` names the next ping and never a time gone by."""
    hub = Driver()
    assert hub.core.next_wake(hub.now) is None
    hub.state("a")
    wake = hub.core.next_wake(hub.now)
    assert wake == pytest.approx(hub.now + 1.0)
    assert hub.core.next_wake(hub.now + 5) == hub.now + 5


def test_replaying_the_events_rebuilds_the_fleet() -> None:
    """The same events give the same fleet and the same effects."""

    def run() -> tuple[list[Any], list[Any]]:
        hub = two_nodes()
        effects = hub.ask(id="q") + hub.done("a") + hub.wait_ponging(5.0, "b") + hub.ask(id="2")
        return effects, list(hub.core.fleet.values())

    assert msgspec.json.encode(run()[0]) == msgspec.json.encode(run()[0])
    assert run()[1] == run()[1]


TestAnyInterleaving = CoreMachine.TestCase


TestAnyInterleaving.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def own_records(*ids: str, seq: int = 7, hub: str = "hub") -> wire.OwnRecords:
    rows = [
        wire.OwnRecord(
            device="kitchen", id=name, bundle="smol-int4", model="smol", task="text-generation", outcome="answered",
            ago_ms=60_000.0, total_ms=80.0, question_bytes=9, tokens=TOKENS, timing_ms=TIMING,
        )
        for name in ids
    ]  # fmt: skip
    return wire.OwnRecords(hub=hub, seq=seq, records=tuple(rows))


def test_what_a_node_answered_on_its_own_is_kept_once() -> None:
    """With its age; each batch is confirmed, also the second time; what is for another hub is that one's."""
    hub = Driver()
    hub.node("a")
    effects = hub.receive("node/a/report", own_records("1", "2"))
    kept = [effect for effect in effects if isinstance(effect, events.StoreRecord)]
    assert [(one.record.id, one.record.node, one.record.attempts, one.ago_ms) for one in kept] == [
        ("1", "a", 0, 60_000.0), ("2", "a", 0, 60_000.0),
    ]  # fmt: skip
    assert kept[0].record.decode_ms == TIMING.decode
    said = events.PublishControl(node="a", control=wire.Kept(hub="hub", seq=7))
    assert said in effects
    assert hub.receive("node/a/report", own_records("1", "2")) == [said]
    again = hub.receive("node/a/report", own_records("2", "3", seq=9))
    assert [one.record.id for one in again if isinstance(one, events.StoreRecord)] == ["3"]
    assert hub.receive("node/a/report", own_records("4", hub="other")) == []
