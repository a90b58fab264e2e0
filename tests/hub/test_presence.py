"""Presence: epochs go up, overtaking wills are put right, namesakes are noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hub import wire
from hub.errors import LinkError, WireError
from hub.presence import Presence


class Shell:
    """Keeps what a Presence asks for."""

    def __init__(self) -> None:
        self.published: list[int] = []
        self.timers: list[Callable[[], None]] = []
        self.presence = Presence(
            wire.Topic("node_state", "n"),
            100,
            publish=self.published.append,
            call_later=lambda wait_s, call: self.timers.append(call),
        )

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


def test_reconnect_looks_before_it_shows() -> None:
    """After a reconnect the state is shown once nobody else has been seen under the name."""
    shell = Shell()
    shell.connect()
    shell.connect()
    shell.presence.received(state(101, "offline"))  # our own will of the connection before
    assert shell.published == [101]
    shell.timers.pop()()
    assert shell.published == [101, 102]


@pytest.mark.parametrize("status", ["ready", "offline"])
def test_namesake_is_noticed(status: str) -> None:
    """Finding a later epoch under our name on coming back means that another process has it now."""
    shell = Shell()
    shell.connect()
    shell.connect()
    with pytest.raises(LinkError, match="another process took over the name 'n'"):
        shell.presence.received(state(7000, status))


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b"{}", b'{"epoch": "x", "status": "ready"}'])
def test_garbage_is_refused(payload: bytes) -> None:
    """What is no state raises WireError and changes nothing."""
    shell = Shell()
    shell.connect()
    with pytest.raises(WireError):
        shell.presence.received(payload)
    assert shell.published == [101]
