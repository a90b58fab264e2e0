"""The options stand on real sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from hub import tcp


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield near, far


def test_small_packets_are_sent_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nagle's algorithm is off, which no socket starts with."""
    near, far = pair
    tcp.send_at_once(near)
    states = [bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) for sock in pair]
    assert states == [True, False]
    tcp.acknowledge_at_once(far)  # does not stick, so there is nothing to read back but that it is allowed


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="the platform cannot hold packets back")
def test_a_cork_holds_back_until_it_is_out(
    pair: tuple[socket.socket, socket.socket], eventually: Callable[..., None]
) -> None:
    """What is written in pieces while corked arrives as one; and what has come can be seen without reading it."""
    near, far = pair
    tcp.send_at_once(near)
    tcp.cork(near, on=True)
    near.send(b"to")
    near.send(b"gether")
    assert not tcp.has_more(far)
    tcp.cork(near, on=False)
    eventually(lambda: tcp.has_more(far))
    assert far.recv(100) == b"together"
    assert not tcp.has_more(far)
