"""Fetches one file by its SHA-256 over HTTPS: `GET {source}/blobs/{sha256}`, from wherever it broke off last.

What has come lies in the `.part` file and is hashed again before more is asked for. Sources are tried in turn; where
all fail, after a pause, as long as bytes still come and a bounded number of times after that. A source that gives other
bytes, more bytes, or sends elsewhere, is not asked again for this file. Only https is spoken, with the caller's TLS
context (its certificates, its host name check); plain http to loopback only, for tests.

Any thread may stop it: the socket is shut down, and pauses end. Knows nothing of bundles.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from edge_agent.deploy.disk import Disk
from edge_agent.deploy.pace import TokenBucket, pause_s
from edge_agent.deploy.partial import Blob, Broken, Partial, Wrong
from edge_agent.errors import DeployError, FetchBroken
from hub.errors import IdentityError

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection

log = logging.getLogger(__name__)

MOST_TRIES: Final = 5  # rounds in which no byte came
TIMEOUT_S: Final = 20.0  # without a byte
CHUNK_BYTES: Final = 64 * 1024


class Stopped(Exception):  # no error: somebody did not want it any more
    """The fetching was stopped from another thread."""


class Stop:
    """Says, from any thread, that work is not wanted any more."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def set(self) -> None:
        """Stop, and take no more from the network."""
        self._event.set()
        with self._lock:
            if self._socket is not None:
                with contextlib.suppress(OSError):  # of the socket below TLS, which another thread is reading from
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    @property
    def is_set(self) -> bool:
        """Whether it was said."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Pause. Raises Stopped as soon as that is said."""
        if self._event.wait(seconds) if seconds > 0 else self._event.is_set():
            raise Stopped

    @contextlib.contextmanager
    def ends(self, connection: HTTPConnection) -> Iterator[None]:
        """Connect; while this lasts, `set` ends the connection, which itself forgets the socket of its last answer."""
        try:
            connection.connect()
            with self._lock:
                self._socket = connection.sock
            self.wait(0)
            yield
        finally:
            with self._lock:
                self._socket = None
            connection.close()


class Fetcher:
    """Fetches files at no more than `bytes_per_s` in all. With `tls` None only plain http to loopback is spoken.

    `tls` is called for each connection, so that a renewed certificate counts; where it raises IdentityError, it is
    called again later, as a network is tried again.
    """

    def __init__(
        self,
        tls: Callable[[], ssl.SSLContext] | None,
        *,
        bytes_per_s: float | None = None,
        chance: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[int, float], float] = pause_s,
        timeout_s: float = TIMEOUT_S,
        most_tries: int = MOST_TRIES,
        disk: Disk | None = None,
    ) -> None:
        self._tls = tls
        self._bucket = TokenBucket(bytes_per_s)
        self._chance = random.Random() if chance is None else chance  # noqa: S311  # jitter, no secret
        self._clock = clock
        self._pause = pause
        self._timeout_s = timeout_s
        self._most_tries = most_tries
        self._disk = Disk() if disk is None else disk

    def fetch(self, blob: Blob, sources: Sequence[str], part: Path, on_bytes: Callable[[int], None], stop: Stop) -> int:
        """Bring the whole file to `part`, synced; its bytes. `on_bytes` hears of each piece that came.

        Raises FetchBroken where it did not come now, DeployError where no source has it, Stopped, OSError of the disk.
        """
        asked = list(dict.fromkeys(sources))
        faults = {source: fault for source in asked if (fault := self._address_fault(source))}
        tries, last = 0, ""
        partial = Partial(blob, part, self._disk)
        while True:
            left = [source for source in asked if source not in faults]
            if not left:
                said = "; ".join(f"{source}: {fault}" for source, fault in faults.items()) or "no source is named"
                raise DeployError(f"{blob.sha256[:12]} cannot be had: {said}")
            before = partial.received
            for source in left:
                stop.wait(0)
                try:
                    self._ask(source, partial, on_bytes, stop)
                    return partial.finish(source)
                except Wrong as fault:
                    log.warning("%s does not have %s: %s", source, blob.sha256, fault)
                    faults[source] = str(fault)
                except Broken as fault:
                    last = f"{source}: {fault}"
                    log.info("fetching %s broke: %s", blob.sha256, last)
            tries = 0 if partial.received > before and not partial.was_wrong else tries + 1
            if tries >= self._most_tries:
                raise FetchBroken(f"{blob.sha256[:12]} did not come: {last or 'other bytes came'}")
            stop.wait(self._pause(tries, self._chance.random()))

    def _address_fault(self, source: str) -> str | None:
        """Why this source is none."""
        try:
            parts = urlsplit(source)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            return str(error)
        if not (source.isascii() and source.isprintable()) or " " in source:
            return "is no address of a server"
        if not host or parts.query or parts.fragment or parts.username is not None:
            return "is no address of a server"
        if parts.scheme == "https":
            return None if self._tls is not None else "https needs certificates: give --ca, --cert and --key"
        if parts.scheme != "http":
            return "only https is spoken"
        return None if self._tls is None and _is_loopback(host) else "plain http is spoken to this machine only"

    def _ask(self, source: str, partial: Partial, on_bytes: Callable[[int], None], stop: Stop) -> None:
        """One request for what is missing. Raises Wrong, Broken, Stopped."""
        from urllib3.exceptions import HTTPError

        partial.open(source)
        try:
            if partial.is_complete:
                return
            with self._connected(source, stop) as connection:
                path = f"{urlsplit(source).path.rstrip('/')}/blobs/{partial.blob.sha256}"
                headers = {"Accept-Encoding": "identity", "User-Agent": "edge-agent"}
                if partial.have:
                    headers["Range"] = f"bytes={partial.have}-"
                connection.request("GET", path, headers=headers, preload_content=False, decode_content=False)
                response = connection.getresponse()
                partial.answered(response.status, response.headers)
                while chunk := response.read1(CHUNK_BYTES, decode_content=False):
                    partial.add(chunk)
                    on_bytes(len(chunk))
                    stop.wait(self._bucket.take(len(chunk), self._clock()))
                partial.ended()
        except (HTTPError, http.client.HTTPException, OSError, IdentityError) as error:
            stop.wait(0)  # it is of the network: the disk's are DeployErrors
            raise Broken(f"{type(error).__name__}: {error}"[:200]) from None
        finally:
            partial.close()

    @contextlib.contextmanager
    def _connected(self, source: str, stop: Stop) -> Iterator[HTTPConnection]:
        """No pool and no proxy: at this level urllib3 follows no redirect either."""
        from urllib3.connection import HTTPConnection, HTTPSConnection

        parts, limit_s = urlsplit(source), self._timeout_s  # to connect, and for each piece
        connection: HTTPConnection
        if self._tls is not None:
            connection = HTTPSConnection(str(parts.hostname), parts.port, timeout=limit_s, ssl_context=self._tls())
        else:
            connection = HTTPConnection(str(parts.hostname), parts.port, timeout=limit_s)
        with stop.ends(connection):
            yield connection


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
