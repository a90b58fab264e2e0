"""Presence: epochs go up, overtaking wills are put right, namesakes are noticed."""

from __future__ import annotations

import pytest

from hub import wire
from hub.broker_url import BrokerUrl
from hub.errors import WireError
from hub.loop import Loop
from hub.presence import Presence


class Shell:
    """Keeps what a Presence publishes; the loop is real and never turned."""

    def __init__(self) -> None:
        self.published: list[int] = []
        url = BrokerUrl("127.0.0.1", 1)
        self.presence = Presence(Loop(), url, wire.Topic("node_state", "n"), self.published.append)
        self.presence.epoch = 100

    def connect(self) -> None:
        self.presence.next_epoch()
        self.presence.opened()


def state(epoch: int, status: str) -> bytes:
    return b'{"epoch": %d, "status": "%s"}' % (epoch, status.encode())


def test_first_connection_shows_at_once() -> None:
    """A node that starts is there without delay, above whatever an earlier life left behind."""
    shell = Shell()
    shell.connect()
    assert shell.published == [101]


def test_epoch_rises_above_what_is_retained() -> None:
    """An earlier life with a later clock is overruled."""
    shell = Shell()
    shell.connect()
    shell.presence.received(state(500, "ready"))
    assert shell.published == [101, 501]


def test_overtaking_will_is_put_right() -> None:
    """`offline` under our name while we are here is answered with a higher epoch."""
    shell = Shell()
    shell.connect()
    shell.presence.received(state(101, "offline"))
    assert shell.published == [101, 102]


def test_own_state_coming_back_is_no_news() -> None:
    """Our own publishes, also older ones still on their way, change nothing."""
    shell = Shell()
    shell.connect()
    shell.presence.changed()
    shell.presence.received(state(101, "ready"))
    shell.presence.received(state(100, "draining"))
    assert shell.published == [101, 101]


def test_cleared_state_is_shown_again() -> None:
    """Whoever cleared the state of somebody who is there is put right; before the first connection nothing is said."""
    shell = Shell()
    shell.presence.received(b"")
    shell.connect()
    shell.presence.received(b"")
    assert shell.published == [101, 101]


def test_not_shown_before_it_is_connected() -> None:
    """A change while the connection is down is shown when it is up again, not before."""
    shell = Shell()
    shell.presence.changed()
    assert shell.published == []
    shell.connect()
    assert shell.published == [101]


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b"{}", b'{"epoch": "x", "status": "ready"}'])
def test_garbage_is_refused(payload: bytes) -> None:
    """What is no state raises WireError and changes nothing."""
    shell = Shell()
    shell.connect()
    with pytest.raises(WireError):
        shell.presence.received(payload)
    assert shell.published == [101]
