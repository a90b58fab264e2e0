"""The worker thread: reports every end, also the bad ones."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest

from edge_agent import events
from edge_agent import worker as worker_module
from edge_agent.errors import ContextOverflow
from edge_agent.runtime.generation import Generation, OneByOne
from edge_agent.worker import Worker
from hub import wire


class Scripted:
    """Answers by a function of the test's."""

    served = wire.ServedBundle(
        bundle="b", model="m", task="text-generation", context=64,
        fixed_ms=0, prefill_ms_per_token=0, decode_ms_per_token=0,
    )  # fmt: skip

    def __init__(self, script: Callable[[Callable[[], bool], Callable[[str], None] | None], str]) -> None:
        self.script = script

    def tend(self) -> None:
        """It costs nothing, ever."""

    def answer(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        text = self.script(should_stop, on_text)
        finish = "cancelled" if should_stop() else "stop"
        return Generation(
            text=text, token_ids=(), finish=finish, tokens=wire.Tokens(), prefill_ms=0, decode_ms=0, compute_ms=0
        )  # fmt: skip


def run(
    script: Callable[[Callable[[], bool], Callable[[str], None] | None], str], *, stop: bool = False
) -> list[events.Event]:
    """Everything the worker reports about one streamed question."""
    heard: list[events.Event] = []
    finished = threading.Event()

    def report(event: events.Event) -> None:
        heard.append(event)
        if isinstance(event, events.WorkFinished):
            finished.set()

    worker = Worker({"b": OneByOne(Scripted(script))}, report)
    worker.start(events.StartWork(("d", "1"), "b", wire.Question(id="1", question="?", stream=True)))
    if stop:
        worker.stop(("d", "1"))
    assert finished.wait(10)
    worker.close()
    return heard


def test_text_then_end() -> None:
    """Pieces of text come before the end, in order."""

    def script(should_stop: Callable[[], bool], on_text: Callable[[str], None] | None) -> str:
        assert on_text is not None
        on_text("a")
        on_text("b")
        return "ab"

    first, second, last = run(script)
    assert (first, second) == (events.TextProduced(("d", "1"), "a"), events.TextProduced(("d", "1"), "b"))
    assert isinstance(last, events.WorkFinished)
    assert isinstance(last.result, Generation)


def test_stop_reaches_the_answerer() -> None:
    """A stopped question ends as cancelled."""

    def script(should_stop: Callable[[], bool], on_text: object) -> str:
        waiter = threading.Event()
        while not should_stop():
            waiter.wait(0.005)
        return ""

    (last,) = run(script, stop=True)
    assert isinstance(last, events.WorkFinished)
    assert isinstance(last.result, Generation)
    assert last.result.finish == "cancelled"


@pytest.mark.parametrize(
    ("error", "code"), [(ContextOverflow(900, 10, 64), "too_large"), (ZeroDivisionError("boom"), "internal")]
)
def test_errors_become_refusals(error: Exception, code: str) -> None:
    """A refusal keeps its code; any other error fails this question alone, as internal."""

    def script(should_stop: object, on_text: object) -> str:
        raise error

    (last,) = run(script)
    assert isinstance(last, events.WorkFinished)
    assert isinstance(last.result, events.Refusal)
    assert last.result.code == code


class Deadly(Scripted):
    """Kills its thread when asked for death."""

    def answer(self, question: wire.Question, **how: object) -> Generation:  # type: ignore[override]
        if question.question == "die":
            raise SystemExit("killed")
        return super().answer(question, **how)  # type: ignore[arg-type]


def test_a_thread_that_dies_is_replaced_once() -> None:
    """Its question fails as internal and the next one is answered; after the second death the node is told."""
    finished: dict[str, events.WorkFinished] = {}
    ended = threading.Condition()
    died = threading.Event()

    def report(event: events.Event) -> None:
        if isinstance(event, events.WorkFinished):
            with ended:
                finished[event.key[1]] = event
                ended.notify_all()

    worker = Worker({"b": OneByOne(Deadly(lambda should_stop, on_text: "well"))}, report, died.set)
    for name, text in (("1", "die"), ("2", "live"), ("3", "die")):
        worker.start(events.StartWork(("d", name), "b", wire.Question(id=name, question=text)))
        with ended:
            assert ended.wait_for(lambda name=name: name in finished, 10)
    assert died.wait(10)
    results = [finished[name].result for name in "123"]
    assert [isinstance(result, events.Refusal) for result in results] == [True, False, True]
    assert "died of SystemExit" in results[0].message
    worker.close()


class Moody(Scripted):
    """Becomes as slow as the test says when it is tended."""

    slower = 1.0

    def tend(self) -> None:
        if self.slower > 100:
            raise RuntimeError("not well")
        self.served = msgspec.structs.replace(Scripted.served, fixed_ms=10 * self.slower)


def test_a_bundle_that_has_become_slower_is_reported(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """Within seconds, without a question; a little more or less is no news, and a look that fails kills nothing."""
    monkeypatch.setattr(worker_module, "TEND_S", 0.01)
    monkeypatch.setattr(worker_module, "LOOK_S", 0.0)
    moody = Moody(lambda should_stop, on_text: "well")
    moody.tend()
    heard: list[events.Event] = []
    worker = Worker({"b": OneByOne(moody)}, heard.append)
    for slower in (1.2, 200.0, 0.9, 3.0):
        moody.slower = slower
        threading.Event().wait(0.1)
    eventually(lambda: len(heard) == 1)
    worker.close()
    (event,) = heard
    assert isinstance(event, events.ServedChanged)
    assert event.served.fixed_ms == 30.0


class DeadlyStart(OneByOne):
    """Kills its thread when it is given a question to die of."""

    def begin(self, question: wire.Question, **how: object) -> object:  # type: ignore[override]
        if question.question == "die":
            raise SystemExit("killed")
        return super().begin(question, **how)  # type: ignore[arg-type]


def test_a_thread_that_dies_of_a_new_question_reports_that_one_too() -> None:
    """Nobody waits for an answer that nothing computes."""
    finished: dict[str, events.WorkFinished] = {}
    ended = threading.Condition()

    def report(event: events.Event) -> None:
        if isinstance(event, events.WorkFinished):
            with ended:
                finished[event.key[1]] = event
                ended.notify_all()

    worker = Worker({"b": DeadlyStart(Scripted(lambda should_stop, on_text: "well"))}, report)
    for name, text in (("1", "die"), ("2", "live")):
        worker.start(events.StartWork(("d", name), "b", wire.Question(id=name, question=text)))
        with ended:
            assert ended.wait_for(lambda name=name: name in finished, 10)
    assert isinstance(finished["1"].result, events.Refusal)
    assert isinstance(finished["2"].result, Generation)
    worker.close()


class Narrow(OneByOne):
    """Takes one turn, and no history."""

    def begin(self, question: wire.Question, **how: object) -> object:  # type: ignore[override]
        if len(question.messages or ()) > 1:
            raise ContextOverflow(900, 10, 64)
        return super().begin(question, **how)  # type: ignore[arg-type]


def test_a_session_that_outgrows_the_model_begins_anew() -> None:
    """Its question is answered without what was said before; without history to drop it is refused."""
    finished: list[events.WorkFinished] = []
    ended = threading.Semaphore(0)

    def report(event: events.Event) -> None:
        if isinstance(event, events.WorkFinished):
            finished.append(event)
            ended.release()

    worker = Worker({"b": Narrow(Scripted(lambda should_stop, on_text: "well"))}, report)
    two = (wire.ChatMessage(role="user", content="a"), wire.ChatMessage(role="user", content="b"))
    for number, question in enumerate(
        (
            wire.Question(question="one", session="s"),
            wire.Question(question="two", session="s"),
            wire.Question(messages=two, session="t"),
        )
    ):
        worker.start(events.StartWork(("d", str(number)), "b", question))
        assert ended.acquire(timeout=10)
    assert [isinstance(event.result, Generation) for event in finished] == [True, True, False]
    worker.close()


def test_bundles_come_and_go() -> None:
    """What is started after one was added is answered with it; who let one go is told when nothing uses it."""
    heard: list[events.Event] = []
    finished, gone = threading.Event(), threading.Event()

    def report(event: events.Event) -> None:
        heard.append(event)
        if isinstance(event, events.WorkFinished):
            finished.set()

    worker = Worker({}, report)
    worker.add("b", OneByOne(Scripted(lambda should_stop, on_text: "here")))
    worker.start(events.StartWork(("d", "1"), "b", wire.Question(id="1", question="?")))
    assert finished.wait(5)
    worker.remove("b", gone.set)
    assert gone.wait(5)
    worker.close()
    assert [event.result.text for event in heard if isinstance(event, events.WorkFinished)] == ["here"]  # type: ignore[union-attr]
