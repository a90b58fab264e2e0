"""Only what the W3C's syntax allows is a trace, whoever sent it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.trace_context import MOST_STATE_CHARS, TraceContext, trace_in

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_a_trace_is_carried_as_it_came() -> None:
    """Among other properties, and there and back."""
    given = [("a", "b"), ("traceparent", PARENT), ("tracestate", "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE")]
    found = trace_in(given)
    assert found == TraceContext(PARENT, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
    assert trace_in(found.properties()) == found
    assert trace_in(TraceContext(PARENT).properties()) == TraceContext(PARENT)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        PARENT.upper(),
        f" {PARENT}",
        f"{PARENT}\n",
        f"{PARENT}-more",  # not in version 00
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01".replace("4", "٤"),  # digits of another script
        f"01-{TRACE}-{SPAN}-01-" + "x" * 10_000,
        f"01-{TRACE}-{SPAN}-01x",
    ],
)
def test_what_is_no_trace(parent: str) -> None:
    """It is dropped, and so is whatever comes with it."""
    assert trace_in([("traceparent", parent), ("tracestate", "a=b")]) is None


def test_two_traces_are_none() -> None:
    """Nobody can tell which one is meant."""
    assert trace_in([("traceparent", PARENT), ("traceparent", PARENT)]) is None
    assert trace_in([("tracestate", "a=b")]) is None
    assert trace_in([]) is None


def test_later_versions_are_read_as_far_as_they_are_known() -> None:
    """Flags that nobody knows here are not passed on."""
    found = trace_in([("traceparent", f"cc-{TRACE}-{SPAN}-ff-what.the-future")])
    assert found == TraceContext(PARENT)


@pytest.mark.parametrize(
    "state",
    [
        "a",
        "=b",
        "A=b",
        "a=b,a=c",
        "a=b=c",
        "a=é",
        "a=b\x00",
        "a=" + "x" * MOST_STATE_CHARS,
        ",".join(f"k{n}=v" for n in range(33)),
    ],
)
def test_a_state_that_is_malformed_or_too_long_is_left_out(state: str) -> None:
    """The trace itself goes on."""
    assert trace_in([("traceparent", PARENT), ("tracestate", state)]) == TraceContext(PARENT)


@given(st.lists(st.tuples(st.sampled_from(["traceparent", "tracestate", "x"]), st.text(max_size=80)), max_size=5))
def test_whatever_comes_is_bounded(properties: list[tuple[str, str]]) -> None:
    """Nothing raises, and nothing longer than an id and its state gets through."""
    found = trace_in(properties)
    if found is not None:
        assert len(found.traceparent) == 55
        assert len(found.tracestate) <= MOST_STATE_CHARS
        assert (found.traceparent + found.tracestate).isascii()
