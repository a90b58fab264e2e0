"""Engine files read back: what a whole one says, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from exporter.engine_header import CAPABILITIES, read_engine_header
from exporter.errors import EngineError

BODY = b"NGNE" + bytes(100)


def engine(
    bits: int = 0b1000, *, mark: bytes = b"vtrt", layout: int = 2, body: bytes = BODY, extra_bytes: int = 0
) -> bytes:
    """The bytes of an engine that TensorRT-RTX 1.7.1.116 could have written."""
    total = 64 + len(body) + extra_bytes
    head = struct.pack("<4sIQQ", mark, 0, layout, total) + bytes([1, 7, 1, 116]) + b"vtrt"
    return head + struct.pack("<Q16xQ", bits, 24) + body


def test_header_tells_version_capability_and_sizes(tmp_path: Path) -> None:
    """A whole file says what built it, for which GPU, and how long it is."""
    path = tmp_path / "a.engine"
    path.write_bytes(engine())
    header = read_engine_header(path)
    assert header.version == "1.7.1.116"
    assert header.compute_capabilities == ("8.9",)
    assert (header.bytes, header.weights_bytes) == (64 + len(BODY), 24)


def test_each_bit_is_a_capability(tmp_path: Path) -> None:
    """Each capability that the builder has is one bit, and several may be set."""
    path = tmp_path / "a.engine"
    path.write_bytes(engine((1 << len(CAPABILITIES)) - 1))
    assert read_engine_header(path).compute_capabilities == CAPABILITIES


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is no TensorRT-RTX engine"),
        (b"GGUF" + bytes(200), "is no TensorRT-RTX engine"),
        (engine()[:40], "is truncated: it has 40 bytes"),
        (engine()[:-1], "its header says 168: it is truncated or damaged"),
        (engine() + b"more", "its header says 168"),
        (engine(layout=3), "unknown form"),
        (engine(body=b"tail" + bytes(100)), "unknown form"),
        (engine(bits=0), "not known here"),
        (engine(bits=1 << 40), "not known here"),
    ],
)
def test_foreign_or_damaged_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    """What is no whole engine is refused in one line that says why."""
    path = tmp_path / "a.engine"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=why) as caught:
        read_engine_header(path)
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A path without a file is an error of this package, not of the system."""
    with pytest.raises(EngineError, match="cannot be read: No such file"):
        read_engine_header(tmp_path / "none.engine")
