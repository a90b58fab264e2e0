"""What becomes of an ask: a question, a repeat, a refusal."""

from __future__ import annotations

import pytest

from hub import events, wire
from tests.hub.core_driver import (
    Driver,
    acknowledged,
    failures,
    records,
    two_nodes,
    works,
)


def test_plain_text_question() -> None:
    """Plain text is a question; its Work says so, and an id is drawn for it."""
    hub = Driver()
    hub.node("a")
    (work,) = hub.receive("ask/kitchen", b"Why?", receipt=1)
    assert isinstance(work, events.PublishWork)
    assert (work.work.plain, work.work.question.id, work.work.question.question) == (True, "drawn-1", "Why?")


def test_budget_is_the_lesser_of_deadline_and_expiry() -> None:
    """Time that was spent queued at the broker counts."""
    hub = Driver()
    hub.node("a")
    budgets = [
        effect.work.budget_ms
        for fields in ({"deadline_ms": 9000}, {"deadline_ms": 9000, "expiry_s": 4}, {"expiry_s": 70}, {"expiry_s": 20})
        for effect in hub.ask(**fields)
        if isinstance(effect, events.PublishWork)
    ]
    assert budgets == [9000, 4000, 30_000, 20_000]


def test_no_time_left() -> None:
    """A question whose expiry has run down to nothing fails at once."""
    hub = Driver()
    hub.node("a")
    effects = hub.ask(expiry_s=0)
    assert failures(effects) == ["deadline"]
    assert works(effects) == []


@pytest.mark.parametrize(
    ("payload", "code", "plain"),
    [
        (b"\xff\xfe", "invalid", True),
        (b"", "invalid", True),
        (b'{"question": 7}', "invalid", False),
        (b'{"id": "x"', "invalid", False),
        (b'{"a":' * 40_000, "invalid", False),
        (b"x" * (wire.MAX_QUESTION_BYTES + 1), "too_large", True),
        (b'{"question": "' + b"x" * wire.MAX_QUESTION_BYTES + b'"}', "too_large", False),
    ],
)
def test_bad_ask_gets_its_failure(payload: bytes, code: str, plain: bool) -> None:
    """A bad ask is answered with its typed failure, then acknowledged; it is no question and no record."""
    hub = Driver()
    hub.node("a")
    effects = hub.receive("ask/kitchen", payload, receipt=3, correlation=b"c7")
    (failure,) = effects
    assert isinstance(failure, events.PublishFailure)
    assert (failure.failure.error.code, failure.plain, failure.failure.id) == (code, plain, "c7")
    assert (failure.reply_to, failure.correlation) == ("edge/v1/answer/kitchen", b"c7")
    assert hub.accept(effects) == [events.AcknowledgeAsk(3)]
    assert hub.core.in_flight == 0
    assert hub.core.counters[f"ask_{code}"] == 1


def test_bad_ask_is_told_under_its_own_id() -> None:
    """The id of a question that is otherwise wrong is recognised."""
    hub = Driver()
    (failure,) = hub.receive("ask/kitchen", b'{"id": "mine", "question": "x", "max_tokens": "many"}', receipt=1)
    assert isinstance(failure, events.PublishFailure)
    assert failure.failure.id == "mine"


def test_retained_ask_is_no_question() -> None:
    """A retained ask would be asked again by every hub that starts: it is acknowledged and dropped."""
    hub = Driver()
    hub.node("a")
    assert hub.ask(retained=True, receipt=5) == [events.AcknowledgeAsk(5)]


def test_repeat_while_waiting() -> None:
    """A repeat of a waiting question waits with it; both are acknowledged together, once."""
    hub = Driver(settled=False)
    hub.ask(id="q", receipt=1)
    assert hub.ask(id="q", receipt=2) == []
    assert acknowledged(hub.accept(hub.state("a"))) == [1, 2]


def test_repeat_in_flight_is_acknowledged_and_counted() -> None:
    """A repeat is no second question; it is in the record."""
    hub = Driver()
    hub.node("a")
    hub.accept(hub.ask(id="q"))
    assert hub.ask(id="q", deadline_ms=20_000, receipt=5) == [events.AcknowledgeAsk(5)]
    assert records(hub.done("a"))[0].duplicates == 1


def test_repeat_before_acceptance_waits_for_it() -> None:
    """While the Work is not accepted, the repeat is not acknowledged either."""
    hub = Driver()
    hub.node("a")
    effects = hub.ask(id="q", receipt=1)
    assert hub.ask(id="q", receipt=2) == []
    assert acknowledged(hub.accept(effects)) == [1, 2]


def test_late_repeat_sends_the_work_again() -> None:
    """A repeat after some seconds of silence makes sure that the node has the Work: same node, same attempt."""
    hub = Driver()
    hub.node("a")
    hub.accept(hub.ask(id="q"))
    hub.wait_ponging(2.5, "a")
    hub.pong("a", backlog=wire.Backlog(questions=1, ms=5.0))
    effects = hub.ask(id="q", receipt=8)
    assert acknowledged(effects) == [8]
    assert works(effects) == [("a", 1)]


def test_repeat_of_an_answered_question_is_replayed() -> None:
    """The node that answered gets the Work again, with the repeat's reply topic; nothing is recorded twice."""
    hub = two_nodes()
    hub.ask(id="q")
    hub.done("a")
    effects = hub.ask(id="q", receipt=4, deadline_ms=5000, response_topic="edge/v1/answer/kitchen/2")
    (replay,) = effects
    assert isinstance(replay, events.PublishWork)
    assert (replay.node, replay.work.attempt, replay.work.budget_ms) == ("a", 1, 5000)
    assert replay.work.reply_to == "edge/v1/answer/kitchen/2"
    assert hub.accept(effects) == [events.AcknowledgeAsk(4)]
    assert hub.done("a") == []
    assert hub.core.counters["late_done"] == 1


def test_repeat_of_an_answer_that_died_with_its_node() -> None:
    """When the node that answered has restarted, the question is answered anew, as a later attempt."""
    hub = two_nodes()
    hub.ask(id="q")
    hub.done("a")
    hub.state("a", epoch=2)
    effects = hub.ask(id="q")
    assert works(effects) == [("a", 2)]
    ended = hub.done("a", attempt=2)
    assert records(ended) == []
    assert events.EndTrace(device="kitchen", id="q", outcome="answered") in ended


def test_repeat_of_a_failed_question() -> None:
    """The same failure is said again, to the present asker."""
    hub = Driver()
    hub.ask(id="q")
    hub.node("a")
    effects = hub.ask(id="q", receipt=2, correlation=b"again")
    (failure,) = effects
    assert isinstance(failure, events.PublishFailure)
    assert (failure.failure.error.code, failure.correlation) == ("no_node", b"again")
    assert hub.accept(effects) == [events.AcknowledgeAsk(2)]


def test_correlation_used_twice_is_two_questions() -> None:
    """Different questions under one Correlation Data do not get each other's answers; repeats of both are known."""
    hub = Driver()
    hub.node("a")
    (first,) = hub.ask("Why?", correlation=b"same")
    (second,) = hub.ask("How?", correlation=b"same")
    assert isinstance(first, events.PublishWork)
    assert isinstance(second, events.PublishWork)
    assert first.work.question.id == "same"
    assert second.work.question.id != "same"
    hub.accept([first, second])
    assert works(hub.ask("How?", correlation=b"same")) == []
    assert hub.core.in_flight == 2


def test_own_id_used_twice() -> None:
    """A device's own id means one question at a time; once that has ended, it may mean another."""
    hub = Driver()
    hub.node("a")
    hub.ask("Why?", id="q")
    assert failures(hub.ask("How?", id="q")) == ["invalid"]
    hub.done("a")
    (work,) = hub.ask("How?", id="q")
    assert isinstance(work, events.PublishWork)
    assert work.work.question.question == "How?"


def test_bad_ask_while_the_link_is_down() -> None:
    """Its failure is kept for the link, and its receipt with it."""
    hub = Driver()
    hub.do(events.LinkClosed())
    assert hub.receive("ask/kitchen", b"{", receipt=4) == []
    effects = hub.do(events.LinkOpened())
    assert failures(effects) == ["invalid"]
    assert acknowledged(hub.accept(effects)) == [4]
