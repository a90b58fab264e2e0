"""What becomes of a question when a node has ended it, or its time is over."""

from __future__ import annotations

import pytest

from hub import events, wire
from tests.hub.core_driver import (
    Driver,
    bundle,
    cancels,
    failures,
    records,
    two_nodes,
    without_pings,
    works,
)


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
