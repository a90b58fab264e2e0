"""The one thread in which a node computes; everything else stays in the MQTT loop's thread.

It takes up questions between two runs of a graph and says of each when it is done; between questions it looks whether
a bundle has become slower or faster than was last said. Knows nothing of MQTT or queues.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Final

import msgspec

from edge_agent.conversation import Conversations
from edge_agent.errors import ContextOverflow, RequestError
from edge_agent.events import Event, Key, Refusal, ServedChanged, StartWork, TextProduced, WorkFinished
from edge_agent.runtime.generation import Answerer, Generation
from hub import wire

log = logging.getLogger(__name__)

TEND_S: Final = 3.0  # while idle, answerers look at how fast they are; while busy, they see it
LOOK_S: Final = 1.0  # between two looks at what they say of it
NEWS: Final = 1.25  # times as slow, or as fast, as was last said


class _Added(msgspec.Struct, frozen=True):
    bundle: str
    answerer: Answerer


class _Removed(msgspec.Struct, frozen=True):
    bundle: str
    then: Callable[[], None]


class _Called(msgspec.Struct, frozen=True):
    bundle: str
    call: Callable[[bool], None]


_Job = StartWork | _Added | _Removed | _Called


class Worker:
    """Runs answerers, by bundle id, in one thread; `report` is called from it with each event.

    A thread that dies is replaced once, and what it had begun fails; the second time `died` is called instead.
    """

    def __init__(
        self,
        answerers: Mapping[str, Answerer],
        report: Callable[[Event], None],
        died: Callable[[], None] = lambda: None,
    ) -> None:
        self._answerers = dict(answerers)
        self._report = report
        self._died = died
        self._deaths = 0
        self._said = {bundle: answerer.served for bundle, answerer in answerers.items()}
        self._looked_at = 0.0
        self._conversations = Conversations()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stops: dict[Key, threading.Event] = {}
        self._begun: dict[str, dict[Hashable, StartWork]] = {bundle: {} for bundle in answerers}
        self._thread = self._started()

    def start(self, job: StartWork) -> None:
        """Answer this; WorkFinished follows, whatever happens."""
        self._stops[job.key] = threading.Event()
        self._jobs.put(job)

    def stop(self, key: Key) -> None:
        """Stop after the current token."""
        if (stop := self._stops.get(key)) is not None:  # the inference thread takes it away when it is done
            stop.set()

    def add(self, bundle: str, answerer: Answerer) -> None:
        """Take one more bundle, for all work that is started after this."""
        self._jobs.put(_Added(bundle, answerer))

    def remove(self, bundle: str, then: Callable[[], None]) -> None:
        """Let a bundle go for which nothing is started any more, and call `then` in the thread."""
        self._jobs.put(_Removed(bundle, then))

    def between_questions(self, bundle: str, call: Callable[[bool], None]) -> None:
        """Call this in the thread, between two runs, with whether nothing of that bundle is under way."""
        self._jobs.put(_Called(bundle, call))

    def close(self, limit_s: float = 5.0) -> None:
        """Stop whatever runs and end the thread."""
        for stop in list(self._stops.values()):
            stop.set()
        self._jobs.put(None)
        self._thread.join(limit_s)

    # --- in the thread ----------------------------------------------------------------------------------

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._live, name="inference", daemon=True)
        thread.start()
        return thread

    def _live(self) -> None:
        try:
            self._run()
        except BaseException as error:  # what is no Exception is no fault of one question: the thread is lost
            self._deaths += 1
            log.critical("the inference thread died of %s, for the %d. time", type(error).__name__, self._deaths)
            for bundle, begun in self._begun.items():
                self._abandon(bundle, begun, RuntimeError(f"the inference thread died of {type(error).__name__}"))
            if self._deaths > 1:
                self._died()
            else:
                self._thread = self._started()

    def _run(self) -> None:
        while True:
            busy = [bundle for bundle, begun in self._begun.items() if begun]
            while not busy or not self._jobs.empty():
                job = self._jobs.get() if busy else self._next_or_tend()
                if job is None:
                    return
                self._take(job)
                busy = [bundle for bundle, begun in self._begun.items() if begun]
            for bundle in busy:
                self._advance(bundle)
            self._look()

    def _next_or_tend(self) -> _Job | None:
        """What comes next; while nothing comes, the answerers are tended."""
        while True:
            try:
                return self._jobs.get(timeout=TEND_S)
            except queue.Empty:
                for bundle, answerer in self._answerers.items():
                    try:
                        answerer.tend()
                    except Exception:  # what is not well will show in its answers
                        log.exception("a look at bundle %s failed", bundle)
                self._look()

    def _look(self) -> None:
        """Report what has changed of what is served, at most once a second."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        for bundle, answerer in self._answerers.items():
            served = answerer.served
            if _is_news(self._said[bundle], served):
                self._said[bundle] = served
                self._report(ServedChanged(served))

    def _take(self, job: _Job) -> None:
        if isinstance(job, StartWork):
            self._begin(job)
        elif isinstance(job, _Added):
            self._answerers[job.bundle] = job.answerer
            self._said[job.bundle] = job.answerer.served
            self._begun[job.bundle] = {}
        elif isinstance(job, _Called):
            job.call(not self._begun.get(job.bundle))
        else:
            for known in (self._answerers, self._said, self._begun):
                known.pop(job.bundle, None)
            job.then()

    def _begin(self, job: StartWork) -> None:
        on_text = (lambda text: self._report(TextProduced(job.key, text))) if job.question.stream else None
        answerer, should_stop = self._answerers[job.bundle], self._stops[job.key].is_set
        try:
            question = self._conversations.continued(job.key[0], job.question)
            try:
                ticket = answerer.begin(question, should_stop=should_stop, on_text=on_text)
            except ContextOverflow:
                if not self._conversations.forget(job.key[0], job.question):
                    raise
                ticket = answerer.begin(job.question, should_stop=should_stop, on_text=on_text)
        except BaseException as error:  # a bug or a runtime fault must fail this question, not the node
            self._end(job, _refusal(job, error))
            if not isinstance(error, Exception):
                raise
        else:
            self._begun[job.bundle][ticket] = job

    def _advance(self, bundle: str) -> None:
        begun = self._begun[bundle]
        try:
            outcomes = self._answerers[bundle].advance()
        except Exception as error:  # whatever was being computed together is lost together
            self._abandon(bundle, begun, error)
            return
        for ticket, outcome in outcomes:
            job = begun.pop(ticket)
            if isinstance(outcome, Generation):
                if outcome.finish != "cancelled":
                    self._conversations.remember(job.key[0], job.question, outcome.text or "")
                self._end(job, outcome)
            else:
                self._end(job, _refusal(job, outcome))

    def _abandon(self, bundle: str, begun: dict[Hashable, StartWork], error: Exception) -> None:
        jobs = list(begun.values())
        begun.clear()
        self._answerers[bundle].abandon()
        for job in jobs:
            self._end(job, _refusal(job, error))

    def _end(self, job: StartWork, result: Generation | Refusal) -> None:
        self._stops.pop(job.key, None)
        self._report(WorkFinished(job.key, result))


def _is_news(said: wire.ServedBundle, served: wire.ServedBundle) -> bool:
    """Whether this is something else than was said, or costs much more or less, by a usual answer."""
    plain = msgspec.structs.replace(
        served,
        fixed_ms=said.fixed_ms,
        prefill_ms_per_token=said.prefill_ms_per_token,
        decode_ms_per_token=said.decode_ms_per_token,
    )
    if plain != said:
        return True
    before_ms, now_ms = _usual_ms(said), _usual_ms(served)
    return not before_ms / NEWS <= now_ms <= before_ms * NEWS


def _usual_ms(served: wire.ServedBundle) -> float:
    return served.fixed_ms + 64 * (served.prefill_ms_per_token + served.decode_ms_per_token)


def _refusal(job: StartWork, error: BaseException) -> Refusal:
    if isinstance(error, RequestError):
        return Refusal(error.code, str(error))  # type: ignore[arg-type]  # one of wire.Code
    log.error("question %s of %s failed", job.key[1], job.key[0], exc_info=error)
    return Refusal("internal", f"{type(error).__name__}: {error}"[:500])
