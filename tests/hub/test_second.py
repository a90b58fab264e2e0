"""When an attempt is so late that a second node should try."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hub import wire
from hub.decision import Terms
from hub.fleet import Load
from hub.intake import Ask, Sender
from hub.second import SILENT_FLOOR_S, Allowance, doubt_of, looked_again

TERMS = Terms(
    node="n", bundle="b", network_ms=0, wait_ms=0, fixed_ms=99, prefill_ms=0, decode_ms=0, prompt_tokens=1,
    completion_tokens=1, log_spread=0.5, spread_weight=20.0,
)  # fmt: skip


def ask(*, hurried: bool = True, **fields: Any) -> Ask:
    return Ask(
        sender=Sender(device="d", reply_to="edge/v1/answer/d", correlation=None, plain=False),
        question=wire.Question(id="q", question="Why?", **fields),
        id_is_own=True,
        budget_ms=5000.0,
        payload_bytes=9,
        fingerprint=b"f",
        hurried=hurried,
    )


def load(longest_ms: float = math.inf, deadline_s: float = 15.0) -> Load:
    return Load(key=("d", "q"), sent_s=10, start_s=10, work_ms=99, longest_ms=longest_ms, deadline_s=deadline_s)


def test_times_are_the_predicted_percentiles() -> None:
    """The 95th for a hedge; for silence the 99.9th and a second more."""
    doubt = doubt_of(ask(), TERMS, load(), 10.0)
    assert doubt is not None
    assert doubt.next_s == doubt.hedge_at_s == pytest.approx(10 + 0.2266, abs=1e-3)
    assert doubt.silent_at_s == pytest.approx(10 + 0.4682 + SILENT_FLOOR_S, abs=1e-3)


def test_only_a_deadline_of_its_own_is_hedged() -> None:
    """Whoever set none can wait for silence; and so does a streamed question, whose first piece may be out."""
    for late in (ask(hurried=False), ask(stream=True)):
        doubt = doubt_of(late, TERMS, load(longest_ms=500.0), 10.0)
        assert doubt is not None
        assert doubt.hedge_at_s == math.inf
        assert doubt.silent_at_s < math.inf


def test_streamed_question_is_silent_after_its_longest_answer() -> None:
    """A long answer under way is not silence: where its length is not bounded, nothing is."""
    doubt = doubt_of(ask(stream=True), TERMS, load(longest_ms=500.0), 10.0)
    assert doubt is not None
    assert doubt.silent_at_s == pytest.approx(10 + 2.35 + SILENT_FLOOR_S, abs=0.01)
    assert doubt_of(ask(stream=True), TERMS, load(), 10.0) is None


def test_never_doubted() -> None:
    """A session lives on its node; an unproven node's percentiles are guesses; after the deadline nothing matters."""
    assert doubt_of(ask(session="s"), TERMS, load(), 10.0) is None
    unproven = Terms(**{name: getattr(TERMS, name) for name in Terms.__struct_fields__ if name != "spread_weight"})
    assert doubt_of(ask(), unproven, load(), 10.0) is None
    assert doubt_of(ask(), TERMS, load(deadline_s=10.2), 10.0) is None


def test_looking_again() -> None:
    """After a look that led to nothing the next one is for silence only, no sooner than a second later."""
    doubt = doubt_of(ask(), TERMS, load(), 10.0)
    assert doubt is not None
    again = looked_again(doubt, 0.1, 12.0)
    assert (again.hedge_at_s, again.silent_at_s, again.looked_s) == (math.inf, 12.0 + SILENT_FLOOR_S, 12.0)


def test_allowance_is_a_share_with_a_bounded_burst() -> None:
    """Of a thousand questions twenty, of a hundred two; what was saved for longer is at most the burst."""
    hedges = Allowance(0.02, burst=10, saved=0)
    taken = 0
    for _ in range(1000):
        hedges.earn()
        taken += hedges.take()
    assert taken == 20
    for _ in range(10_000):
        hedges.earn()
    assert sum(hedges.take() for _ in range(100)) == 10
