"""What is in flight is bounded, and every end is told once."""

from __future__ import annotations

from hub import events
from hub.ledger import Limits
from tests.hub.core_driver import (
    Driver,
    acknowledged,
    failures,
    works,
)


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


def test_ends_before_acceptance_acknowledge_once() -> None:
    """A question that is answered before its Work was accepted is acknowledged then, and not again."""
    hub = Driver()
    hub.node("a")
    effects = hub.ask(id="q", receipt=3)
    assert acknowledged(hub.done("a")) == [3]
    assert hub.accept(effects) == []


def test_unsent_failures_are_bounded() -> None:
    """A flood of bad asks without a link does not fill the memory."""
    hub = Driver(limits=Limits(unaccepted=10))
    hub.do(events.LinkClosed())
    effects = [effect for _ in range(50) for effect in hub.receive("ask/kitchen", b"{", receipt=next(hub.receipts))]
    assert len(acknowledged(effects)) == 40
    assert len(failures(hub.do(events.LinkOpened()))) == 10
