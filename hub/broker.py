"""An MQTT 5 broker inside `edge-hub serve`, for fleets that have none: rumqttd, by the `iotcore` package.

It runs as a child process that ends with its parent, keeps nothing on disk and knows no users: for one machine or
a trusted network. Production fleets use Mosquitto or a cluster (`--broker URL`).
"""

from __future__ import annotations

import logging
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from hub.errors import BrokerError
from hub.http_server import Address

log = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES: Final = 16 * 1024 * 1024  # larger than any question, so that the hub can say `too_large` itself

_CONFIG: Final = """\
id = 0

[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 10000
max_segment_size = 104857600
max_segment_count = 10

[v5.1]
name = "v5"
listen = "{listen}"
next_connection_delay_ms = 0

[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = {max_payload_bytes}
max_inflight_count = 200
dynamic_filters = true
"""


def parse_listen(text: str) -> tuple[str, int]:
    """`[HOST:]PORT` as host and port; without a host, loopback. Raises BrokerError.

    >>> parse_listen("1883")
    ('127.0.0.1', 1883)
    >>> parse_listen("0.0.0.0:1884")
    ('0.0.0.0', 1884)
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise BrokerError(f"{text!r} is not [HOST:]PORT with a port from 1 to 65535")
    return host.strip("[]") or "127.0.0.1", int(port)


class EmbeddedBroker:
    """A running broker; use it as a context manager. Raises BrokerError when it cannot start."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._broker: Any = None

    @property
    def url(self) -> str:
        """Where clients on this machine reach it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 (compared, not bound)
        return f"mqtt://{host}:{self.port}"

    def __enter__(self) -> EmbeddedBroker:
        try:
            from iotcore import Broker
        except ImportError:
            raise BrokerError("the embedded broker needs the package iotcore: pip install 'edgefleet[hub]'") from None
        if ":" in self.host:
            raise BrokerError(
                f"the embedded broker cannot listen on {self.host}: it knows IPv4 only; "
                "give --embedded-broker another [HOST:]PORT, or run a Mosquitto"
            )
        _refuse_taken_port(self.host, self.port)
        self._folder = tempfile.TemporaryDirectory(prefix="edge-hub-broker-")
        config = Path(self._folder.name) / "rumqttd.toml"
        config.write_text(_CONFIG.format(listen=f"{self.host}:{self.port}", max_payload_bytes=MAX_PAYLOAD_BYTES))
        try:
            self._broker = Broker(config_path=str(config))
            self._broker.start()
        except (OSError, RuntimeError, ValueError) as error:
            self._folder.cleanup()
            raise BrokerError(f"the embedded broker did not start on {self.host}:{self.port}: {error}") from None
        self._say_where()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._broker is not None:
            self._broker.stop()
        if self._folder is not None:
            self._folder.cleanup()

    def _say_where(self) -> None:
        if Address(self.host, self.port).on_loopback:
            log.info("the embedded broker listens on %s:%d, for this machine alone", self.host, self.port)
        else:
            log.warning(
                "the embedded broker listens on %s:%d and knows no users: whoever reaches it can read, ask and answer "
                "everything; `edge-hub provision broker` is for other people's networks",
                self.host,
                self.port,
            )


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BrokerError(
                f"cannot listen on {host}:{port}: {error.strerror}; give --embedded-broker another [HOST:]PORT"
            ) from None
