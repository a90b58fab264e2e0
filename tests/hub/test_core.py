"""What the hub does about each thing that happens, by comparing the effects."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from hub import events, wire
from hub.core import Limits
from tests.hub.core_driver import (
    BUNDLE,
    TIMING,
    TOKENS,
    Driver,
    acknowledged,
    bundle,
    cancels,
    failures,
    proven,
    records,
    without_pings,
    works,
)
from tests.hub.core_machine import CoreMachine


def two_nodes(**options: Any) -> Driver:
    """`a` is near, `b` is far."""
    hub = Driver(**options)
    hub.node("a", network_ms=1.0)
    hub.node("b", network_ms=60.0)
    return hub


# --- the story of a question ----------------------------------------------------------------------------


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
    assert effects == [events.PublishWork(node="a", work=work, ticket=1)]
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


def test_plain_text_question() -> None:
    """Plain text is a question; its Work says so, and an id is drawn for it."""
    hub = Driver()
    hub.node("a")
    (work,) = hub.receive("ask/kitchen", b"Why?", receipt=1)
    assert isinstance(work, events.PublishWork)
    assert (work.work.plain, work.work.question.id, work.work.question.question) == (True, "drawn-1", "Why?")


def test_least_delay_is_chosen() -> None:
    """The near node gets the question; once it is busy, the far one does."""
    hub = two_nodes()
    assert works(hub.ask(id="1")) == [("a", 1)]
    assert works(hub.ask(id="2")) == [("b", 1)]


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


def test_learns_from_answers() -> None:
    """After answers with few tokens the prediction for the device comes down."""
    hub = Driver()
    hub.node("a")
    for number in range(20):
        hub.ask(id=str(number))
        hub.done("a", id=str(number))
    first, last = hub.decisions[0].chosen, hub.decisions[-1].chosen
    assert first.completion_tokens == 64
    assert last.completion_tokens == pytest.approx(8, abs=3)
    assert last.prompt_tokens == pytest.approx(37, abs=2)


# --- what is refused ------------------------------------------------------------------------------------


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


# --- choosing fails -------------------------------------------------------------------------------------


def test_no_node() -> None:
    """Without any node the failure comes at once, and the ask is acknowledged when it is out."""
    hub = Driver()
    effects = hub.ask(id="q", receipt=9)
    assert failures(effects) == ["no_node"]
    assert [record.outcome for record in records(effects)] == ["no_node"]
    assert hub.accept(effects) == [events.AcknowledgeAsk(9)]


def test_unsupported() -> None:
    """With nodes that serve something else it is `unsupported`, and the message says what there is."""
    hub = Driver()
    hub.node("a")
    (failure, _) = hub.ask(model="giant")
    assert isinstance(failure, events.PublishFailure)
    assert failure.failure.error.code == "unsupported"
    assert "giant" in failure.failure.error.message
    assert "smol (text-generation)" in failure.failure.error.message
    assert failures(hub.ask(task="embedding")) == ["unsupported"]


@pytest.mark.parametrize("model", ["smol", "smol-int4"])
def test_model_is_a_model_or_a_bundle(model: str) -> None:
    """A question may name the model or the very bundle."""
    hub = Driver()
    hub.node("other", bundle(bundle="big-int8", model="big", decode_ms_per_token=0.1))
    hub.node("a")
    assert works(hub.ask(model=model)) == [("a", 1)]


def test_beyond_every_context() -> None:
    """A question that fits no context fails with the numbers; one that fits the larger goes there."""
    hub = Driver()
    hub.node("small", bundle(context=100, decode_ms_per_token=0.1))
    assert failures(hub.ask(max_tokens=200)) == ["too_large"]
    hub.node("large", network_ms=200)
    assert works(hub.ask(max_tokens=200)) == [("large", 1)]


def test_draining_takes_nothing_new() -> None:
    """A draining node gets no new question but ends what it has."""
    hub = two_nodes()
    hub.ask(id="q")
    assert without_pings(hub.state("a", status="draining")) == []
    assert works(hub.ask(id="2")) == [("b", 1)]
    assert [record.node for record in records(hub.done("a"))] == ["a"]
    hub.state("b", status="draining")
    assert failures(hub.ask(id="3")) == ["no_node"]


def test_overloaded_at_the_limit() -> None:
    """Beyond its limit of questions in flight the hub says so at once, and when to come again."""
    hub = Driver(limits=Limits(in_flight=2))
    hub.node("a")
    for number in range(2):
        hub.ask(id=str(number))
    effects = hub.ask(id="3")
    assert failures(effects) == ["overloaded"]
    assert isinstance(effects[0], events.PublishFailure)
    assert (effects[0].failure.error.retry_after_ms or 0) >= 100
    hub.done("a", id="0")
    assert works(hub.ask(id="4")) == [("a", 1)]


def test_overloaded_by_bytes() -> None:
    """The memory of questions is bounded in bytes, too."""
    hub = Driver(limits=Limits(in_flight_bytes=1000))
    hub.node("a")
    hub.ask("x" * 700, id="1")
    assert failures(hub.ask("x" * 700, id="2")) == ["overloaded"]
    assert works(hub.ask("x", id="3")) == [("a", 1)]


# --- a hub that has just started ------------------------------------------------------------------------


def test_waits_for_the_fleet_to_show_itself() -> None:
    """Just connected, a question waits unacknowledged until a node appears."""
    hub = Driver(settled=False)
    assert hub.ask(id="q", receipt=1) == []
    hub.wait(1.0)
    effects = hub.state("a", retained=True)
    assert works(effects) == [("a", 1)]
    assert acknowledged(hub.accept(effects)) == [1]


def test_stops_waiting_after_settling() -> None:
    """When two seconds have shown no node, the question fails."""
    hub = Driver(settled=False)
    hub.ask(id="q")
    assert failures(hub.wait(1.9)) == []
    assert failures(hub.wait(0.2)) == ["no_node"]


def test_repeat_while_waiting() -> None:
    """A repeat of a waiting question waits with it; both are acknowledged together, once."""
    hub = Driver(settled=False)
    hub.ask(id="q", receipt=1)
    assert hub.ask(id="q", receipt=2) == []
    assert acknowledged(hub.accept(hub.state("a"))) == [1, 2]


def test_unsupported_waits_too() -> None:
    """While the fleet shows itself, a node that serves something else is no reason to give up."""
    hub = Driver(settled=False)
    hub.node("a")
    assert hub.ask(model="giant") == []
    assert works(hub.state("g", bundle(model="giant"))) == [("g", 1)]


# --- repeats --------------------------------------------------------------------------------------------


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
    assert records(hub.done("a", attempt=2)) == []


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


# --- a node's end ---------------------------------------------------------------------------------------


def test_will_sends_work_elsewhere() -> None:
    """A node's will moves its question to the other node, with the next attempt and what is left of the budget."""
    hub = two_nodes()
    hub.accept(hub.ask(id="q"))
    hub.now += 1.0
    effects = hub.state("a", status="offline")
    (work,) = without_pings(effects)
    assert isinstance(work, events.PublishWork)
    assert (work.node, work.work.attempt, work.work.budget_ms) == ("b", 2, pytest.approx(29_000))
    (record,) = records(hub.done("b", attempt=2))
    assert (record.node, record.attempts, len(record.decisions)) == ("b", 2, 2)


def test_restart_sends_work_again() -> None:
    """A higher epoch means that the node forgot its work; it gets it again if it is the best."""
    hub = two_nodes()
    hub.ask(id="q")
    assert works(hub.state("a", epoch=2)) == [("a", 2)]


def test_stale_states_are_ignored() -> None:
    """A will of an earlier life that overtook the birth changes nothing."""
    hub = two_nodes()
    hub.state("a", epoch=5)
    hub.ask(id="q")
    assert hub.state("a", epoch=4, status="offline") == []
    assert hub.core.counters["stale_node_state"] == 1
    assert works(hub.ask(id="2", model="smol")) != []


def test_three_lost_pings_move_the_work() -> None:
    """A node that does not answer three pings is suspect: its question goes elsewhere; a pong heals it."""
    hub = two_nodes()
    hub.accept(hub.ask(id="q"))
    assert works(hub.wait_ponging(3.5, "b")) == []
    moved = hub.wait_ponging(1.0, "b")
    assert works(moved) == [("b", 2)]
    assert works(hub.ask(id="2")) == [("b", 1)]
    hub.pong("a")
    hub.ask(id="3")
    assert {terms.node for terms in hub.decisions[-1].candidates} == {"a", "b"}
    ended = hub.done("a", attempt=1)
    assert [record.node for record in records(ended)] == ["a"]
    assert cancels(ended) == [("b", 2)]


def test_question_that_has_moved_on_stays() -> None:
    """When the silent node is lost for good, the question that left it stays where it is."""
    hub = two_nodes()
    hub.ask(id="q")
    hub.wait_ponging(4.0, "b")
    assert without_pings(hub.state("a", status="offline")) == []
    assert without_pings(hub.state("a", epoch=2)) == []


def test_first_outcome_wins() -> None:
    """After one attempt has answered, the other one's Done changes nothing."""
    hub = two_nodes()
    hub.ask(id="q")
    hub.wait_ponging(4.0, "b")
    assert len(records(hub.done("b", attempt=2))) == 1
    assert hub.done("a", attempt=1) == []


def test_only_node_dies_and_comes_back() -> None:
    """With nowhere to go, an accepted question waits for the node to come back, and goes there at once."""
    hub = Driver()
    hub.node("a")
    hub.accept(hub.ask(id="q"))
    assert without_pings(hub.state("a", status="offline")) == []
    hub.wait(10.0)
    assert works(hub.state("a", epoch=2)) == [("a", 2)]


def test_only_node_dies_and_stays_away() -> None:
    """When too little of the budget is left for any node to come and answer, it fails with no_node."""
    hub = Driver()
    hub.node("a")
    hub.accept(hub.ask(id="q"))
    hub.state("a", status="offline")
    assert failures(hub.wait(26.9)) == []
    assert failures(hub.wait(0.2)) == ["no_node"]
    assert hub.core.in_flight == 0


def test_new_question_for_a_node_that_was_just_lost() -> None:
    """It is accepted for the node's return, not left unacknowledged; its Work ends when it is given up."""
    hub = Driver()
    hub.node("a")
    hub.state("a", status="offline")
    effects = hub.ask(id="q", receipt=1)
    (work,) = effects
    assert isinstance(work, events.PublishWork)
    assert work.work.budget_ms == pytest.approx(27_000)
    assert acknowledged(hub.accept(effects)) == [1]
    hub.now += 3
    again = without_pings(hub.state("a", epoch=2))
    assert works(again) == [("a", 2)]
    assert isinstance(again[0], events.PublishWork)
    assert again[0].work.budget_ms == pytest.approx(27_000)


def test_short_question_for_a_lost_node() -> None:
    """A question that could not wait for the return of a lost node fails at once."""
    hub = Driver()
    hub.node("a")
    hub.state("a", status="offline")
    effects = hub.ask(id="q", deadline_ms=2900)
    assert failures(effects) == ["no_node"]
    assert works(effects) == []


def test_node_lost_for_long_is_gone() -> None:
    """A node that stays away is history: no_node comes at once again."""
    hub = Driver()
    hub.node("a")
    hub.state("a", status="offline")
    hub.wait(31)
    assert failures(hub.ask(id="q")) == ["no_node"]


def test_drained_node_that_leaves_is_gone() -> None:
    """A node that was draining left on purpose: nobody waits for it."""
    hub = Driver()
    hub.node("a")
    hub.state("a", status="draining")
    hub.state("a", status="offline")
    assert failures(hub.ask(id="q")) == ["no_node"]


def test_all_nodes_suspect() -> None:
    """A new question goes to a suspect node when there is no other, and on when another becomes ready."""
    hub = Driver()
    hub.node("a")
    hub.wait(4.0)
    effects = hub.ask(id="q", receipt=1)
    assert works(effects) == [("a", 1)]
    assert acknowledged(hub.accept(effects)) == [1]
    assert works(hub.state("b")) == [("b", 2)]


def test_late_will_of_a_living_node() -> None:
    """A node whose will came late shows by a pong that it lives."""
    hub = Driver()
    hub.node("a")
    hub.state("a", status="offline")
    hub.wait(1.0)
    hub.pong("a")
    assert works(hub.ask(id="q")) == [("a", 1)]


def test_old_pong_heals_nobody() -> None:
    """A pong to a ping from before the will shows nothing."""
    hub = two_nodes()
    hub.wait_ponging(1.0, "b")
    asked = hub.seqs["a"]
    hub.state("a", status="offline")
    hub.pong("a", seq=asked)
    assert works(hub.ask(id="q")) == [("b", 1)]


def test_question_that_loses_every_node() -> None:
    """A question that node after node is lost with is not sent around for ever."""
    hub = Driver(limits=Limits(attempts=3))
    hub.node("a")
    hub.ask(id="q")
    outcomes: list[str] = []
    for epoch in range(2, 6):
        outcomes += failures(hub.state("a", epoch=epoch))
    assert outcomes == ["internal"]


def test_node_that_lost_the_work_gets_it_again() -> None:
    """A pong that says "nothing to do" about a node that was sent Work shows that it was lost on the way."""
    hub = Driver()
    hub.node("a")
    hub.accept(hub.ask(id="q"))
    effects = hub.wait_ponging(4.0, "a")
    assert works(effects)[:1] == [("a", 1)]
    assert hub.core.counters["resent"] >= 1


# --- a node gives up ------------------------------------------------------------------------------------


def test_internal_is_tried_once_elsewhere() -> None:
    """An internal failure goes to another node once; the second one is told to the device, with its message."""
    hub = two_nodes()
    hub.node("c", network_ms=90)
    hub.ask(id="q")
    assert works(hub.done("a", "internal", message="boom")) == [("b", 2)]
    effects = hub.done("b", "internal", attempt=2, message="boom again")
    assert failures(effects) == ["internal"]
    assert isinstance(effects[0], events.PublishFailure)
    assert effects[0].failure.error.message == "boom again"
    assert records(effects)[0].outcome == "internal"


def test_internal_without_another_node() -> None:
    """With nobody else to try, the failure goes to the device."""
    hub = Driver()
    hub.node("a")
    hub.ask(id="q")
    assert failures(hub.done("a", "internal")) == ["internal"]


def test_too_large_goes_to_a_larger_context() -> None:
    """A prompt too large for one node may fit a bundle with more context, and no other."""
    hub = Driver()
    hub.node("a", bundle(context=512))
    hub.node("b", bundle(context=512))
    hub.node("c", bundle(context=4096), network_ms=100)
    hub.ask("x" * 500, id="q")
    assert works(hub.done("a", "too_large", message="600 tokens")) == [("c", 2)]
    assert failures(hub.done("c", "too_large", attempt=2, message="9000 tokens")) == ["too_large"]


@pytest.mark.parametrize("outcome", ["overloaded", "unsupported", "cancelled"])
def test_refused_work_goes_elsewhere(outcome: str) -> None:
    """Work that a node will not do is offered to the others, then failed as what it was."""
    hub = two_nodes()
    hub.ask(id="q")
    assert works(hub.done("a", outcome)) == [("b", 2)]
    code = "internal" if outcome == "cancelled" else outcome
    effects = hub.done("b", outcome, attempt=2)
    assert failures(effects) == [code]
    assert isinstance(effects[0], events.PublishFailure)
    assert (effects[0].failure.error.retry_after_ms is not None) == (outcome == "overloaded")


@pytest.mark.parametrize("outcome", ["invalid", "deadline"])
def test_final_outcomes_are_not_retried(outcome: str) -> None:
    """What another node could not do better either is failed at once."""
    hub = two_nodes()
    hub.ask(id="q")
    assert failures(hub.done("a", outcome)) == [outcome]


def test_failure_of_an_old_attempt_is_no_outcome() -> None:
    """While another node is at it, the failure of the one before does not matter."""
    hub = two_nodes()
    hub.ask(id="q")
    hub.wait_ponging(4.0, "b")
    assert hub.done("a", "internal", attempt=1) == []
    assert len(records(hub.done("b", attempt=2))) == 1


def test_failing_elsewhere_falls_back_on_the_silent_node() -> None:
    """When the second node fails, the first one, though silent, may still answer."""
    hub = two_nodes()
    hub.ask(id="q")
    hub.wait_ponging(4.0, "b")
    assert without_pings(hub.done("b", "overloaded", attempt=2)) == []
    assert len(records(hub.done("a", attempt=1))) == 1


def test_done_for_another_hub() -> None:
    """Another hub's question is not ours, but its node's backlog is."""
    hub = two_nodes()
    hub.ask(id="q")
    assert hub.done("a", hub="other", id="other", backlog=wire.Backlog(questions=3, ms=9000)) == []
    assert works(hub.ask(id="2")) == [("b", 1)]
    assert hub.core.in_flight == 2


def test_answer_to_a_hub_before_its_restart() -> None:
    """An answer for an attempt that this hub does not remember ends the question all the same."""
    hub = two_nodes()
    hub.ask(id="q")
    effects = hub.done("b", attempt=1)
    assert [record.node for record in records(effects)] == ["b"]
    assert cancels(effects) == [("a", 1)]


# --- deadlines ------------------------------------------------------------------------------------------


def test_deadline_in_flight() -> None:
    """At the deadline the device is told, the node is called off, and the record says so."""
    hub = Driver()
    hub.node("a")
    hub.accept(hub.ask(id="q", deadline_ms=1500))
    assert hub.wait_ponging(1.4, "a") == []
    effects = hub.wait_ponging(0.2, "a")
    assert failures(effects) == ["deadline"]
    assert cancels(effects) == [("a", 1)]
    assert [record.outcome for record in records(effects)] == ["deadline"]
    assert hub.done("a") == []


def test_ends_before_acceptance_acknowledge_once() -> None:
    """A question that is answered before its Work was accepted is acknowledged then, and not again."""
    hub = Driver()
    hub.node("a")
    effects = hub.ask(id="q", receipt=3)
    assert acknowledged(hub.done("a")) == [3]
    assert hub.accept(effects) == []


# --- the link -------------------------------------------------------------------------------------------


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


def test_bad_ask_while_the_link_is_down() -> None:
    """Its failure is kept for the link, and its receipt with it."""
    hub = Driver()
    hub.do(events.LinkClosed())
    assert hub.receive("ask/kitchen", b"{", receipt=4) == []
    effects = hub.do(events.LinkOpened())
    assert failures(effects) == ["invalid"]
    assert acknowledged(hub.accept(effects)) == [4]


def test_unsent_failures_are_bounded() -> None:
    """A flood of bad asks without a link does not fill the memory."""
    hub = Driver(limits=Limits(unaccepted=10))
    hub.do(events.LinkClosed())
    effects = [effect for _ in range(50) for effect in hub.receive("ask/kitchen", b"{", receipt=next(hub.receipts))]
    assert len(acknowledged(effects)) == 40
    assert len(failures(hub.do(events.LinkOpened()))) == 10


def test_hub_that_was_held_up() -> None:
    """After a stall of the hub, late pongs show life but not distance, and nobody is suspect."""
    hub = two_nodes()
    hub.wait_ponging(1.0, "a", "b")
    hub.wait(0.5)
    before = hub.core.fleet.get("a")
    assert before is not None
    hub.now += 20
    hub.pong("a")
    after = hub.core.fleet.get("a")
    assert after is not None
    assert (after.standing, after.network_ms) == (before.standing, before.network_ms)
    assert hub.core.counters["suspected"] == 0


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


# --- any interleaving -----------------------------------------------------------------------------------

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


def test_what_a_leaving_node_hands_back_may_return_to_it() -> None:
    """Elsewhere at once where there is another node; else it waits for this one, and is not refused by it."""
    hub = Driver()
    hub.node("a")
    hub.ask(id="q", deadline_ms=60_000)
    hub.state("a", status="draining")
    assert failures(hub.done("a", "overloaded")) == []
    hub.state("a", status="offline", epoch=1)
    hub.wait(1.0)
    assert works(hub.state("a", epoch=2)) == [("a", 2)]

    other = Driver()
    other.node("a")
    other.ask(id="q", deadline_ms=60_000)
    other.node("b", network_ms=50.0)
    other.state("a", status="draining")
    assert works(other.done("a", "overloaded")) == [("b", 2)]


# --- nodes, bundles, drains ------------------------------------------------------------------------


def test_a_node_with_two_bundles() -> None:
    """Each has its own cost, and what is learned of one says nothing of the other."""
    hub = Driver()
    hub.node("a", BUNDLE, bundle(bundle="big-int8", model="big", decode_ms_per_token=50.0))
    for number in range(10):
        hub.ask(id=str(number), model="smol")
        hub.done("a", id=str(number))
    hub.ask(id="q", model="big", max_tokens=8)
    hub.ask(id="r", model="smol", max_tokens=8)
    big, small = (decision.chosen for decision in hub.decisions[-2:])
    assert (big.bundle, big.decode_ms / big.completion_tokens) == ("big-int8", 50.0)
    assert (small.bundle, small.decode_ms / small.completion_tokens) == ("smol-int4", pytest.approx(5.0))
    assert small.prefill_ms + small.fixed_ms == pytest.approx(39.0, rel=0.2)


def test_tasks_are_kept_apart() -> None:
    """A question goes only to a bundle of its task, though the same node has a faster one."""
    hub = Driver()
    hub.node("a", BUNDLE, bundle(bundle="labels", model="tiny", task="text-classification", decode_ms_per_token=0.0))
    (work,) = hub.ask(id="q")
    (other,) = hub.ask(id="r", task="text-classification")
    assert isinstance(work, events.PublishWork)
    assert isinstance(other, events.PublishWork)
    assert (work.work.bundle, other.work.bundle) == ("smol-int4", "labels")


def test_drained_node_comes_back() -> None:
    """Nothing new goes to it, it ends what it has, and takes questions again when the drain is taken back."""
    hub = proven("a", "b")
    hub.accept(hub.ask(id="q"))
    hub.state("a", status="draining")
    assert works(hub.ask(id="2")) == [("b", 1)]
    assert [record.node for record in records(hub.done("a"))] == ["a"]
    hub.state("a")
    assert works(hub.ask(id="3")) == [("a", 1)]


def test_question_for_a_drained_fleet_is_taken_when_the_drain_ends() -> None:
    """What had lost its node waits, and goes to the node that takes questions again."""
    hub = Driver()
    hub.node("a")
    hub.ask(id="q", receipt=1)
    hub.state("b", status="draining")
    hub.state("a", epoch=2, status="draining")
    assert works(hub.state("b")) == [("b", 2)]
    assert acknowledged(hub.done("b", attempt=2)) == [1]


# --- what nodes still have ------------------------------------------------------------------------------


def placed(effects: list[events.Effect]) -> str:
    ((node, _),) = works(effects)
    return node


def test_a_conversation_goes_on_where_it_is() -> None:
    """Also at a farther node, as long as it is there in the same life; then it begins anew."""
    hub = two_nodes()
    hub.state("a", status="draining")
    assert placed(hub.ask("Hi", id="q", session="talk")) == "b"
    hub.done("b")
    hub.state("a")
    assert placed(hub.ask("And?", id="q2", session="talk")) == "b"
    hub.done("b", id="q2")
    assert placed(hub.ask("Something else", id="q3")) == "a"
    hub.done("a", id="q3")
    hub.state("b", epoch=2)
    assert placed(hub.ask("Still there?", id="q4", session="talk")) == "a"


def test_a_cached_prompt_is_not_paid_again() -> None:
    """A device with a long system prompt is worth a longer way to the node that has read it."""
    hub = two_nodes()
    prompt = "You are the assistant of a workshop. " * 60
    hub.state("a", status="draining")
    for number in (1, 2):
        hub.ask(prompt, id=f"q{number}")
        cached = 0 if number == 1 else 500
        prefill_ms = BUNDLE.fixed_ms + BUNDLE.prefill_ms_per_token * (555 - cached)
        decode_ms = BUNDLE.decode_ms_per_token * 10
        timing = wire.Timing(prefill=prefill_ms, decode=decode_ms, compute=prefill_ms + decode_ms)
        tokens = wire.Tokens(prompt=555, cached=cached, completion=10)
        hub.done("b", id=f"q{number}", tokens=tokens, timing_ms=timing)
    hub.state("a")
    assert placed(hub.ask(prompt, id="q3")) == "b"
    assert placed(hub.ask(prompt, id="q4", device="library")) == "a"
