"""From a message on an ask topic to a question."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from hub import wire
from hub.events import MessageReceived
from hub.intake import Ask, Refusal, id_from_correlation, other_id, read_ask


def read(payload: bytes, **options: Any) -> Ask | Refusal:
    message = MessageReceived(topic="edge/v1/ask/kitchen", payload=payload, **options)
    return read_ask(message, "kitchen", lambda: "drawn")


def asked(payload: bytes, **options: Any) -> Ask:
    ask = read(payload, **options)
    assert isinstance(ask, Ask)
    return ask


@pytest.mark.parametrize(
    ("payload", "correlation", "question_id", "own"),
    [
        (b'{"id": "mine", "question": "Why?"}', b"theirs", "mine", True),
        (b'{"question": "Why?"}', b"theirs", "theirs", False),
        (b"Why?", b"theirs", "theirs", False),
        (b"Why?", b"\x00\x01", "0001", False),
        (b"Why?", b"", "drawn", False),
        (b"Why?", None, "drawn", False),
        (b"Why?", b"a\nb", "610a62", False),
    ],
)
def test_id(payload: bytes, correlation: bytes | None, question_id: str, own: bool) -> None:
    """The id is the question's, else the Correlation Data's, else drawn."""
    ask = asked(payload, correlation=correlation)
    assert (ask.question.id, ask.id_is_own, ask.sender.correlation) == (question_id, own, correlation)


def test_long_correlation_becomes_a_short_id() -> None:
    """An id has at most 128 characters, whatever the Correlation Data."""
    assert id_from_correlation(b"x" * 128) == "x" * 128
    assert id_from_correlation(b"x" * 129) == hashlib.sha256(b"x" * 129).hexdigest()
    assert id_from_correlation(b"\xff" * 64) == "ff" * 64
    assert len(id_from_correlation(b"\xff" * 60_000) or "") == 64


def test_repeats_have_one_fingerprint() -> None:
    """Budget and id may differ between repeats; anything else makes another question."""
    first = asked(b'{"id": "1", "question": "Why?", "deadline_ms": 9000}')
    assert asked(b'{"id": "2", "question": "Why?", "deadline_ms": 500}').fingerprint == first.fingerprint
    assert asked(b'{"question": "How?"}').fingerprint != first.fingerprint
    assert asked(b'{"question": "Why?", "max_tokens": 9}').fingerprint != first.fingerprint
    assert asked(b'{"text": "Why?"}').fingerprint != first.fingerprint
    assert first.question.deadline_ms is None


def test_answer_goes_where_the_device_may_ask_for_it() -> None:
    """A Response Topic outside the device's own answers is not honoured."""
    inside, outside = "edge/v1/answer/kitchen/7", "edge/v1/answer/library"
    assert asked(b"Why?", response_topic=inside).sender.reply_to == inside
    assert asked(b"Why?", response_topic=outside).sender.reply_to == "edge/v1/answer/kitchen"
    refused = read(b"{", response_topic=inside)
    assert isinstance(refused, Refusal)
    assert refused.sender.reply_to == inside


def test_task_has_a_default() -> None:
    """Without a task, text is generated."""
    assert asked(b"Why?").task == "text-generation"
    assert asked(b'{"text": "Why?", "task": "embedding"}').task == "embedding"


def test_other_id_is_stable_and_valid() -> None:
    """A question under a used Correlation Data gets an id that its redelivery gets again, never too long."""
    ask = asked(b"Why?", correlation=b"x" * 128)
    renamed = other_id(ask)
    assert renamed == other_id(asked(b"Why?", correlation=b"x" * 128))
    assert renamed.question.id != ask.question.id
    assert len(renamed.question.id or "") <= 128
    assert other_id(asked(b"How?", correlation=b"x" * 128)).question.id != renamed.question.id
    assert wire.decode_question(wire.encode(renamed.question))[0] == renamed.question


def test_message_of_a_refusal_is_short() -> None:
    """However large the garbage, what goes back is small."""
    refused = read(b'{"question": 7, "x": "' + b"y" * 100_000 + b'"}')
    assert isinstance(refused, Refusal)
    assert len(refused.failure.error.message) <= 500


@pytest.mark.parametrize(
    ("given", "hurried"), [({}, False), ({"deadline_ms": 5000}, True), ({"deadline_ms": 29_999.7}, False)]
)
def test_deadline_of_its_own(given: dict[str, float], hurried: bool) -> None:
    """The default, written out by an asker a moment later, is no deadline of the device's own; nor is an expiry."""
    payload = wire.encode(wire.Question(question="Why?", **given))  # type: ignore[arg-type]
    message = MessageReceived(topic="edge/v1/ask/kitchen", payload=payload, expiry_s=7)
    ask = read_ask(message, "kitchen", lambda: "drawn")
    assert isinstance(ask, Ask)
    assert ask.hurried == hurried
