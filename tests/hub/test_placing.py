"""Where questions go, and where when nodes are lost, silent or draining."""

from __future__ import annotations

import pytest

from hub import events
from hub.ledger import Limits
from tests.hub.core_driver import (
    Driver,
    acknowledged,
    bundle,
    cancels,
    failures,
    proven,
    records,
    two_nodes,
    without_pings,
    works,
)


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


def test_beyond_every_context() -> None:
    """A question that fits no context fails with the numbers; one that fits the larger goes there."""
    hub = Driver()
    hub.node("small", bundle(context=100, decode_ms_per_token=0.1))
    assert failures(hub.ask(max_tokens=200)) == ["too_large"]
    hub.node("large", network_ms=200)
    assert works(hub.ask(max_tokens=200)) == [("large", 1)]


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


def test_unsupported_waits_too() -> None:
    """While the fleet shows itself, a node that serves something else is no reason to give up."""
    hub = Driver(settled=False)
    hub.node("a")
    assert hub.ask(model="giant") == []
    assert works(hub.state("g", bundle(model="giant"))) == [("g", 1)]


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
