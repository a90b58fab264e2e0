"""An address is tried without waiting for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hub.reach import Reach


def test_who_listens_is_reached(free_port: Callable[[], int], eventually: Callable[..., None]) -> None:
    """And who does not is not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = Reach("127.0.0.1", server.getsockname()[1])
        eventually(lambda: there.reached is not None)
    nowhere = Reach("127.0.0.1", free_port())
    eventually(lambda: nowhere.reached is not None)
    assert (there.reached, nowhere.reached) == (True, False)


def test_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]) -> None:
    """While the system connects, the answer is open; then it is known."""
    gate = threading.Event()

    def connect(*_: Any) -> socket.socket:
        gate.wait(10)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    reach = Reach("10.0.0.1", 1883)
    assert reach.reached is None
    gate.set()
    eventually(lambda: reach.reached is False)
