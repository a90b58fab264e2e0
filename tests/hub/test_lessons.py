"""What answers teach, and what they do not."""

from __future__ import annotations

import pytest

from hub import events, wire
from tests.hub.core_driver import (
    BUNDLE,
    Driver,
    two_nodes,
    works,
)


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
