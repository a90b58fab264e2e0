"""The one thread in which a node computes; everything else stays in the MQTT loop's thread.

Knows nothing of MQTT or queues: it is given one question at a time and says when it is done.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping

from edge_agent.core import Event, Key, Refusal, StartWork, TextProduced, WorkFinished
from edge_agent.errors import RequestError
from edge_agent.runtime.generation import Answerer, Generation

log = logging.getLogger(__name__)


class Worker:
    """Runs answerers, by bundle id, in one thread; `report` is called from it with each event."""

    def __init__(self, answerers: Mapping[str, Answerer], report: Callable[[Event], None]) -> None:
        self._answerers = answerers
        self._report = report
        self._jobs: queue.SimpleQueue[StartWork | None] = queue.SimpleQueue()
        self._stops: dict[Key, threading.Event] = {}
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def start(self, job: StartWork) -> None:
        """Answer this; WorkFinished follows, whatever happens."""
        self._stops[job.key] = threading.Event()
        self._jobs.put(job)

    def stop(self, key: Key) -> None:
        """Stop after the current token."""
        if key in self._stops:
            self._stops[key].set()

    def close(self, limit_s: float = 5.0) -> None:
        """Stop whatever runs and end the thread."""
        for stop in list(self._stops.values()):
            stop.set()
        self._jobs.put(None)
        self._thread.join(limit_s)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            result = self._answer(job)
            self._stops.pop(job.key, None)
            self._report(WorkFinished(job.key, result))

    def _answer(self, job: StartWork) -> Generation | Refusal:
        on_text = (lambda text: self._report(TextProduced(job.key, text))) if job.question.stream else None
        try:
            return self._answerers[job.bundle].answer(
                job.question, should_stop=self._stops[job.key].is_set, on_text=on_text
            )
        except RequestError as error:
            return Refusal(error.code, str(error))  # type: ignore[arg-type]  # one of wire.Code
        except Exception as error:  # a bug or a runtime fault must fail this question, not the node
            log.exception("question %s of %s failed", job.key[1], job.key[0])
            return Refusal("internal", f"{type(error).__name__}: {error}"[:500])
