"""Files of questions, labels or text for `--eval`."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.errors import CalibrationError
from exporter.graded import GradedRow, read_graded


@pytest.mark.parametrize(
    ("content", "kind", "first"),
    [
        ('{"question": "2+2?", "answers": ["4", "four"]}\n', "questions", GradedRow("2+2?", ("4", "four"))),
        (
            '\n{"text": "Play a song", "label": "play_music", "id": 3}\n',
            "labels",
            GradedRow("Play a song", ("play_music",)),
        ),
        ('{"text": "Once."}\n{"text": "Twice."}\n', "text", GradedRow("Once.")),
        (
            '{"question": "Who?", "context": "Ann did.", "answers": ["Ann"]}\n',
            "passages",
            GradedRow("Who?", ("Ann",), "Ann did."),
        ),
    ],
)
def test_each_kind_is_recognised(content: str, kind: str, first: GradedRow, tmp_path: Path) -> None:
    """The rows tell which kind of file it is; further keys and blank lines do not matter."""
    path = tmp_path / "eval.jsonl"
    path.write_text(content)
    graded = read_graded(path)
    assert (graded.kind, graded.rows[0]) == (kind, first)
    assert graded.origin.startswith("eval.jsonl sha256:")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is empty"),
        (bytes(range(256)), "line 1 is none of"),
        (b'{"question": "q", "answers": []}\n', "line 1 is none of"),
        (b'{"question": "q", "answers": [""]}\n', "line 1 is none of"),
        (b'{"question": "q", "answers": ["a"], "context": " "}\n', "line 1 is none of"),
        (b'{"text": "a", "label": 3}\n', "line 1 is none of"),
        (b'{"text": "a", "label": "x"}\n{"text": "b"}\n', "line 1 is of labels, line 2 of text"),
    ],
)
def test_what_cannot_be_graded_is_refused_with_its_line(content: bytes, named: str, tmp_path: Path) -> None:
    """Empty, binary, mixed or malformed files raise CalibrationError that says where."""
    path = tmp_path / "eval.jsonl"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=named):
        read_graded(path)
