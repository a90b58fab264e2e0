"""What answers say of a bundle: against the price that it came with."""

from __future__ import annotations

import msgspec

from edge_agent.evidence import Evidence
from hub import wire

SERVED = wire.ServedBundle(
    bundle="b", model="m", task="text-generation", context=64,
    fixed_ms=10, prefill_ms_per_token=2, decode_ms_per_token=5,
)  # fmt: skip
ANSWER = wire.Answer(
    id="1", node="n", bundle="b", finish="stop", attempt=1, text="yes",
    tokens=wire.Tokens(prompt=12, cached=4, completion=3), timing_ms=wire.Timing(compute=50.0),
)  # fmt: skip


class Heard:
    def __init__(self) -> None:
        self.ended: list[tuple[str, bool, float, float, float]] = []

    def desired(self, desired: wire.Desired) -> None:
        """Nobody says it here."""

    def question_ended(self, bundle: str, failed: bool, predicted_ms: float, actual_ms: float, beside: float) -> None:
        self.ended.append((bundle, failed, predicted_ms, actual_ms, beside))


def evidence() -> tuple[Evidence, Heard]:
    told, heard = Evidence({"b": SERVED}), Heard()
    told.deployments = heard
    return told, heard


def test_an_answer_is_held_against_what_the_bundle_should_take() -> None:
    """Fixed, eight prompt tokens that were not cached, three of the answer: 10 + 16 + 15 ms."""
    told, heard = evidence()
    told.computed(ANSWER, 0.0)
    told.computed(ANSWER, 1.5)
    assert heard.ended == [("b", False, 41.0, 50.0, 0.0), ("b", False, 41.0, 50.0, 1.5)]


def test_a_failure_has_no_delay_and_unknown_bundles_none_at_all() -> None:
    """What was asked for by another name says nothing of those that are here."""
    told, heard = evidence()
    told.failed("b")
    told.failed("other")
    told.computed(msgspec.structs.replace(ANSWER, bundle="other"), 0.0)
    assert heard.ended == [("b", True, 0.0, 0.0, 0.0)]


def test_the_price_is_that_of_the_first_offer() -> None:
    """One that comes later has its own."""
    told, heard = evidence()
    told.offered(msgspec.structs.replace(SERVED, bundle="new", fixed_ms=100))
    told.computed(msgspec.structs.replace(ANSWER, bundle="new"), 0.0)
    assert heard.ended == [("new", False, 131.0, 50.0, 0.0)]


def test_nobody_is_told_where_nobody_deploys() -> None:
    """It costs nothing then."""
    told = Evidence({"b": SERVED})
    told.failed("b")
    told.computed(ANSWER, 0.0)
