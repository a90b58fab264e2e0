"""What does a TensorRT-RTX engine file say of itself, before any GPU has seen it?

The first 64 bytes (`Runtime.engine_header_size`) hold, little-endian: the mark `vtrt`, a format number (2), the bytes
of the whole file, the four numbers of the TensorRT-RTX version, the mark again, one bit for each compute capability
that it was built for, and the bytes of its weights. NVIDIA does not document them; they were read off engines that
1.7.1 built for each capability and for several at once, and a test builds such engines and compares. The runtime's own
check (`Runtime.get_engine_validity`) needs a GPU for everything but the first mark.

Knows nothing of TensorRT itself, so it also reads where that is not installed.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import msgspec

from exporter.errors import EngineError

CAPABILITIES: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # bit 0 and up; what TensorRT-RTX builds for
_HEADER: Final = struct.Struct("<4sIQQ4B4sQ16xQ")
_MARK: Final = b"vtrt"
_FORMAT: Final = 2
_BODY_MARK: Final = b"NGNE"


class EngineHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What the header says. `bytes` is the length of the file, `weights_bytes` that of the weights in it."""

    version: str
    compute_capabilities: tuple[str, ...]
    bytes: int
    weights_bytes: int


def read_engine_header(path: Path) -> EngineHeader:
    """The header of the engine at `path`.

    Raises EngineError for a file that is no TensorRT-RTX engine, or not a whole one.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size + len(_BODY_MARK))
        there = path.stat().st_size
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}") from None
    if not head.startswith(_MARK):
        raise EngineError(f"{path} is no TensorRT-RTX engine: it does not begin with {_MARK.decode()!r}")
    if len(head) < _HEADER.size + len(_BODY_MARK):
        raise EngineError(f"{path} is truncated: it has {there} bytes, its header alone has {_HEADER.size}")
    _, _, layout, total, *version, mark, bits, weights = _HEADER.unpack_from(head)
    if layout != _FORMAT or mark != _MARK or head[_HEADER.size :] != _BODY_MARK:
        raise EngineError(
            f"{path} has a header of an unknown form ({layout}): it may come from another TensorRT: build it anew"
        )
    if total != there:
        raise EngineError(f"{path} has {there} bytes, its header says {total}: it is truncated or damaged")
    known = tuple(name for bit, name in enumerate(CAPABILITIES) if bits >> bit & 1)
    if not known or bits >> len(CAPABILITIES):
        raise EngineError(f"{path} is built for compute capabilities that are not known here (bits {bits:#x})")
    return EngineHeader(
        version=".".join(str(number) for number in version),
        compute_capabilities=known,
        bytes=total,
        weights_bytes=weights,
    )
