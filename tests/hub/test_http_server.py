"""Where a hub or an agent listens: checked before anything is opened, and closed again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from hub import http_server
from hub.errors import ListenError
from hub.http_server import Address, HttpServer, read_keys, refuse_open

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nbod"


def to_the_end(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    said = b""
    while part := connection.recv(1000):
        said += part
    return said


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The smallest ASGI application."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.parametrize(
    ("text", "host", "port", "on_loopback"),
    [
        ("8080", "127.0.0.1", 8080, True),
        ("localhost:1", "localhost", 1, True),
        ("127.9.9.9:1", "127.9.9.9", 1, True),
        ("[::1]:65535", "::1", 65535, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("[::]:80", "::", 80, False),
        ("box.lan:80", "box.lan", 80, False),
    ],
)
def test_addresses(text: str, host: str, port: int, on_loopback: bool) -> None:
    """A bare port is on loopback; only loopback needs no keys."""
    address = Address.parse(text)
    assert (address.host, address.port, address.on_loopback) == (host, port, on_loopback)
    if on_loopback:
        refuse_open(address, (), "--token-file")
    else:
        with pytest.raises(ListenError, match="give --token-file"):
            refuse_open(address, (), "--token-file")
        refuse_open(address, ("a-key-of-some-length",), "--token-file")


@pytest.mark.parametrize("text", ["", "http", "127.0.0.1:", ":80", "host:70000", "1.2.3.4:-1", "host:²"])
def test_what_is_no_address(text: str) -> None:
    """The error shows it and says what one looks like."""
    with pytest.raises(ListenError, match="no address to listen on"):
        Address.parse(text)


def test_keys(tmp_path: Path) -> None:
    """One a line, comments and blank lines apart; short, missing and unreadable ones are refused."""
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst-key-long-enough\n\n  second-key-long-enough  \n")
    assert read_keys(path) == ("first-key-long-enough", "second-key-long-enough")
    for content, named in ((b"", "no key"), (b"short\n", "16 characters"), (b"\xff" * 20, "cannot be read")):
        path.write_bytes(content)
        with pytest.raises(ListenError, match=named):
            read_keys(path)
    with pytest.raises(ListenError, match="cannot be read"):
        read_keys(tmp_path)


def test_it_serves_until_it_is_stopped(eventually: Callable[..., None]) -> None:
    """Port 0 takes a free one; a port that is taken is one line; after the end nobody listens."""
    server = HttpServer(hello, Address("127.0.0.1", 0))
    server.start()
    url = f"http://{server.address}"

    def answers() -> bool:
        return httpx.get(url).text == "hello"

    eventually(answers)
    with pytest.raises(ListenError, match="cannot listen on"):
        HttpServer(hello, server.address)
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_who_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]) -> None:
    """Also in the middle of a request's head, be it the first or the next one: a byte of it holds no connection."""
    monkeypatch.setattr(http_server, "_HEAD_S", 0.2)
    server = HttpServer(hello, Address("127.0.0.1", 0))
    server.start()
    eventually(lambda: server._server.started)
    try:
        for said in (b"", b"GET / HT"):
            with socket.create_connection((server.address.host, server.address.port), timeout=30) as silent:
                silent.sendall(said)
                assert silent.recv(100) in (b"", b"HTTP/1.1 400 Bad Request"[:100])
        for said in (REQUEST, REQUEST + b"G", REQUEST + b"POST / HTTP/1.1\r\nHost", POST):
            with socket.create_connection((server.address.host, server.address.port), timeout=30) as silent:
                silent.sendall(said)
                assert b"hello" in to_the_end(silent)
    finally:
        server.stop()


def test_who_asks_in_time_may_ask_again_and_wait_for_the_answer(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """No answer is cut off for the time that it takes, nor what was asked meanwhile."""
    monkeypatch.setattr(http_server, "_HEAD_S", 0.5)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.7)
        await hello(scope, receive, send)

    server = HttpServer(slow, Address("127.0.0.1", 0))
    server.start()
    eventually(lambda: server._server.started)
    try:
        with socket.create_connection((server.address.host, server.address.port), timeout=30) as asking:
            asking.sendall(REQUEST + REQUEST)
            assert to_the_end(asking).count(b"hello") == 2
    finally:
        server.stop()


def test_who_stops_reading_in_the_middle_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """While the answer is still being sent; who reads on gets all of it."""
    monkeypatch.setattr(http_server, "_TAKES_S", 0.5)
    part = bytes(1024 * 1024)

    async def long(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    server = HttpServer(long, Address("127.0.0.1", 0))
    server.start()
    eventually(lambda: server._server.started)
    try:
        reading = socket.create_connection((server.address.host, server.address.port), timeout=30)
        idle = socket.create_connection((server.address.host, server.address.port), timeout=30)
        with reading, idle:
            idle.sendall(REQUEST)
            reading.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            got = 0
            while got_now := len(reading.recv(65_536)):
                got += got_now
            assert got > 64 * len(part)
            eventually(lambda: not server._server.server_state.connections)
    finally:
        server.stop()


def test_who_does_not_read_the_answer_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """It would hold its connection for good."""
    monkeypatch.setattr(http_server, "_HEAD_S", 0.1)
    monkeypatch.setattr(http_server, "_TAKES_S", 0.1)

    async def long(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(32 * 1024 * 1024)})

    server = HttpServer(long, Address("127.0.0.1", 0))
    server.start()
    eventually(lambda: server._server.started)
    try:
        with socket.create_connection((server.address.host, server.address.port), timeout=30) as asking:
            asking.sendall(REQUEST)
            assert asking.recv(4)
            eventually(lambda: not server._server.server_state.connections)
    finally:
        server.stop()
