"""The asker against a scripted fleet on a real broker: one outcome each, by the deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from hub import wire
from hub.ask import Asker
from hub.broker_url import BrokerUrl
from hub.errors import LinkError
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link


class Fleet:
    """Hears every ask and answers as the test says; `run` and `stop` for the `running` fixture."""

    def __init__(self, url: str, script: Callable[[Fleet, Received, wire.Question], None]) -> None:
        self.asked: list[wire.Question] = []
        self.expiries: list[int | None] = []
        self._script = script
        self._stopping = False
        self._loop = Loop()
        handlers = Handlers(received=self._received)
        self.link = Link(BrokerUrl.parse(url), "fleet", handlers, subscriptions=[("edge/v1/ask/+", 1)])
        self._loop.add(self.link)

    def run(self) -> None:
        while not self._stopping:
            self._loop.run_once(0.1)
        self._loop.close()

    def stop(self) -> None:
        self._stopping = True

    def _received(self, message: Received) -> None:
        question, _ = wire.decode_question(message.payload)
        self.asked.append(question)
        self.expiries.append(message.expiry_s)
        self._script(self, message, question)

    def reply(self, message: Received, reply: wire.Message) -> None:
        assert message.response_topic is not None
        self.link.publish(message.response_topic, wire.encode(reply), qos=1, correlation=message.correlation)


def answer(question: wire.Question, text: str = "Paris", **changes: Any) -> wire.Answer:
    assert question.id is not None
    fields: dict[str, Any] = {"id": question.id, "node": "n", "bundle": "b", "finish": "stop", "attempt": 1}
    return wire.Answer(**{**fields, "text": text, **changes})


@pytest.fixture
def fleet(broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]) -> Any:
    def start(script: Callable[[Fleet, Received, wire.Question], None]) -> tuple[Fleet, str]:
        fleet = Fleet(broker_url, script)
        running(fleet)
        eventually(lambda: fleet.link.is_open)
        return fleet, broker_url

    return start


def test_answer_comes_back(fleet: Any) -> None:
    """The first answer is the outcome; what neither queue nor compute explains is network."""
    timing = wire.Timing(queue=0.1, prefill=0.1, decode=0.1, compute=0.2)
    heard, url = fleet(lambda fleet, message, question: fleet.reply(message, answer(question, timing_ms=timing)))
    with Asker(url, "kitchen") as asker:
        outcome = asker.ask(wire.Question(question="?", deadline_ms=7500.0))
    assert isinstance(outcome.reply, wire.Answer)
    assert outcome.reply.text == "Paris"
    assert outcome.network_ms == pytest.approx(outcome.total_ms - 0.3)
    assert heard.expiries == [8]  # the deadline, rounded up to whole seconds


def test_a_question_tells_how_long_earlier_ones_took(fleet: Any) -> None:
    """By the asker's own clock, to the answer and to its first text; once, and again where it was not heard."""

    def script(fleet: Fleet, message: Received, question: wire.Question) -> None:
        if question.question == "silent?":
            return
        assert question.id is not None
        if question.stream:
            fleet.reply(message, wire.Chunk(id=question.id, attempt=1, node="n", seq=0, text="Par"))
        fleet.reply(message, answer(question))

    heard, url = fleet(script)
    with Asker(url, "kitchen") as asker:
        outcomes = [
            asker.ask(wire.Question(id="1", question="?", stream=True)),
            asker.ask(wire.Question(id="2", question="silent?", deadline_ms=50.0)),
            asker.ask(wire.Question(id="3", question="?")),
            asker.ask(wire.Question(id="4", question="?")),
        ]
    told = {question.id: {one.id: one for one in question.earlier} for question in heard.asked}
    assert {name: set(some) for name, some in told.items()} == {"1": set(), "2": {"1"}, "3": {"1", "2"}, "4": {"3"}}
    assert told["3"]["1"].total_ms == pytest.approx(outcomes[0].total_ms)
    assert 0 < told["3"]["1"].first_ms <= told["3"]["1"].total_ms
    assert told["4"]["3"].first_ms is None


def test_a_question_at_the_limit_tells_nothing(fleet: Any) -> None:
    """What is for the records must not make a question too large."""
    heard, url = fleet(lambda fleet, message, question: fleet.reply(message, answer(question)))
    with Asker(url, "kitchen") as asker:
        asker.ask(wire.Question(question="?"))
        asker.ask(wire.Question(question="x" * (wire.MAX_QUESTION_BYTES - 150)))
        asker.ask(wire.Question(question="?"))
    assert [len(question.earlier) for question in heard.asked] == [0, 0, 2]


def test_duplicates_and_strangers_are_dropped(fleet: Any) -> None:
    """A second answer, an answer to another id and noise change nothing."""

    def script(fleet: Fleet, message: Received, question: wire.Question) -> None:
        fleet.link.publish(str(message.response_topic), b"\xff noise", qos=1)
        fleet.reply(message, answer(question, "wrong", id="somebody else's"))
        fleet.reply(message, answer(question, "first"))
        fleet.reply(message, answer(question, "second"))

    _, url = fleet(script)
    with Asker(url, "kitchen") as asker:
        texts = [asker.ask(wire.Question(question="?")).reply.text for _ in range(3)]  # type: ignore[union-attr]
    assert texts == ["first"] * 3


def test_silence_is_answered_with_a_repeat(fleet: Any) -> None:
    """An unanswered question is asked again with the same id and what is left of its budget."""

    def script(fleet: Fleet, message: Received, question: wire.Question) -> None:
        if len(fleet.asked) == 2:
            fleet.reply(message, answer(question))

    heard, url = fleet(script)
    with Asker(url, "kitchen") as asker:
        outcome = asker.ask(wire.Question(question="?", deadline_ms=9000.0))
    first, second = heard.asked
    assert isinstance(outcome.reply, wire.Answer)
    assert first.id == second.id
    assert second.deadline_ms == pytest.approx(first.deadline_ms - 1000, abs=500)


def test_own_timer_is_the_last_resort(fleet: Any) -> None:
    """Where nobody answers, the outcome is a `deadline` failure at the deadline, marked as the asker's own."""
    _, url = fleet(lambda fleet, message, question: None)
    with Asker(url, "kitchen") as asker:
        outcome = asker.ask(wire.Question(question="?", deadline_ms=400.0))
    assert isinstance(outcome.reply, wire.Failure)
    assert (outcome.reply.error.code, outcome.own_timer) == ("deadline", True)
    assert outcome.total_ms >= 400


def test_no_broker_at_all(free_port: Callable[[], int]) -> None:
    """Without a broker the failure says which one could not be reached."""
    with Asker(f"mqtt://127.0.0.1:{free_port()}", "kitchen") as asker:
        outcome = asker.ask(wire.Question(question="?", deadline_ms=300.0))
    assert isinstance(outcome.reply, wire.Failure)
    assert "cannot be reached" in outcome.reply.error.message


def test_stream_starts_over_with_the_attempt(fleet: Any) -> None:
    """Chunks are shown once and in order; a newer attempt starts over and an older one is dropped."""

    def script(fleet: Fleet, message: Received, question: wire.Question) -> None:
        assert question.id is not None
        for attempt, seq, text in [(1, 0, "Pa"), (1, 0, "Pa"), (2, 0, "Par"), (1, 1, "x"), (2, 1, "is")]:
            fleet.reply(message, wire.Chunk(id=question.id, attempt=attempt, node="n", seq=seq, text=text))
        fleet.reply(message, answer(question, attempt=2))

    _, url = fleet(script)
    shown: list[tuple[int, str]] = []
    with Asker(url, "kitchen") as asker:
        asker.ask(wire.Question(question="?", stream=True), on_text=lambda *piece: shown.append(piece))
    assert shown == [(1, "Pa"), (2, "Par"), (2, "is")]


def test_stream_stops_at_a_gap(fleet: Any) -> None:
    """Text with a hole is not shown: the answer has the whole. A newer attempt is shown again."""

    def script(fleet: Fleet, message: Received, question: wire.Question) -> None:
        assert question.id is not None
        for attempt, seq, text in [(1, 0, "Pa"), (1, 2, "s"), (1, 3, "!"), (2, 1, "lost"), (2, 2, "x"), (3, 0, "Par")]:
            fleet.reply(message, wire.Chunk(id=question.id, attempt=attempt, node="n", seq=seq, text=text))
        fleet.reply(message, answer(question, attempt=3))

    _, url = fleet(script)
    shown: list[tuple[int, str]] = []
    with Asker(url, "kitchen") as asker:
        asker.ask(wire.Question(question="?", stream=True), on_text=lambda *piece: shown.append(piece))
    assert shown == [(1, "Pa"), (3, "Par")]


def test_stream_is_of_one_node(fleet: Any) -> None:
    """Two nodes that stream under one attempt, of two hubs, are not mixed: the one that came first is shown."""

    def script(fleet: Fleet, message: Received, question: wire.Question) -> None:
        assert question.id is not None
        for node, seq, text in [("a", 0, "Pa"), ("b", 0, "P"), ("b", 1, "ar"), ("a", 1, "ri"), ("b", 2, "is")]:
            fleet.reply(message, wire.Chunk(id=question.id, attempt=1, node=node, seq=seq, text=text))
        fleet.reply(message, answer(question))

    _, url = fleet(script)
    shown: list[tuple[int, str]] = []
    with Asker(url, "kitchen") as asker:
        asker.ask(wire.Question(question="?", stream=True), on_text=lambda *piece: shown.append(piece))
    assert shown == [(1, "Pa"), (1, "ri")]


def test_many_at_once_from_many_threads(fleet: Any) -> None:
    """Questions of several threads each get their own answer."""
    _, url = fleet(lambda fleet, message, question: fleet.reply(message, answer(question, question.question)))
    wrong: list[str] = []

    def ask(asker: Asker, name: str) -> None:
        futures = {f"{name}-{number}": asker.submit(wire.Question(question=f"{name}-{number}")) for number in range(50)}
        wrong.extend(text for text, future in futures.items() if future.result(20).reply.text != text)  # type: ignore[union-attr]

    with Asker(url, "kitchen") as asker:
        threads = [threading.Thread(target=ask, args=(asker, name)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_closing_ends_what_is_open(fleet: Any) -> None:
    """Whoever waits for an asker that is closed gets a failure, not silence."""
    _, url = fleet(lambda fleet, message, question: None)
    with Asker(url, "kitchen") as asker:
        future = asker.submit(wire.Question(question="?"))
    assert future.result(0).own_timer


@pytest.mark.broker
def test_question_outlives_the_broker(
    mosquitto: Any, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """A question asked while the broker is away is asked again when it is back."""
    mosquitto.stop(kill=True)
    fleet = Fleet(mosquitto.url, lambda fleet, message, question: fleet.reply(message, answer(question)))
    running(fleet)
    with Asker(mosquitto.url, "kitchen") as asker:
        future = asker.submit(wire.Question(question="?", deadline_ms=20_000.0))
        mosquitto.start()
        assert isinstance(future.result(20).reply, wire.Answer)


@pytest.mark.parametrize("device", ["a/b", "", "+"])
def test_device_name_is_checked(device: str) -> None:
    """A name that could be another topic is refused."""
    with pytest.raises(LinkError, match="cannot name a device"):
        Asker("mqtt://127.0.0.1:1", device)
