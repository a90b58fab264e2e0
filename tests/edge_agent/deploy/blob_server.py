"""A real HTTP server with blobs and moods: it breaks off, lies, redirects, or is slow, as it is told to."""

from __future__ import annotations

import hashlib
import random
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class BlobServer:
    """Serves `blobs` on loopback; each request uses up one of `moods`, and is answered as it should be without any."""

    def __init__(self, *blobs: bytes, tls: ssl.SSLContext | None = None) -> None:
        self.blobs = {hashlib.sha256(blob).hexdigest(): blob for blob in blobs}
        self.moods: list[Callable[[Request, bytes], None]] = []
        self.always: Callable[[Request, bytes], None] = proper
        self.ranges: list[str | None] = []  # of each request
        self.peers: list[Any] = []
        self.sent = 0
        server = self

        class Handler(Request):
            of = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # broken connections are the point
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class Request(BaseHTTPRequestHandler):
    """One request, and what a mood needs to answer it."""

    of: BlobServer

    def do_GET(self) -> None:
        self.of.ranges.append(self.headers.get("Range"))
        if isinstance(self.connection, ssl.SSLSocket):
            self.of.peers.append(self.connection.getpeercert())
        mood = self.of.moods.pop(0) if self.of.moods else self.of.always
        blob = self.of.blobs.get(self.path.removeprefix("/blobs/"))
        if blob is None:
            self.answer(404, {"Content-Length": "0"})
        else:
            mood(self, blob)

    @property
    def first(self) -> int:
        """The byte from which on the rest is wanted."""
        return int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self.of.sent += len(body)

    def part(self, blob: bytes, body: bytes | None = None) -> None:
        """What is wanted of `blob`, but `body` in its place."""
        rest = blob[self.first :]
        headers = {"Content-Length": str(len(rest))}
        if self.headers.get("Range"):
            headers["Content-Range"] = f"bytes {self.first}-{len(blob) - 1}/{len(blob)}"
        self.answer(206 if self.headers.get("Range") else 200, headers, rest if body is None else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def proper(request: Request, blob: bytes) -> None:
    """As it should be."""
    request.part(blob)


def breaks_off(chance: random.Random) -> Callable[[Request, bytes], None]:
    """Ends the connection after some of the bytes, or none."""

    def mood(request: Request, blob: bytes) -> None:
        rest = blob[request.first :]
        request.part(blob, rest[: chance.randrange(len(rest))])
        request.close_connection = True

    return mood


def knows_no_ranges(request: Request, blob: bytes) -> None:
    """All of it, whatever was asked for."""
    request.answer(200, {"Content-Length": str(len(blob))}, blob)


def says(status: int, **headers: str) -> Callable[[Request, bytes], None]:
    """This status, without a body."""
    return lambda request, blob: request.answer(status, {"Content-Length": "0", **headers})


def gives(body: bytes, **headers: str) -> Callable[[Request, bytes], None]:
    """This body with status 200."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, blob: request.answer(200, {"Content-Length": str(len(body)), **named}, body)


def other_bytes(request: Request, blob: bytes) -> None:
    """As many, and not the same."""
    request.part(blob, bytes(len(blob) - request.first))


def endless(request: Request, blob: bytes) -> None:
    """Without a length, and more than there should be."""
    request.answer(200, {})
    try:
        for _ in range(10_000):
            request.wfile.write(bytes(65536))
    except OSError:
        request.close_connection = True


def another_range(request: Request, blob: bytes) -> None:
    """A range that was not asked for."""
    request.answer(206, {"Content-Range": f"bytes 0-{len(blob) - 1}/{len(blob)}", "Content-Length": "5"}, blob[:5])


class Silent:
    """Sends some bytes, then nothing until it is let go."""

    def __init__(self, first_bytes: int) -> None:
        self.first_bytes = first_bytes
        self.began = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, request: Request, blob: bytes) -> None:
        if self.first_bytes >= 0:
            request.part(blob, blob[request.first :][: self.first_bytes])
        self.began.set()
        self.let_go.wait(30)
        request.close_connection = True
