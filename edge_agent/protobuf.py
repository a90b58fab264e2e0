"""Walks the fields of one protobuf message, stricter than protobuf itself: what could be read in two ways is refused.

Encoding: https://protobuf.dev/programming-guides/encoding/. Values are views of the bytes given, so nothing is copied.
Refused are groups and unknown wire types, field numbers out of range, numbers with needless or more than 10 bytes, and
fields that do not end within their message. Knows nothing of what the fields mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

_MAX_FIELD: Final = 2**29 - 1
_MAX_VARINT_BYTES: Final = 10
_VARINTS: Final = re.compile(rb"(?:[\x80-\xff]{0,9}[\x00-\x7f])*")
_CONTINUED: Final = bytes(range(128, 256))


class WireError(ValueError):
    """These bytes are no protobuf message, or one that is written ambiguously."""


def fields(view: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """Field number, wire type, number and bytes of each field, in order; of the last two the wire type fills one.

    >>> message = memoryview(b"\\x08\\x05\\x12\\x01x")
    >>> [(field, wire, number, bytes(part)) for field, wire, number, part in fields(message)]
    [(1, 0, 5, b''), (2, 2, 0, b'x')]

    Raises WireError at the first byte that is wrong, after the fields before it were given.
    """
    position, end = 0, len(view)
    nothing = view[:0]
    while position < end:
        key, position = _varint(view, position, end)
        field, wire = key >> 3, key & 7
        if not 0 < field <= _MAX_FIELD:
            raise WireError(f"field number {field}")
        if wire == VARINT:
            number, position = _varint(view, position, end)
            yield field, wire, number, nothing
            continue
        if wire == BYTES:
            size, position = _varint(view, position, end)
        elif wire in (FIXED32, FIXED64):
            size = 8 if wire == FIXED64 else 4
        else:
            raise WireError(f"wire type {wire} of field {field}")
        if size > end - position:
            raise WireError(f"field {field} of {size} bytes where {end - position} are left")
        yield field, wire, 0, view[position : position + size]
        position += size


def signed(number: int) -> int:
    """What an int64 or int32 field says: negative numbers are written as 64 bits in two's complement.

    >>> signed(2**64 - 1)
    -1
    """
    return number - (1 << 64) if number >= 1 << 63 else number


def varints(view: memoryview) -> Iterator[int]:
    """The numbers of a packed field. Raises WireError."""
    position, end = 0, len(view)
    while position < end:
        number, position = _varint(view, position, end)
        yield number


def count_varints(view: memoryview) -> int:
    """How many numbers a packed field holds, without reading each. Raises WireError if one is cut or too long.

    >>> count_varints(memoryview(b"\\x01\\x96\\x01"))
    2
    """
    payload = bytes(view)
    if _VARINTS.fullmatch(payload) is None:
        raise WireError("packed numbers that are cut, or of more than 10 bytes")
    return len(payload.translate(None, _CONTINUED))


def _varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise WireError("a number with needless bytes")
            if value >> 64:
                raise WireError("a number of more than 64 bits")
            return value, position
        shift += 7
        if shift >= 7 * _MAX_VARINT_BYTES:
            raise WireError("a number of more than 10 bytes")
    raise WireError("a number that is cut")
