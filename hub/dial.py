"""A connection by TLS, made in a thread of its own, so that nobody has to stand still for the other side's handshake.

A broker that stands still takes TCP connections all the same, and then says nothing. Knows nothing of MQTT.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import Final

from hub import tcp
from hub.errors import IdentityError
from hub.tls import Tls

LIMIT_S: Final = 5.0  # for the network and the handshake together; a name server may take longer


class Dial:
    """One attempt to reach `host` and `port`. Once its file descriptor can be read, `take` has what came of it."""

    def __init__(self, host: str, port: int, tls: Tls) -> None:
        self._near, self._far = socket.socketpair()
        self._lock = threading.Lock()  # between `abandon` and the end of the thread
        self._abandoned = False
        self._outcome: ssl.SSLSocket | Exception | None = None
        threading.Thread(target=self._try, args=(host, port, tls), name="dial", daemon=True).start()

    def fileno(self) -> int:
        """Can be read once the attempt has ended."""
        return self._near.fileno()

    def take(self) -> ssl.SSLSocket:
        """The connection, to be called once, when there is an outcome. Raises OSError or IdentityError."""
        self._near.close()
        assert self._outcome is not None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def abandon(self) -> None:
        """Whatever comes of it is not wanted any more."""
        with self._lock:
            self._abandoned = True
            self._near.close()
            if isinstance(self._outcome, ssl.SSLSocket):
                self._outcome.close()

    def _try(self, host: str, port: int, tls: Tls) -> None:
        try:
            outcome: ssl.SSLSocket | Exception = _connected(host, port, tls)
        except (OSError, IdentityError) as error:
            outcome = error
        with self._lock:
            self._outcome = outcome
            if self._abandoned and isinstance(outcome, ssl.SSLSocket):
                outcome.close()
            self._far.close()  # which lets the other end be read


def _connected(host: str, port: int, tls: Tls) -> ssl.SSLSocket:
    context = tls.client_context()
    end = time.monotonic() + LIMIT_S
    plain = socket.create_connection((host, port), LIMIT_S)
    with contextlib.ExitStack() as stack:
        stack.callback(plain.close)
        tcp.send_at_once(plain)
        tcp.acknowledge_at_once(plain)
        plain.settimeout(max(end - time.monotonic(), 0.1))  # of the handshake as a whole
        secured = context.wrap_socket(plain, server_hostname=host)
        tcp.acknowledge_at_once(secured)
        stack.pop_all()
    return secured
