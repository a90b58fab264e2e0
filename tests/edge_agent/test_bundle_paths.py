"""What files of a bundle may be called, and how large they may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.bundle_paths import MAX_PATH_CHARS, collision, path_refusal, size_refusal


@pytest.mark.parametrize(
    "path",
    [
        "manifest.json", "model.sig", "report.html", "model/decoder.onnx", "model/decoder.onnx.data", "model/__x.onnx",
        "tokenizer/chat_template.jinja", "engines/tensorrt-rtx-8.9.engine", "model/stage-1/decoder_1+2.onnx",
    ],
)  # fmt: skip
def test_what_the_exporter_writes_is_taken(path: str) -> None:
    """Every kind of file that a bundle has."""
    assert path_refusal(path) is None
    assert size_refusal(path, 1) is None


@given(st.text(max_size=MAX_PATH_CHARS))
def test_a_path_that_is_taken_is_plain(path: str) -> None:
    """Whatever is taken is ASCII without anything that a shell, a terminal or another file system reads otherwise."""
    if path_refusal(path) is None:
        assert path.isascii()
        assert path.isprintable()
        assert not set(path) & set(" \\:*?\"'<>|~$&;()[]{}")
        assert all(part and not part.startswith((".", "-")) and not part.endswith(".") for part in path.split("/"))


@pytest.mark.parametrize(
    ("path", "size_bytes", "taken"),
    [
        ("model/decoder.onnx", 256 * 2**20, True),
        ("model/decoder.onnx", 256 * 2**20 + 1, False),
        ("model/decoder.onnx.data", 2**36, True),
        ("tokenizer/tokenizer.json", 2**26 + 1, False),
        ("tokenizer/x/tokenizer.json", 2**24 + 1, False),
        ("manifest.json", 2**22 + 1, False),
        ("model", 1, False),
        ("other/x", 1, False),
        ("report.html.exe", 1, False),
    ],
)
def test_sizes_depend_on_the_kind(path: str, size_bytes: int, taken: bool) -> None:
    """What a parser reads whole is small; weights are not."""
    assert (size_refusal(path, size_bytes) is None) is taken


def test_only_case_makes_a_collision() -> None:
    """On some file systems two such names are one file."""
    assert collision(["model/a", "model/b", "model/a.b"]) is None
    assert collision(["model/a", "MODEL/A"]) == ("model/a", "MODEL/A")
