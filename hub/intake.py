"""What did a device ask? A message on `ask/{device}` becomes an Ask, or the Refusal that its sender gets.

Settles the id, the budget, where the answer goes and in which form. Knows nothing of nodes, of other questions or
of time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import msgspec

from hub import wire
from hub.errors import WireError
from hub.events import MessageReceived
from hub.trace_context import TraceContext

MAX_ID_CHARS: Final = 128
OWN_DEADLINE: Final = 0.9  # of the default: askers write out the default, less what has passed of it
DEFAULT_TASK: Final = "text-generation"


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """Where the outcome of a question goes, and how."""

    device: str
    reply_to: str
    correlation: bytes | None
    plain: bool


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A valid question. `question.id` is set, `question.deadline_ms` and `question.earlier` are not: they stand beside
    it.

    `hurried` says that the device set a deadline of its own. `fingerprint` tells a repeat (same id, less budget) from
    another question under the same id. `again` says that a hub had it before.
    """

    sender: Sender
    question: wire.Question
    id_is_own: bool  # the device chose the id in the question itself
    budget_ms: float
    payload_bytes: int
    fingerprint: bytes
    hurried: bool = False
    earlier: tuple[wire.Earlier, ...] = ()
    again: bool = False
    trace: TraceContext | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Device and id: what makes two asks the same question."""
        assert self.question.id is not None
        return self.sender.device, self.question.id

    @property
    def task(self) -> str:
        """What is to be done; generating text where the question does not say."""
        return self.question.task or DEFAULT_TASK


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is no question, and what to tell its sender."""

    sender: Sender
    failure: wire.Failure


def read_ask(message: MessageReceived, device: str, new_id: Callable[[], str]) -> Ask | Refusal:
    """The question in `message`; the id is the question's, else its Correlation Data's, else `new_id()`."""
    sender = Sender(
        device=device,
        reply_to=wire.reply_topic(device, message.response_topic),
        correlation=message.correlation,
        plain=not message.payload.startswith(b"{"),
    )
    fallback_id = id_from_correlation(message.correlation)
    try:
        question, _ = wire.decode_question(message.payload)
    except WireError as error:
        code: wire.Code = "too_large" if error.code == "too_large" else "invalid"
        question_id = _id_of_garbage(message.payload) or fallback_id or new_id()
        return Refusal(
            sender=sender,
            failure=wire.Failure(id=question_id, error=wire.Problem(code=code, message=str(error)[:500])),
        )
    budget_ms = question.deadline_ms or wire.DEFAULT_DEADLINE_MS
    if message.expiry_s is not None:
        budget_ms = min(budget_ms, message.expiry_s * 1000.0)
    return Ask(
        sender=sender,
        question=msgspec.structs.replace(
            question, id=question.id or fallback_id or new_id(), deadline_ms=None, earlier=()
        ),
        id_is_own=question.id is not None,
        budget_ms=budget_ms,
        hurried=question.deadline_ms is not None and question.deadline_ms < OWN_DEADLINE * wire.DEFAULT_DEADLINE_MS,
        payload_bytes=len(message.payload),
        fingerprint=fingerprint_of(question),
        earlier=question.earlier,
        again=message.again,
        trace=message.trace,
    )


def fingerprint_of(question: wire.Question) -> bytes:
    """What is the same in every repeat of a question, and another in any other."""
    content = [getattr(question, name) for name in _CONTENT]
    return hashlib.sha256(_encoder.encode(content)).digest()[:16]


def id_from_correlation(correlation: bytes | None) -> str | None:
    """The id that Correlation Data stands for: itself where it is printable and short, else its hex.

    >>> id_from_correlation(b"req-7"), id_from_correlation(bytes([0, 255])), id_from_correlation(b"")
    ('req-7', '00ff', None)
    """
    if not correlation:
        return None
    try:
        text = correlation.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and 0 < len(text) <= MAX_ID_CHARS:
        return text
    in_hex = correlation.hex()
    return in_hex if len(in_hex) <= MAX_ID_CHARS else hashlib.sha256(correlation).hexdigest()


def other_id(ask: Ask) -> Ask:
    """The same question under an id of its own, for a device that used one Correlation Data twice.

    The id follows from the content, so a redelivery gets it again.
    """
    assert ask.question.id is not None
    new_id = f"{ask.question.id[: MAX_ID_CHARS - 17]}~{ask.fingerprint[:8].hex()}"
    return msgspec.structs.replace(ask, question=msgspec.structs.replace(ask.question, id=new_id))


_encoder = msgspec.json.Encoder()
_CONTENT: Final = tuple(
    name for name in wire.Question.__struct_fields__ if name not in ("id", "deadline_ms", "earlier")
)


class _IdOnly(msgspec.Struct):
    id: wire.QuestionId | None = None


_id_decoder = msgspec.json.Decoder(_IdOnly)


def _id_of_garbage(payload: bytes) -> str | None:
    """The id in a payload that is otherwise no question, so that its sender recognises the failure."""
    if not payload.startswith(b"{") or len(payload) > wire.MAX_MESSAGE_BYTES:
        return None
    try:
        return _id_decoder.decode(payload).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
