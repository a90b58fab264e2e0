"""The options stand on real sockets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub import tcp
from tests.hub.test_tls import Files


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


def test_what_tls_holds_back_is_seen(tmp_path: Path) -> None:
    """Of a record that was read in part nobody who waits on the socket hears any more; the rest is there."""
    files = Files(tmp_path / "files")
    server, client = files.issue("hub", "h", "localhost").server_context(), files.issue("node", "n").client_context()
    near, far = socket.socketpair()
    told: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: told.append(server.wrap_socket(far, server_side=True)))
    thread.start()
    with client.wrap_socket(near, server_hostname="localhost") as mine:
        thread.join(10)
        told[0].sendall(b"ab")
        assert mine.recv(1) == b"a"
        assert select.select([mine], [], [], 0)[0] == []
        assert tcp.has_pending(mine)
        assert tcp.has_more(mine)
        assert mine.recv(1) == b"b"
        assert not tcp.has_pending(mine)
        told[0].close()
    assert not tcp.has_pending(None)


def test_a_full_socket_takes_nothing_more() -> None:
    """Until the other side has read; also where the descriptor has a high number, which select() does not take."""
    near, far = socket.socketpair()
    high = fcntl.fcntl(near.fileno(), fcntl.F_DUPFD, 1500)
    try:
        assert tcp.takes_more(high, 0)
        near.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                near.send(b"x" * 65_536)
        assert not tcp.takes_more(high, 0)
    finally:
        os.close(high)
        near.close()
        far.close()
