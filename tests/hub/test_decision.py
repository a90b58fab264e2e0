"""The terms of a delay."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hub.decision import Decision, Rejected, Terms

milliseconds = st.floats(0, 1e6)
terms = st.builds(
    Terms,
    node=st.just("n"),
    bundle=st.just("b"),
    **dict.fromkeys(
        ("network_ms", "wait_ms", "fixed_ms", "prefill_ms", "decode_ms", "prompt_tokens", "completion_tokens"),
        milliseconds,
    ),
)


@given(terms, st.floats(0, 1e6))
def test_no_term_makes_it_sooner(one: Terms, more: float) -> None:
    """A longer wait, way or computation never shortens the delay by more than it travels along."""
    assert one.delay_ms >= one.network_ms + one.fixed_ms + one.prefill_ms + one.decode_ms
    longer = msgspec.structs.replace(one, wait_ms=one.wait_ms + more)
    assert longer.delay_ms >= one.delay_ms
    farther = msgspec.structs.replace(one, network_ms=one.network_ms + more)
    assert farther.delay_ms >= one.delay_ms


@given(terms)
def test_decisions_survive_json(one: Terms) -> None:
    """What is kept of a decision is the whole of it."""
    decision = Decision(
        device="d", id="q", attempt=1, chosen=one, candidates=(one,), rejected=(Rejected("m", "b: draining"),)
    )
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision
