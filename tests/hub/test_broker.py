"""The embedded broker: starts, carries MQTT 5, refuses a taken port, ends with its owner."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from hub.broker import EmbeddedBroker, parse_listen
from hub.errors import BrokerError


@pytest.mark.parametrize("text", ["", "host", "0", "70000", "1883x", "host:"])
def test_listen_refused(text: str) -> None:
    """What is no port is refused with its value."""
    with pytest.raises(BrokerError, match="HOST"):
        parse_listen(text)


def test_taken_port_is_refused(free_port: Callable[[], int]) -> None:
    """A port that somebody holds is named, and nothing is started."""
    with socket.socket() as holder:
        port = free_port()
        holder.bind(("127.0.0.1", port))
        holder.listen()
        with pytest.raises(BrokerError, match=str(port)), EmbeddedBroker("127.0.0.1", port):
            pytest.fail("started on a taken port")


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6_is_refused(host: str) -> None:
    """The broker inside would wait for itself in vain."""
    with pytest.raises(BrokerError, match="knows IPv4 only"), EmbeddedBroker(host, 1883):
        pass


def test_port_is_free_again(free_port: Callable[[], int]) -> None:
    """Leaving the context ends the broker: the port can be bound again."""
    port = free_port()
    with EmbeddedBroker("127.0.0.1", port), socket.create_connection(("127.0.0.1", port), 1):
        pass
    with pytest.raises(OSError, match=r"refused"):
        socket.create_connection(("127.0.0.1", port), 0.5)


@pytest.mark.parametrize(
    ("host", "level", "words"),
    [
        ("127.0.0.1", "INFO", "for this machine alone"),
        ("0.0.0.0", "WARNING", "whoever reaches it can read, ask and answer"),
    ],
)
def test_it_says_who_can_reach_it(
    free_port: Callable[[], int], caplog: pytest.LogCaptureFixture, host: str, level: str, words: str
) -> None:
    """One line of the log: on loopback nobody else; elsewhere a warning that it keeps nobody out."""
    with caplog.at_level("INFO", "hub.broker"), EmbeddedBroker(host, free_port()):
        pass
    (line,) = [record for record in caplog.records if record.name == "hub.broker"]
    assert line.levelname == level
    assert words in line.getMessage()
