"""Runs an ASGI application in a thread of its own, on an address that was checked first.

Knows nothing of what is served.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hub.errors import ListenError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

MOST_CONNECTIONS: Final = 512
_LEAST_KEY_CHARS: Final = 16
_HEAD_S: Final = 10.0  # from a connection, or the end of an answer, to the end of the next request's head
_TAKES_S: Final = 60.0  # what waits to be sent, from when the other side does not keep up, or the connection is closed
_GRACE_S: Final = 3  # for answers under way when the server ends


class Address(msgspec.Struct, frozen=True):
    """Where to listen.

    >>> Address.parse("8080"), Address.parse("0.0.0.0:80").on_loopback, Address.parse("[::1]:80").on_loopback
    (Address(host='127.0.0.1', port=8080), False, True)
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`PORT` (on loopback) or `HOST:PORT`. Raises ListenError."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not port.isascii() or not port.isdigit() or int(port) > 65_535 or (colon and not host):
            raise ListenError(f"{text!r} is no address to listen on: give PORT or HOST:PORT, like 127.0.0.1:8080")
        return cls(host or "127.0.0.1", int(port))

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


LOOPBACK: Final = Address("127.0.0.1", 0)  # any free port of this machine's own


def read_keys(path: Path) -> tuple[str, ...]:
    """Keys, one a line; blank lines and those that begin with # do not count. Raises ListenError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ListenError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    keys = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not keys:
        raise ListenError(f"{path} holds no key: write one a line, at least {_LEAST_KEY_CHARS} characters each")
    if any(len(key) < _LEAST_KEY_CHARS or not key.isascii() for key in keys):
        raise ListenError(f"{path}: each key needs at least {_LEAST_KEY_CHARS} characters, all of them ASCII")
    return keys


def refuse_open(address: Address, keys: Sequence[str], option: str) -> None:
    """Raise ListenError for an address that others reach, without the keys that `option` of the command gives."""
    if not address.on_loopback and not keys:
        raise ListenError(f"{address} can be reached from other machines: give {option}, or listen on 127.0.0.1")


class HttpServer:
    """Serves `application` at `address` from `start` to `stop`; by HTTPS with `tls`."""

    def __init__(self, application: Callable[..., Any], address: Address, *, tls: ssl.SSLContext | None = None) -> None:
        """Bind the address. Raises ListenError if it cannot be had, or uvicorn is not there."""
        try:
            import uvicorn
        except ImportError as error:
            raise ListenError(f"uvicorn cannot be imported ({error}): install edgefleet[hub] or [agent]") from None
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((address.host, address.port))
        except OSError as error:
            self._socket.close()
            raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from None
        self.address = Address(address.host, self._socket.getsockname()[1])
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
            http=_impatient(),
            ssl_context_factory=None if tls is None else lambda config, make: tls,
        )
        self._has_tls = tls is not None
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Serve from now."""
        self._thread.start()

    def stop(self) -> None:
        """End; answers under way have a few seconds."""
        self._server.should_exit = True
        self._thread.join(_GRACE_S + 2)
        self._socket.close()

    def _run(self) -> None:
        import asyncio

        asyncio.run(self._serve())

    async def _serve(self) -> None:
        """uvicorn leaves the time for a TLS handshake at asyncio's minute; it is of the time for a head here."""
        import asyncio

        if self._has_tls:
            loop = asyncio.get_running_loop()
            in_time = functools.partial(loop.create_server, ssl_handshake_timeout=_HEAD_S)
            loop.create_server = in_time  # type: ignore[method-assign]
        await self._server.serve(sockets=[self._socket])


def _impatient() -> Any:
    """uvicorn's protocol, but for connections that send no whole head of a request within `_HEAD_S`, or do not read
    what they are sent within `_TAKES_S`: these are closed.

    uvicorn's own time limit, between two requests, ends with the next byte, and it has none for the first request: so
    whoever opens connections and says little would hold all of them. Nor has it one for an answer that nobody reads.
    """
    import asyncio

    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        _limit: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._limit = self.loop.call_later(_HEAD_S, self._close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._unlimited()
            self._read_on()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._read_on()
            self._unread = self.loop.call_later(_TAKES_S, self.transport.abort)

        def resume_writing(self) -> None:
            self._read_on()
            super().resume_writing()

        def handle_events(self) -> None:
            before = self.cycle
            super().handle_events()
            if self.cycle is not before and not self.cycle.response_complete:  # a request's head is complete
                self._unlimited()

        def on_response_complete(self) -> None:
            self._unlimited()
            self._limit = self.loop.call_later(_HEAD_S, self._close)
            super().on_response_complete()

        def _close(self) -> None:
            self.transport.close()
            self._limit = self.loop.call_later(_TAKES_S, self.transport.abort)

        def _read_on(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _unlimited(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

    return Impatient
