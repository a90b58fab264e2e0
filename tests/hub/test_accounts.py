"""Every answer of a node has a row, or a note that says why it has none."""

from __future__ import annotations

import msgspec

from hub import events, wire
from hub.accounts import MOST_MISSING, Heard
from tests.hub.core_driver import BUNDLE, TIMING, Driver, records, two_nodes


def notes(effects: list[events.Effect]) -> list[events.Note]:
    return [effect.note for effect in effects if isinstance(effect, events.StoreNote)]


def late(number: int, node: str = "a") -> events.LateAnswer:
    return events.LateAnswer(node=node, life=1, number=number)


def told(number: int, life: int = 1) -> events.AnswersTold:
    return events.AnswersTold(node="a", life=life, number=number)


def other_hub(hub: Driver, status: str) -> None:
    hub.receive("hub/other/state", wire.HubState(epoch=1, status=status))


def test_a_row_has_its_answers_number() -> None:
    """And nothing else is kept of that answer."""
    hub = two_nodes()
    hub.ask(id="q")
    effects = hub.done("a", number=7, answer_bytes=5)
    (record,) = records(effects)
    assert (record.node_life, record.node_number, record.answer_bytes, record.partial) == (1, 7, 5, False)
    assert notes(effects) == []


def test_an_answer_after_the_end_is_noted() -> None:
    """Its question has a row, which has another number or none."""
    hub = two_nodes()
    hub.ask(id="q")
    hub.done("a", number=1)
    assert (records(effects := hub.done("b", number=4)), notes(effects)) == ([], [late(4, "b")])


def test_an_answer_to_a_life_of_this_hub_before_is_pieced_together() -> None:
    """Of a question that nobody here remembers, the row has what the node tells."""
    hub = two_nodes()
    effects = hub.done("a", number=3, attempt=2)
    (record,) = records(effects)
    assert (record.id, record.outcome, record.node, record.node_number, record.attempts) == ("q", "answered", "a", 3, 2)
    assert (record.partial, record.total_ms, record.decode_ms) == (True, TIMING.queue + TIMING.compute, TIMING.decode)
    assert (record.bundle, record.model, record.task) == (BUNDLE.bundle, BUNDLE.model, BUNDLE.task)


def test_another_hub_keeps_its_own() -> None:
    """As long as it is there; of one that is gone, this hub keeps what it hears."""
    hub = two_nodes()
    other_hub(hub, "ready")
    assert (records(effects := hub.done("a", hub="other", number=1)), notes(effects)) == ([], [])
    other_hub(hub, "offline")
    (record,) = records(hub.done("a", hub="other", number=2))
    assert (record.hub, record.partial) == ("hub", True)


def test_what_nodes_do_not_number_is_not_accounted() -> None:
    """Nodes of another make may tell no numbers, and failures have none."""
    hub = two_nodes()
    assert hub.done("a") == []
    assert (records(effects := hub.done("a", "internal", number=1)), notes(effects)) == ([], [])


def test_a_node_says_how_far_it_has_counted() -> None:
    """Noted where it is heard first, and where an answer was not heard; once each."""
    hub = Driver()
    hub.node("a")
    assert notes(hub.pong("a", answers=5)) == [told(5)]
    assert notes(hub.pong("a", answers=5)) == []
    hub.done("a", number=6)
    assert notes(hub.pong("a", answers=6)) == []
    assert notes(hub.pong("a", answers=8)) == [told(8)]
    hub.state("a", epoch=2)
    assert notes(hub.pong("a", answers=8)) == []
    assert notes(hub.pong("a", answers=0, life=2)) == [told(0, life=2)]


def retold(effects: list[events.Effect]) -> list[tuple[str, int]]:
    """Which nodes are asked to tell their answers again, from which number on."""
    controls = [(effect.node, effect.control) for effect in effects if isinstance(effect, events.PublishControl)]
    return [(node, control.first) for node, control in controls if isinstance(control, wire.Retell)]


def test_what_was_not_heard_is_asked_for() -> None:
    """From the first number that is missing; three times at most, and again when more is missing."""
    hub = Driver()
    hub.node("a")
    hub.pong("a", answers=5)
    hub.done("a", number=6)
    hub.done("a", number=9)
    asked = []
    for _ in range(5):
        asked += retold(hub.pong("a", answers=9))
        asked += retold(hub.pong("a", answers=9))  # at once
        hub.wait(2.0)
    assert asked == [("a", 7)] * 3
    hub.done("a", number=8)
    assert retold(hub.pong("a", answers=10)) == [("a", 7)]
    for number in (7, 10):
        hub.done("a", number=number)
    assert retold(hub.pong("a", answers=10)) == []


def test_what_is_told_again_has_its_row_and_teaches_nothing() -> None:
    """It may have been long ago: neither the fleet's lengths nor the node's costs are learned from it."""
    hub = Driver(heard={"a": Heard(life=1, last=4, missing=frozenset({3}))})
    hub.node("a")
    assert retold(hub.pong("a", answers=4)) == [("a", 3)]
    before = hub.core.fleet.get("a")
    (record,) = records(hub.done("a", number=3, again=True))
    assert (record.node_number, record.partial) == (3, True)
    assert hub.core.fleet.get("a") == before
    assert retold(hub.pong("a", answers=4)) == []


def test_what_ends_a_question_is_no_repeat() -> None:
    """Where the question is in flight here, its answer was missed: it ends now, whole."""
    hub = Driver()
    hub.node("a")
    hub.ask(id="q")
    (record,) = records(hub.done("a", number=1, again=True))
    assert (record.node_number, record.partial) == (1, False)
    assert hub.done("a", number=1, again=True) == []


def test_a_node_that_connects_again_goes_on_counting() -> None:
    """Its epoch rises with each connection, its answers are those of one life of its process."""
    hub = Driver(heard={"a": Heard(life=1, last=300)})
    hub.state("a", epoch=7)
    assert hub.pong("a", answers=300) == []
    assert records(hub.done("a", number=12, again=True, id="old")) == []


def test_a_new_life_begins_with_one() -> None:
    """Of a node that is known, all answers of its new life should have been heard."""
    hub = Driver(heard={"a": Heard(life=1, last=400)})
    hub.node("a")
    assert retold(hub.pong("a", answers=2, life=2)) == [("a", 1)]


def test_a_node_that_counts_far_is_asked_for_what_it_may_remember() -> None:
    """What a hub keeps of it is bounded."""
    hub = Driver(heard={"a": Heard(life=1, last=1)})
    hub.node("a")
    assert retold(hub.pong("a", answers=10**6)) == [("a", 10**6 - MOST_MISSING + 1)]


def test_another_hubs_pongs_count_as_well() -> None:
    """A node counts for all hubs together."""
    hub = Driver()
    hub.node("a")
    pong = wire.Pong(hub="other", seq=1, hold_ms=0.0, answers=2, life=1)
    assert notes(hub.receive("node/a/report", pong)) == [told(2)]
    assert notes(hub.receive("node/a/report", msgspec.structs.replace(pong, answers=None))) == []


def test_what_an_asker_heard_is_noted() -> None:
    """With the question that tells it, which goes on without it."""
    hub = Driver()
    hub.node("a")
    earlier = (wire.Earlier(id="before", total_ms=12.0),)
    effects = hub.ask(id="q", earlier=earlier)
    assert notes(effects) == [events.AskerHeard(device="kitchen", earlier=earlier)]
    (work,) = (effect.work for effect in effects if isinstance(effect, events.PublishWork))
    assert work.question.earlier == ()
