"""Walking protobuf: what google's own encoder writes is read, what could be read in two ways is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto

from edge_agent.protobuf import BYTES, FIXED32, VARINT, WireError, count_varints, fields, signed, varints


@given(st.integers(-(2**63), 2**63 - 1), st.floats(width=32, allow_nan=False), st.binary(max_size=40))
def test_it_reads_what_protobuf_writes(number: int, real: float, text: bytes) -> None:
    """Numbers of both signs, floats and bytes, by number and wire type."""
    payload = AttributeProto(i=number, f=real, s=text).SerializeToString()
    read = {field: (wire, value, bytes(part)) for field, wire, value, part in fields(memoryview(payload))}
    assert (read[3][0], signed(read[3][1])) == (VARINT, number)
    assert (read[2][0], len(read[2][2])) == (FIXED32, 4)
    assert (read[4][0], read[4][2]) == (BYTES, text)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_packed_numbers_are_read_and_counted(numbers: list[int]) -> None:
    """Counting sees as many as reading."""
    payload = bytearray()
    for number in numbers:
        while number > 0x7F:
            payload.append(number & 0x7F | 0x80)
            number >>= 7
        payload.append(number)
    view = memoryview(bytes(payload))
    assert list(varints(view)) == numbers
    assert count_varints(view) == len(numbers)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(payload: bytes) -> None:
    """Any bytes are fields within their message, or a WireError."""
    try:
        inside = sum(len(part) for _, _, _, part in fields(memoryview(payload)))
    except WireError:
        return
    assert inside <= len(payload)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\x80", "cut"),
        (b"\x08\x80\x00", "needless bytes"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x08" + b"\xff" * 11, "more than 10 bytes"),
        (b"\x00", "field number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x0a\x02x", "2 bytes where 1 are left"),
        (b"\x0d\x00\x00\x00", "4 bytes where 3 are left"),
        (b"\x09\x00", "8 bytes where 1 are left"),
    ],
)
def test_what_is_ambiguous_is_refused(payload: bytes, words: str) -> None:
    """Protobuf's own parsers take some of these, each in its way."""
    with pytest.raises(WireError, match=words):
        list(fields(memoryview(payload)))


@pytest.mark.parametrize("payload", [b"\x80", b"\x80" * 10 + b"\x00"])
def test_packed_numbers_that_are_cut_or_too_long_are_refused(payload: bytes) -> None:
    """Also where they are only counted."""
    with pytest.raises(WireError):
        count_varints(memoryview(payload))
