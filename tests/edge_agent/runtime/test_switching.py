"""A better runtime takes over between questions, or it is said why it never will."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

from device_profiles.profile import Runtime
from edge_agent.errors import RuntimeUnavailable
from edge_agent.runtime.choice import Choice
from edge_agent.runtime.switching import Preparation, Ready, Switching
from hub import wire


class Fake:
    """Answers nothing and remembers what it was asked."""

    parallel = 1

    def __init__(self, name: str, parallel: int = 1) -> None:
        self.calls: list[str] = []
        self.parallel = parallel
        self.served = wire.ServedBundle(
            bundle="b", model=name, task="t", context=1, fixed_ms=1, prefill_ms_per_token=1, decode_ms_per_token=1
        )

    def begin(self, question: wire.Question, **options: Any) -> Hashable:
        self.calls.append("begin")
        return 1

    def advance(self) -> list[Any]:
        self.calls.append("advance")
        return []

    def abandon(self) -> None:
        self.calls.append("abandon")

    def tend(self) -> None:
        self.calls.append("tend")

    def ready(self, runtime: Runtime) -> Ready:
        return Ready(self, runtime, lambda: self.calls.append("close"))


def switching(first: Fake, prepare: Callable[[], Ready], **options: Any) -> tuple[Switching, Preparation]:
    preparation = Preparation("tensorrt", prepare, **options)
    choice = Choice("cpu", (("tensorrt", "its engine is being built"), ("cuda", "no CUDA")))
    return Switching(first.ready("cpu"), choice, preparation), preparation


def use(answerer: Switching) -> None:
    answerer.begin(wire.Question(question="?"), should_stop=lambda: False)
    answerer.advance()
    answerer.abandon()


def test_the_better_one_takes_over_once_it_is_ready() -> None:
    """Not before, and not in the middle of an answer: only when there is room for it. The old one is released."""
    old, new, built = Fake("old", parallel=4), Fake("new"), threading.Event()

    def prepare() -> Ready:
        assert built.wait(10)
        return new.ready("tensorrt")

    answerer, preparation = switching(old, prepare, progress=lambda: 0.4567)
    answerer.tend()
    use(answerer)
    before = answerer.served
    assert (before.runtime, before.progress, before.model, answerer.parallel) == ("cpu", 0.46, "old", 4)
    assert before.why == "tensorrt: its engine is being built; cuda: no CUDA"
    built.set()
    assert preparation.wait(10)
    use(answerer)
    assert new.calls == []
    answerer.tend()
    use(answerer)
    after = answerer.served
    assert (after.runtime, after.why, after.progress, after.model, answerer.parallel) == (
        "tensorrt",
        "",
        None,
        "new",
        1,
    )
    assert old.calls == ["tend", "begin", "advance", "abandon", "begin", "advance", "abandon", "tend", "close"]
    answerer.close()
    assert new.calls == ["begin", "advance", "abandon", "close"]


def test_what_fails_is_said_and_nothing_changes() -> None:
    """A refusal in its own words, a bug by its name; the node goes on with what it has."""
    for error, why in (
        (RuntimeUnavailable("70 of 100 tokens equal"), "tensorrt: 70 of 100 tokens equal; cuda: no CUDA"),
        (ZeroDivisionError("oh"), "tensorrt: ZeroDivisionError: oh; cuda: no CUDA"),
    ):
        old = Fake("old")

        def prepare(error: Exception = error) -> Ready:
            raise error

        answerer, preparation = switching(old, prepare)
        assert preparation.wait(10)
        answerer.tend()
        assert (answerer.served.runtime, answerer.served.why, answerer.served.progress) == ("cpu", why, None)
        use(answerer)
        assert "close" not in old.calls


def test_closing_ends_what_is_under_way() -> None:
    """It is told to stop, and what came of it all the same is released too."""
    old, new, stop = Fake("old"), Fake("new"), threading.Event()

    def prepare() -> Ready:
        assert stop.wait(10)
        return new.ready("tensorrt")

    answerer, _ = switching(old, prepare, stop=stop.set)
    answerer.close()
    assert (old.calls, new.calls) == (["close"], ["close"])
