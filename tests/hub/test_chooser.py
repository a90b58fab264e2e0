"""Which node is chosen, and for what."""

from __future__ import annotations

import pytest

from hub import events
from tests.hub.core_driver import (
    BUNDLE,
    Driver,
    bundle,
    failures,
    records,
    two_nodes,
    without_pings,
    works,
)


def test_least_delay_is_chosen() -> None:
    """The near node gets the question; once it is busy, the far one does."""
    hub = two_nodes()
    assert works(hub.ask(id="1")) == [("a", 1)]
    assert works(hub.ask(id="2")) == [("b", 1)]


@pytest.mark.parametrize("model", ["smol", "smol-int4"])
def test_model_is_a_model_or_a_bundle(model: str) -> None:
    """A question may name the model or the very bundle."""
    hub = Driver()
    hub.node("other", bundle(bundle="big-int8", model="big", decode_ms_per_token=0.1))
    hub.node("a")
    assert works(hub.ask(model=model)) == [("a", 1)]


def test_draining_takes_nothing_new() -> None:
    """A draining node gets no new question but ends what it has."""
    hub = two_nodes()
    hub.ask(id="q")
    assert without_pings(hub.state("a", status="draining")) == []
    assert works(hub.ask(id="2")) == [("b", 1)]
    assert [record.node for record in records(hub.done("a"))] == ["a"]
    hub.state("b", status="draining")
    assert failures(hub.ask(id="3")) == ["no_node"]


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
