"""When a link may connect again, and when it has to look first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hub import attempts, reach
from hub.attempts import CONNECT_LIMIT_S, FIRST_RETRY_S, LAST_RETRY_S, SLOW_CONNECT_S, Attempts


def looked(tried: Attempts, now: float, eventually: Callable[..., None]) -> bool | None:
    """What was found once the thread that looks has ended."""
    found: list[bool | None] = []

    def known() -> bool:
        found.append(tried.may_connect(now))
        return found[-1] is not None

    eventually(known)
    return found[-1]


def test_waits_double_up_to_a_second() -> None:
    """Each failure doubles the wait, up to the limit; a success starts over."""
    tried = Attempts("127.0.0.1", 1, look_first=False)
    assert tried.due_at == 0.0
    waits = []
    for _ in range(6):
        tried.begun()
        assert tried.due_at is None
        tried.wait(100.0, 1.0)
        assert tried.due_at is not None
        waits.append(round(tried.due_at - 100.0, 6))
    assert waits == [FIRST_RETRY_S, 0.2, 0.4, 0.8, LAST_RETRY_S, LAST_RETRY_S]
    tried.wait(100.0, 0.5, least_s=10.0)
    assert tried.due_at == pytest.approx(105.0)
    tried.succeeded()
    tried.wait(100.0, 0.5)
    assert tried.due_at == pytest.approx(100.0 + FIRST_RETRY_S / 2)


def test_a_quick_failure_is_tried_again_without_a_look() -> None:
    """A broker that refuses at once holds nobody up."""
    tried = Attempts("127.0.0.1", 1, look_first=False)
    assert tried.may_connect(0.0) is True
    tried.failed(SLOW_CONNECT_S / 2)
    assert tried.may_connect(1.0) is True
    assert tried.limit_s == CONNECT_LIMIT_S


def test_behind_a_slow_failure_a_thread_looks(monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]) -> None:
    """Nothing is known at first, and soon asked again; then what was found, and who answers gets a longer limit."""
    answers: list[bool | None] = [None, False, True]

    class Scripted:
        def __init__(self, host: str, port: int) -> None:
            self.reached = None

        def __getattribute__(self, name: str) -> object:
            return answers.pop(0) if name == "reached" else object.__getattribute__(self, name)

    monkeypatch.setattr(attempts, "Reach", Scripted)
    tried = Attempts("10.0.0.1", 1883, look_first=False)
    tried.failed(SLOW_CONNECT_S * 2)
    assert tried.may_connect(5.0) is None
    assert tried.due_at == pytest.approx(5.0 + attempts.LOOK_EVERY_S)
    assert tried.may_connect(5.1) is False
    assert tried.limit_s == CONNECT_LIMIT_S
    assert tried.may_connect(6.0) is True
    assert tried.limit_s == reach.LIMIT_S


def test_who_looks_first_looks_each_time(free_port: Callable[[], int], eventually: Callable[..., None]) -> None:
    """Even before the first attempt, and after one that failed quickly."""
    tried = Attempts("127.0.0.1", free_port(), look_first=True)
    assert looked(tried, 0.0, eventually) is False
    tried.failed(0.0)
    assert looked(tried, 1.0, eventually) is False
