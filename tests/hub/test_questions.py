"""What is remembered of a question, and its record."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hub import wire
from hub.columns import Fleet
from hub.decision import Decision, Terms
from hub.delay import Lengths
from hub.fleet import announced
from hub.intake import Ask, Sender
from hub.prefixes import Prefixes
from hub.questions import Attempt, InFlight, load_of, record_of
from tests.hub.core_driver import BUNDLE, TIMING, TOKENS

TERMS = Terms(
    node="a",
    bundle=BUNDLE.bundle,
    network_ms=20.0,
    wait_ms=0.0,
    fixed_ms=2.0,
    prefill_ms=30.0,
    decode_ms=40.0,
    prompt_tokens=30.0,
    completion_tokens=8.0,
)


def in_flight(**fields: Any) -> InFlight:
    ask = Ask(
        sender=Sender(device="kitchen", reply_to="edge/v1/answer/kitchen", correlation=None, plain=False),
        question=wire.Question(id="q", question="Why?", **fields),
        id_is_own=True,
        budget_ms=5000.0,
        payload_bytes=33,
        fingerprint=b"f",
    )
    return InFlight(ask, 10.0)


def decision(attempt: int) -> Decision:
    return Decision(device="kitchen", id="q", attempt=attempt, chosen=TERMS, candidates=(TERMS,), rejected=())


def test_budget_runs_down_to_nothing() -> None:
    """What is left of the deadline is never negative."""
    question = in_flight()
    assert [question.budget_ms(now) for now in (10.0, 12.0, 99.0)] == [5000.0, 3000.0, 0.0]


def test_load_of_a_question() -> None:
    """It arrives after half the round trip, and lasts no longer than all the tokens that it may have."""
    load = load_of(in_flight(max_tokens=80), TERMS, 10.0)
    assert (load.start_s, load.work_ms, load.deadline_s) == (10.01, 72.0, 15.0)
    assert load.longest_ms == pytest.approx(2 + 30 + 40 / 8 * 80)
    assert load_of(in_flight(), TERMS, 10.0).longest_ms == math.inf


def test_features() -> None:
    """What the router is told is the question's own, and what is expected of its device."""
    features = in_flight(model="smol", max_tokens=5).features(Lengths(10), Prefixes(10), Fleet(), 10.0)
    assert (features.chars, features.model, features.task) == (4, "smol", "text-generation")
    assert features.expected_tokens == 5


def test_record_of_an_answer_after_a_lost_node() -> None:
    """The record is of the attempt that answered; what the lost one cost shows as network; both choices are kept."""
    fleet = Fleet()
    state = wire.NodeState(epoch=1, status="ready", bundles=(BUNDLE,))
    fleet.put(announced(None, "b", state, 0.0, live=False))
    question = in_flight()
    question.tries, question.decisions = 2, [decision(1), decision(2)]
    done = wire.Done(
        hub="hub",
        device="kitchen",
        id="q",
        attempt=2,
        bundle=BUNDLE.bundle,
        outcome="answered",
        tokens=TOKENS,
        timing_ms=TIMING,
    )
    record = record_of(
        question, "hub", "answered", fleet, done, Attempt(2, "b", 1, BUNDLE.bundle, 10.0, 100.0, 64.0), 11.0
    )
    assert (record.node, record.model, record.attempts, record.total_ms) == ("b", "smol", 2, 1000.0)
    assert record.network_ms == pytest.approx(1000 - 1 - 80)
    assert record.predicted_ms == decision(1).chosen.delay_ms  # type: ignore[union-attr]
    assert [each.attempt for each in record.decisions] == [1, 2]


def test_record_of_a_question_that_no_node_had() -> None:
    """It has neither node nor prediction."""
    record = record_of(in_flight(), "hub", "no_node", Fleet(), None, None, 12.0)
    assert (record.node, record.model, record.predicted_ms, record.attempts, record.decisions) == (
        None,
        None,
        None,
        0,
        (),
    )
    assert (record.total_ms, record.network_ms) == (2000.0, 2000.0)
