"""What a hub does about the questions of others, and about those of one that dies."""

from __future__ import annotations

from typing import Any

import pytest

from hub import events, wire
from tests.hub.core_driver import (
    BUNDLE,
    EXPECTED,
    Driver,
    acknowledged,
    cancels,
    failures,
    records,
    without_pings,
    works,
)


def says(hub: Driver, name: str, status: Any = "ready", epoch: int = 1) -> list[events.Effect]:
    return without_pings(hub.receive(f"hub/{name}/state", wire.HubState(epoch=epoch, status=status)))


def sends(hub: Driver, node: str, *, text: str = "Why?", by: str = "zoe", **changes: Any) -> list[events.Effect]:
    """Another hub sends question `q` of `kitchen` to `node`."""
    fields: dict[str, Any] = {
        "hub": by, "device": "kitchen", "question": wire.Question(id="q", question=text), "attempt": 1,
        "budget_ms": 20_000.0, "bundle": BUNDLE.bundle, "reply_to": "edge/v1/answer/kitchen", "expected": EXPECTED,
    }  # fmt: skip
    return without_pings(hub.receive(f"node/{node}/work", wire.Work(**{**fields, **changes})))


def company(*others: str) -> Driver:
    """`a` is near, `b` is far; other hubs are there."""
    hub = Driver()
    hub.node("a", network_ms=1.0)
    hub.node("b", network_ms=60.0)
    for name in others or ("zoe",):
        says(hub, name)
    return hub


def test_work_is_heard_as_long_as_there_are_others() -> None:
    """A hub by itself does not hear its own Work; with others it hears theirs."""
    hub = Driver()
    assert says(hub, "zoe") == [events.HearWork(True)]
    assert says(hub, "amy") == []
    assert says(hub, "hub") == []
    assert says(hub, "zoe", "offline") == []  # amy is its heir
    assert says(hub, "amy", "offline") == [
        events.HearWork(False), events.TakeOverAsks("amy"), events.TakeOverAsks("zoe")
    ]  # fmt: skip


def test_what_a_silent_hub_had_goes_on_here() -> None:
    """The nodes answer this hub and not the other: its asks and its questions are taken over, long before its will."""
    hub = company()
    sends(hub, "a")
    hub.wait_ponging(1.0, "a", "b")
    hub.receive("node/a/report", wire.Pong(hub="zoe", seq=1, hold_ms=0.0))
    assert hub.wait_ponging(2.5, "a", "b") == []
    effects = hub.wait_ponging(1.0, "a", "b")
    assert [effect for effect in effects if isinstance(effect, events.TakeOverAsks)] == [events.TakeOverAsks("zoe")]
    assert works(effects) == [("a", 1)]  # where it is, so that the node and the others know whose it is now
    assert hub.do(events.AsksTakenOver("zoe")) == [events.ForgetHub("zoe")]


def test_a_hub_that_was_silent_keeps_what_it_has() -> None:
    """It is heard again before its asks were taken over: then nothing is to be forgotten of it."""
    hub = company()
    hub.wait_ponging(4.5, "a", "b")
    hub.receive("node/a/report", wire.Pong(hub="zoe", seq=9, hold_ms=0.0))
    assert hub.do(events.AsksTakenOver("zoe")) == []
    sends(hub, "a")
    assert hub.ask(id="q", receipt=5) == [events.AcknowledgeAsk(5)]


def test_load_of_others_counts_at_once() -> None:
    """Two hubs do not pile onto one node: what the other has just sent is in the wait, before any report of it."""
    hub = company()
    assert sends(hub, "a") == []
    assert works(hub.ask(id="mine")) == [("b", 1)]
    busy = {terms.node: terms.wait_ms for terms in hub.decisions[-1].candidates}
    assert busy == {"a": pytest.approx(80, abs=1), "b": 0}


def test_repeat_is_left_to_the_hub_that_has_the_question() -> None:
    """A repeat that comes here is acknowledged, and nobody computes anything twice."""
    hub = company()
    sends(hub, "a")
    effects = hub.ask(id="q", receipt=5)
    assert effects == [events.AcknowledgeAsk(5)]
    assert hub.core.in_flight == 0


def test_repeat_of_what_another_hub_had_answered() -> None:
    """The answer is told again by the node that gave it; no other node computes it anew."""
    hub = company()
    sends(hub, "b")
    assert hub.done("b", hub="zoe") == []
    assert works(hub.ask(id="q")) == [("b", 1)]


def test_answers_of_others_teach() -> None:
    """Every hub learns from every answer what its node costs."""
    hub = company()
    sends(hub, "a")
    before = hub.core.fleet.get("a")
    hub.done("a", hub="zoe")
    after = hub.core.fleet.get("a")
    assert before is not None
    assert after is not None
    assert after.costs != before.costs


def test_failure_at_another_hub_is_forgotten() -> None:
    """What its hub makes of it is not heard; a repeat begins anew."""
    hub = company()
    sends(hub, "a")
    assert hub.done("a", "internal", hub="zoe") == []
    assert works(hub.ask(id="q")) == [("b", 1)]  # a node that fails is not cheaper for it, whosever question it fails


def test_heir_goes_on_with_questions_of_a_dead_hub() -> None:
    """It says so to the node, which answers once; and it moves what was at a node that is lost as well."""
    hub = company()
    sends(hub, "b")
    effects = says(hub, "zoe", "offline")
    assert works(effects) == [("b", 1)]
    assert hub.core.in_flight == 1
    effects = hub.state("b", status="offline", epoch=1)
    assert works(effects) == [("a", 2)]
    hub.now += 0.1
    (record,) = records(hub.done("a", attempt=2))
    assert (record.hub, record.outcome, record.node, record.attempts) == ("hub", "answered", "a", 2)


def test_what_died_with_its_node_is_moved() -> None:
    """Hub and node are lost together: the heir sends the question to another node."""
    hub = company()
    sends(hub, "b")
    hub.state("b", status="offline", epoch=1)
    assert works(says(hub, "zoe", "offline")) == [("a", 2)]


def test_others_leave_it_to_the_heir() -> None:
    """A hub with a greater name than another living one takes nothing."""
    hub = company("zoe", "amy")
    sends(hub, "a")
    assert says(hub, "zoe", "offline") == []
    assert works(says(hub, "amy", "offline")) == [("a", 1)]


def test_repeat_comes_before_the_heir() -> None:
    """Where a question's hub is gone, whoever gets the repeat goes on with it."""
    hub = company("zoe", "amy")
    sends(hub, "a")
    says(hub, "zoe", "offline")
    effects = hub.ask(id="q", receipt=5)
    assert (works(effects), acknowledged(effects)) == ([("a", 1)], [5])
    assert sends(hub, "a", by="amy") == works_again(hub)  # the heir was as quick: the greater name keeps it


def works_again(hub: Driver) -> list[events.Effect]:
    """The one question's Work, said again."""
    (question,) = hub.core._ledger.in_flight.values()
    (ticket,) = hub.core._ledger.outbox._work_by_ticket
    work = wire.Work(
        hub="hub", device="kitchen", question=wire.Question(id="q", question="Why?"), attempt=1,
        budget_ms=question.budget_ms(hub.now), bundle=BUNDLE.bundle, reply_to="edge/v1/answer/kitchen",
        expected=EXPECTED,
    )  # fmt: skip
    waited_ms = (hub.now - question.received_s) * 1000
    return [events.PublishWork(node="a", work=work, ticket=ticket, waited_ms=waited_ms)]


def test_two_hubs_at_one_question() -> None:
    """The one with the later attempt, or else the greater name, keeps it; the other calls off what it began."""
    hub = company()
    hub.ask(id="q", receipt=5)
    effects = sends(hub, "b", attempt=1, by="zoe")
    assert (cancels(effects), acknowledged(effects)) == ([("a", 1)], [5])
    assert events.EndTrace(device="kitchen", id="q", outcome=events.HANDED_OVER) in effects
    assert hub.core.in_flight == 0
    assert hub.ask(id="q", receipt=6) == [events.AcknowledgeAsk(6)]


def test_answer_that_another_hub_got() -> None:
    """It ends the question here as well, without a second record."""
    hub = company("amy")
    hub.ask(id="q")
    effects = hub.done("b", hub="amy")
    assert (cancels(effects), records(effects)) == ([("a", 1)], [])
    assert hub.core.in_flight == 0


def test_failure_that_another_hub_got() -> None:
    """It is that hub's business, as long as it is there."""
    hub = company("amy")
    hub.ask(id="q")
    assert hub.done("a", "internal", hub="amy") == []
    assert hub.core.in_flight == 1


def test_late_question_of_a_dead_hub_is_failed() -> None:
    """Its asker is told by the deadline, also where no node came."""
    hub = company()
    sends(hub, "a", budget_ms=2000.0)
    says(hub, "zoe", "offline")
    assert failures(hub.wait_ponging(3.0, "a", "b")) == ["deadline"]


def test_nothing_is_taken_over_before_the_fleet_is_known() -> None:
    """A hub that has just started waits for the states of the others before it takes itself for their heir."""
    hub = Driver(settled=False)
    hub.node("a")
    assert says(hub, "zoe", "offline") == []
    says(hub, "amy")
    sends(hub, "a")
    assert works(hub.wait_ponging(3.0, "a")) == []


def test_hub_of_which_nothing_is_left_is_forgotten() -> None:
    """Its retained state is cleared once its asks are here; unless it has come back meanwhile."""
    hub = company()
    assert events.TakeOverAsks("zoe") in says(hub, "zoe", "offline")
    assert hub.do(events.AsksTakenOver("zoe")) == [events.ForgetHub("zoe")]
    says(hub, "zoe", epoch=2)
    assert hub.do(events.AsksTakenOver("zoe")) == []


def test_another_question_under_the_same_id() -> None:
    """A device's own id that is in use at another hub is refused here as it would be there."""
    hub = company()
    sends(hub, "a")
    assert failures(hub.ask("Why not?", id="q")) == ["invalid"]


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff"])
def test_garbage_for_work_is_counted(payload: bytes) -> None:
    """What is no Work changes nothing."""
    hub = company()
    assert hub.receive("node/a/work", payload) == []
    assert hub.core.counters["bad_work"] == 1
