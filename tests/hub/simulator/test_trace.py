"""Traces: read, drawn, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hub.errors import SimulationError
from hub.simulator.trace import generated, open_trace, read_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_trace_is_read_in_order_of_arrival(tmp_path: Path) -> None:
    """Seven digits of a second, columns in any order, lines in any order; gaps have the mean 1."""
    header = "GeneratedTokens,TIMESTAMP,ContextTokens\n"
    text = header + "9,2023-11-16 18:15:49.0000000,30\n44,2023-11-16 18:15:46.6805900,374\n"
    trace = read_trace(written(tmp_path / "t.csv", text + "7,2023-11-16 18:15:50.0000000,20\n\n"))
    assert trace.prompt_tokens.tolist() == [374, 30, 20]
    assert trace.answer_tokens.tolist() == [44, 9, 7]
    assert trace.gaps.mean() == pytest.approx(1.0)
    assert trace.gaps[1] / trace.gaps[2] == pytest.approx(2.31941, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column TIMESTAMP"),
        ("TIMESTAMP,ContextTokens\n", "no column GeneratedTokens"),
        (HEADER, "has 0 questions"),
        (HEADER + "2023-11-16 18:15:46,1,1\nsoon,1,1\n", "line 3"),
        (HEADER + "2023-11-16 18:15:46,1,1\n2023-11-16 18:15:47,1\n", "line 3"),
        (HEADER + "2023-11-16 18:15:46,0,1\n2023-11-16 18:15:47,1,1\n", "line 2"),
        (HEADER + "NaT,1,1\n2023-11-16 18:15:47,1,1\n", "line 2"),
        (HEADER + "2023-11-16 18:15:46,1,1\n" * 3, "the same time"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """With the line."""
    with pytest.raises(SimulationError, match=said):
        read_trace(written(tmp_path / "t.csv", text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The message says what else could be given."""
    with pytest.raises(SimulationError, match="or one of conversation, short"):
        open_trace(str(tmp_path / "none.csv"), 0)


def test_generated_traces_have_the_percentiles_they_are_named_for() -> None:
    """Azure's conversations, and short questions; the same for the same seed."""
    talk = generated("conversation", np.random.default_rng(3))
    assert np.percentile(talk.answer_tokens, (10, 50, 90)) == pytest.approx((54, 129, 424), rel=0.05)
    assert np.percentile(talk.prompt_tokens, (10, 50, 90)) == pytest.approx((207, 1020, 2734), rel=0.15)
    assert talk.gaps.std() == pytest.approx(2.0, rel=0.1)
    short = generated("short", np.random.default_rng(3))
    assert (short.prompt_tokens.min(), short.prompt_tokens.max()) == (20, 60)
    assert (short.answer_tokens.min(), short.answer_tokens.max()) == (4, 24)
    assert short.gaps.std() == pytest.approx(1.0, rel=0.1)
    assert (open_trace("short", 5).gaps == open_trace("short", 5).gaps).all()


def test_a_trace_is_told_again_where_it_is_too_short() -> None:
    """And cut where it is too long."""
    trace = generated("short", np.random.default_rng(0), questions=10)
    assert trace.of(25).answer_tokens[10:20].tolist() == trace.answer_tokens.tolist()
    assert len(trace.of(3).gaps) == 3
