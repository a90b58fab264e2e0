"""A connection by TLS is made without anybody waiting for it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hub import dial
from hub.dial import Dial
from hub.errors import IdentityError
from hub.tls import Tls
from tests.hub.test_tls import Files


def ended(attempt: Dial, limit_s: float = 10.0) -> bool:
    return bool(select.select([attempt], [], [], limit_s)[0])


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Tls, Tls]:
    """A server's and a client's."""
    files = Files(tmp_path / "files")
    return files.issue("hub", "h", "127.0.0.1"), files.issue("node", "n")


def test_a_connection_is_there_once_it_can_be_read(tls: tuple[Tls, Tls]) -> None:
    """What is taken has shaken hands and carries bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as plain, tls[0].server_context().wrap_socket(plain, server_side=True) as secured:
                secured.sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        attempt = Dial("127.0.0.1", server.getsockname()[1], tls[1])
        assert ended(attempt)
        with attempt.take() as secured:
            assert secured.recv(5) == b"hello"
        thread.join(10)


def test_who_says_nothing_is_given_up(tls: tuple[Tls, Tls], monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that stands still takes the connection and never shakes hands."""
    monkeypatch.setattr(dial, "LIMIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempt = Dial("127.0.0.1", server.getsockname()[1], tls[1])
        assert not ended(attempt, 0.0)
        assert ended(attempt)
        with pytest.raises(TimeoutError):
            attempt.take()


def test_what_goes_wrong_is_raised_to_who_takes_it(tls: tuple[Tls, Tls], free_port: Callable[[], int]) -> None:
    """Nobody there, or a file that has gone since."""
    nobody = Dial("127.0.0.1", free_port(), tls[1])
    assert ended(nobody)
    with pytest.raises(ConnectionRefusedError):
        nobody.take()
    gone = Dial("127.0.0.1", 1, Tls(Path("/nowhere.pem")))
    assert ended(gone)
    with pytest.raises(IdentityError):
        gone.take()


def test_what_is_not_wanted_any_more_is_closed(tls: tuple[Tls, Tls]) -> None:
    """The other side sees the end of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempt = Dial("127.0.0.1", server.getsockname()[1], tls[1])
        plain = server.accept()[0]
        attempt.abandon()
        with plain, tls[0].server_context().wrap_socket(plain, server_side=True) as secured:
            secured.settimeout(10)
            with contextlib.suppress(ssl.SSLEOFError):
                assert secured.recv(1) == b""
