"""A question from the page: asked as any device asks, and told line by line as it is routed and answered.

It goes over the broker under a device name of its own, so it is routed as every other is. Bounded: so many questions
under way, however many clients leave before their answer is there. It knows nothing of sockets or of who may ask.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final

import anyio
import msgspec
from msgspec import Meta

from hub import wire
from hub.ask import Asker, Outcome
from hub.ask_cli import outcome_document
from hub.broker_url import BrokerUrl
from hub.decision import Decision
from hub.errors import LinkError
from hub.web.live import Live
from hub.web.question_view import decision_view

MOST_UNDER_WAY: Final = 8
MOST_CHARS: Final = 16_000
DEADLINE_MS: Final = 60_000.0
_MOST_WAITING: Final = 1000  # pieces for a client that does not read: the answer holds the whole
_DECISION_WITHIN_S: Final = 0.5  # after an answer: a choice is told once its messages are gone
_MOST_SHOWN_CHARS: Final = 100_000  # an embedding is long, and nobody reads it

Line = dict[str, Any]


class PageQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page asks; without `model` any of them, without `task` text generation."""

    question: Annotated[str, Meta(min_length=1, max_length=MOST_CHARS)]
    model: Annotated[str, Meta(max_length=256)] | None = None
    task: Annotated[str, Meta(max_length=256)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=4096)] | None = None


class TooMany(Exception):
    """So many questions are under way that no more is taken."""


class Asking:
    """Asks for the page of `hub`, from the event loop of the HTTP thread. `close` from any thread."""

    def __init__(self, broker: str | BrokerUrl, hub: str, live: Live) -> None:
        self.device = wire.page_device(hub)
        self._broker = broker
        self._live = live
        self._asker: Asker | None = None
        self._under_way = 0

    def close(self) -> None:
        """End; questions under way end with it."""
        if self._asker is not None:
            self._asker.close()

    def ask(self, asked: PageQuestion) -> AsyncIterator[Line]:
        """The lines of one question, the outcome last. Raises TooMany, LinkError, ValueError for no question."""
        question_id = uuid.uuid4().hex
        question = wire.Question(
            id=question_id,
            question=asked.question,
            model=asked.model,
            task=asked.task,
            max_tokens=asked.max_tokens,
            deadline_ms=DEADLINE_MS,
            stream=True,
        )
        if self._under_way >= MOST_UNDER_WAY:
            raise TooMany(f"{MOST_UNDER_WAY} questions of this page are under way: wait for one of them to end")
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[Line | Outcome] = asyncio.Queue()

        def tell(line: Line | Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(lines.put_nowait, line)

        def text(attempt: int, piece: str) -> None:
            if lines.qsize() < _MOST_WAITING:
                tell({"kind": "text", "attempt": attempt, "text": piece})

        def decided(decision: Decision) -> None:
            tell({"kind": "decision", **decision_view(decision)})

        self._live.follow((self.device, question_id), decided)
        try:
            future = self._submit(question, text)
        except BaseException:
            self._live.unfollow((self.device, question_id))
            raise
        self._under_way += 1
        future.add_done_callback(lambda done: tell(_told(done)))
        future.add_done_callback(lambda _: self._ended(question_id, loop))
        return self._lines(question_id, lines)

    def _submit(
        self, question: wire.Question, on_text: Callable[[int, str], None]
    ) -> concurrent.futures.Future[Outcome]:
        """Over a connection that is made with the first question; one that was refused for good is made anew."""
        if self._asker is None:
            self._asker = Asker(self._broker, self.device).__enter__()
        try:
            return self._asker.submit(question, on_text=on_text)
        except LinkError:
            self._asker.close()
            self._asker = None
            raise

    def _ended(self, question_id: str, loop: asyncio.AbstractEventLoop) -> None:
        def ended() -> None:
            self._under_way -= 1
            loop.call_later(_DECISION_WITHIN_S, lambda: self._live.unfollow((self.device, question_id)))

        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended)

    async def _lines(self, question_id: str, lines: asyncio.Queue[Line | Outcome]) -> AsyncIterator[Line]:
        yield {"kind": "asked", "id": question_id, "device": self.device}
        was_decided = False
        while isinstance(line := await lines.get(), dict) and line["kind"] != "failure":
            was_decided = was_decided or line["kind"] == "decision"
            yield line
        if not was_decided and isinstance(line, Outcome) and isinstance(line.reply, wire.Answer):
            later: Line | Outcome | None = None
            with anyio.move_on_after(_DECISION_WITHIN_S):  # another hub may have routed it
                later = await lines.get()
            if isinstance(later, dict):
                yield later
        yield line if isinstance(line, dict) else _outcome(line)


def _told(done: concurrent.futures.Future[Outcome]) -> Line | Outcome:
    error = done.exception()
    if error is None:
        return done.result()
    return {"kind": "failure", "error": {"code": "internal", "message": str(error)}, "timing_ms": {"total": 0.0}}


def _outcome(outcome: Outcome) -> Line:
    """The document of `edge-ask --json`, and what is to be shown of the answer."""
    if isinstance(outcome.reply, wire.Failure):
        return {"kind": "failure", **outcome_document(outcome)}
    shown = wire.plain_text(outcome.reply)[:_MOST_SHOWN_CHARS]
    return {"kind": "answer", **outcome_document(outcome), "shown": shown}
