"""Just enough of MQTT 5 for a client that shall cost next to nothing beside what it measures.

Builds and parses the packets of one connection over a plain socket: QoS 1 both ways, each message that comes is
acknowledged at once. Knows nothing of reconnecting, keepalive or wills, and trusts the broker.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from hub.broker_url import BrokerUrl

_CONNACK: Final = 0x20
_PUBLISH: Final = 0x30
_SUBACK: Final = 0x90
_SEGMENT_BYTES: Final = 65_536
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


class Message(NamedTuple):
    """What came on a topic."""

    topic: bytes
    payload: bytes


class BareClient:
    """A connection to `broker` that has subscribed to `topics`. `receive` and `send` are all there is.

    Raises ConnectionError when the broker refuses or goes away.
    """

    def __init__(self, broker: str, client_id: str, topics: Iterable[str]) -> None:
        url = BrokerUrl.parse(broker)
        self.socket = socket.create_connection((url.host, url.port), 10.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        header = text("MQTT") + b"\x05\x02\x00\x00\x00"  # version 5, clean start, no keepalive, no properties
        self.send(_packet(0x10, header + text(client_id)))
        self._expect(_CONNACK, 1)
        self.send(_packet(0x82, b"\x00\x01\x00" + b"".join(text(topic) + b"\x01" for topic in topics)))
        self._expect(_SUBACK, 3)

    def send(self, packets: bytes) -> None:
        """Write whole packets."""
        self.socket.sendall(packets)

    def receive(self, limit_s: float) -> list[Message]:
        """What has come, after waiting at most `limit_s` for anything; all of it is acknowledged."""
        messages, acknowledgements = [], []
        for kind, body in self._read(limit_s):
            if kind & 0xF0 == _PUBLISH:
                message, mid = _message(kind, body)
                messages.append(message)
                if mid is not None:
                    acknowledgements.append(b"\x40\x02" + mid)
        if acknowledgements:
            self.send(b"".join(acknowledgements))
        return messages

    def close(self) -> None:
        """Say goodbye."""
        with contextlib.suppress(OSError):
            self.send(b"\xe0\x00")
        self.socket.close()

    def _expect(self, kind: int, reason_at: int) -> None:
        """Wait for the broker's consent."""
        packets: list[tuple[int, bytes]] = []
        while not packets:
            packets = self._read(10.0)
        got, body = packets[0]
        if got != kind or body[reason_at] >= 0x80:
            raise ConnectionError(f"the broker answered {got:#x} {body.hex()} instead of {kind:#x}: see its log")

    def _read(self, limit_s: float) -> list[tuple[int, bytes]]:
        self.socket.settimeout(max(limit_s, 1e-6))
        try:
            segment = self.socket.recv(_SEGMENT_BYTES)
        except TimeoutError:
            return []
        finally:
            self.socket.settimeout(10.0)
        if not segment:
            raise ConnectionError("the broker has closed the connection: see its log")
        if _QUICKACK is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        self._buffer += segment
        return self._take_packets()

    def _take_packets(self) -> list[tuple[int, bytes]]:
        """All packets that the buffer holds whole."""
        packets, start, buffer = [], 0, self._buffer
        while (head := _varint(buffer, start + 1)) is not None:
            length, body = head
            if body + length > len(buffer):
                break
            packets.append((buffer[start], bytes(buffer[body : body + length])))
            start = body + length
        del buffer[:start]
        return packets


def text(value: str) -> bytes:
    """A string as MQTT writes it.

    >>> text("ab")
    b'\\x00\\x02ab'
    """
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def publish(topic: str, payload: bytes, *, mid: int, retain: bool = False, properties: bytes = b"") -> bytes:
    """A QoS 1 PUBLISH.

    >>> publish("t", b"x", mid=7)
    b'2\\x07\\x00\\x01t\\x00\\x07\\x00x'
    """
    body = text(topic) + struct.pack(">H", mid) + _encoded_varint(len(properties)) + properties + payload
    return _packet(0x33 if retain else 0x32, body)


def _packet(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _encoded_varint(len(body)) + body


def _encoded_varint(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, low = divmod(value, 128)
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _varint(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """The number that begins at `at` and where it ends; None where it is not complete."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return value, at + 1
        at, shift = at + 1, shift + 7
    return None


def _message(kind: int, body: bytes) -> tuple[Message, bytes | None]:
    """The message and, at QoS 1, the packet identifier that its acknowledgement needs."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic, mid = body[2:end], None
    if kind & 0x06:
        mid, end = body[end : end + 2], end + 2
    properties = _varint(body, end)
    assert properties is not None
    return Message(topic, body[properties[0] + properties[1] :]), mid
