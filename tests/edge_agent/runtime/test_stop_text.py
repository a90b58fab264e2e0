"""An answer ends before the first stop, however it is cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.runtime.stop_text import StopText

few = st.text("ab<", max_size=30)


@given(few, st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3), st.lists(st.integers(1, 5), max_size=30))
def test_pieces_do_not_matter(text: str, stops: list[str], sizes: list[int]) -> None:
    """What is given out is the text before the earliest stop, and none of a stop is ever shown."""
    stop = StopText(stops)
    given_out, start = "", 0
    for size in [*sizes, len(text)]:
        given_out += stop.push(text[start : start + size])
        start += size
    ended = given_out + stop.finish()
    # A stop is found as soon as all of it has come, so one that is complete first wins.
    complete = [(place + len(one), place) for one in stops if (place := text.find(one)) >= 0]
    assert stop.found == bool(complete)
    if not complete:
        assert ended == text
    else:
        assert ended in {text[:place] for _, place in complete}
        assert not any(one in ended for one in stops)


def test_without_stops_nothing_is_held_back() -> None:
    """Each piece comes out as it went in."""
    assert StopText([]).push("piece") == "piece"
