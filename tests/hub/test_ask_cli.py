"""`edge-ask`: the document it prints, its exit codes, and a stream that starts over."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from click.testing import CliRunner

from hub import wire
from hub.ask import Outcome
from hub.ask_cli import _Stream, main, outcome_document

ANSWER = wire.Answer(
    id="1", node="n", bundle="b", finish="stop", attempt=2, text="Paris", tokens=wire.Tokens(prompt=37, completion=8),
    timing_ms=wire.Timing(queue=1.0, prefill=20.0, decode=30.0, compute=51.0),
)  # fmt: skip


def test_answer_document() -> None:
    """The fields of an answer's document are a contract."""
    assert outcome_document(Outcome(reply=ANSWER, total_ms=60.0)) == {
        "id": "1",
        "text": "Paris",
        "finish": "stop",
        "node": "n",
        "bundle": "b",
        "tokens": {"prompt": 37, "cached": 0, "completion": 8},
        "timing_ms": {"total": 60.0, "network": 8.0, "queue": 1.0, "prefill": 20.0, "decode": 30.0},
        "attempts": 2,
    }


def test_what_is_no_text_has_a_field_of_its_own() -> None:
    """Labels, spans and vectors, as objects in JSON, and as JSON where text is printed."""
    span = wire.Span(label="NAME", start=0, end=3, text="Ada", score=0.5)
    for name, value, plain in (
        ("labels", {"yes": 0.75}, {"yes": 0.75}),
        ("embedding", (0.5, 1.0), (0.5, 1.0)),
        ("spans", (span,), ({"label": "NAME", "start": 0, "end": 3, "text": "Ada", "score": 0.5},)),
    ):
        answer = msgspec.structs.replace(ANSWER, text=None, **{name: value})
        document = outcome_document(Outcome(reply=answer, total_ms=60.0))
        assert (document[name], "text" in document) == (plain, False)
        assert json.loads(wire.plain_text(answer)) == json.loads(json.dumps(plain))


def test_failure_document() -> None:
    """A failure's document holds its code and message."""
    failure = wire.Failure(id="1", error=wire.Problem(code="no_node", message="none"))
    assert outcome_document(Outcome(reply=failure, total_ms=5.0)) == {
        "id": "1",
        "error": {"code": "no_node", "message": "none"},
        "timing_ms": {"total": 5.0},
    }


def test_failure_is_exit_code_one(free_port: Callable[[], int]) -> None:
    """Without a broker the deadline ends it: exit code 1, and the document says why."""
    broker = f"mqtt://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(main, ["why?", "--broker", broker, "--deadline-ms", "200", "--device", "d", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["code"] == "deadline"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["why?", "--device", "a/b"], 1),
        (["why?", "--broker", "http://x"], 1),
        (["   "], 1),
        ([], 2),
        (["why?", "--deadline-ms", "0"], 2),
        (["why?", "--temperature", "9"], 2),
    ],
)
def test_wrong_use(arguments: list[str], code: int) -> None:
    """Wrong input is one line and the right exit code, never a traceback."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_stream_shows_the_rest_and_starts_over(capsys: pytest.CaptureFixture[str]) -> None:
    """Chunks are printed as they come, the missing end from the whole; a new attempt is announced."""
    stream = _Stream()
    stream(1, "Lon")
    stream(2, "Pa")
    stream.finish("Paris", 2)
    printed = capsys.readouterr()
    assert printed.out == "LonParis\n"
    assert "starting over, attempt 2" in printed.err


def test_stream_with_a_hole_shows_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a chunk was lost, the whole answer is printed on a line of its own."""
    stream = _Stream()
    stream(1, "ris")
    stream.finish("Paris", 1)
    assert capsys.readouterr().out == "ris\nParis\n"
