"""Answers with what runs already, and goes over to a better runtime once that is ready.

What is better takes minutes to make ready (an engine is built): a thread of its own does that, and the change happens
between questions, when the worker says that nothing is under way. Knows nothing of how either answers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable

import msgspec

from device_profiles.profile import Runtime
from edge_agent.errors import AgentError, RequestError
from edge_agent.runtime.choice import Choice
from edge_agent.runtime.generation import Answerer, Generation
from edge_agent.samples import SamplesScore
from hub import wire

log = logging.getLogger(__name__)


class Ready:
    """An answerer that has passed its checks, what runs it, and how it is released."""

    def __init__(
        self,
        answerer: Answerer,
        runtime: Runtime,
        close: Callable[[], None],
        compare: Callable[[], SamplesScore | None] = lambda: None,
    ) -> None:
        """`compare` gives the bundle's samples again; None where it has none."""
        self.answerer = answerer
        self.runtime = runtime
        self.close = close
        self.compare = compare


class Preparation:
    """Makes `runtime` ready in a thread. `outcome` is None until it is, or the reason why it never will be."""

    def __init__(
        self,
        runtime: Runtime,
        prepare: Callable[[], Ready],
        *,
        progress: Callable[[], float] = lambda: 0.0,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`prepare` runs in the thread and raises AgentError; `stop` makes it end soon."""
        self.runtime = runtime
        self.outcome: Ready | str | None = None
        self._prepare = prepare
        self._progress = progress
        self._stop = stop
        self._thread = threading.Thread(target=self._run, name=f"prepare {runtime}", daemon=True)
        self._thread.start()

    @property
    def progress(self) -> float:
        """0 to 1, in whole percent."""
        return round(self._progress(), 2)

    def wait(self, limit_s: float) -> bool:
        """Whether it has come to an outcome within that time."""
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End it, and release what came of it."""
        self._stop()
        if self.wait(5.0) and isinstance(self.outcome, Ready):
            self.outcome.close()

    def _run(self) -> None:
        try:
            self.outcome = self._prepare()
        except AgentError as error:
            self.outcome = str(error)
        except Exception as error:  # a library's fault must not leave the node waiting for ever
            log.error("making %s ready failed", self.runtime, exc_info=error)
            self.outcome = f"{type(error).__name__}: {error}"


class Switching:
    """Satisfies `Answerer` by what is in use; `choice` says what that is, and why nothing better."""

    def __init__(self, first: Ready, choice: Choice, preparation: Preparation | None = None) -> None:
        self.choice = choice
        self.version: int | None = None  # what the same bundle was signed as anew
        self._now = first
        self._preparation = preparation

    @property
    def served(self) -> wire.ServedBundle:
        """What is in use, why nothing better is, and how far the building of that has come."""
        under_way, served = self._preparation, self._now.answerer.served
        return msgspec.structs.replace(
            served,
            version=served.version if self.version is None else self.version,
            runtime=self.choice.used,
            why=self.choice.why,
            progress=None if under_way is None else under_way.progress,
        )

    @property
    def parallel(self) -> int:
        """Of what is in use; the worker may begin more, which then wait."""
        return self._now.answerer.parallel

    def begin(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Hashable:
        """Take up a question, as `Answerer` says."""
        return self._now.answerer.begin(question, should_stop=should_stop, on_text=on_text)

    def advance(self) -> list[tuple[Hashable, Generation | RequestError]]:
        """A bounded piece of work."""
        return self._now.answerer.advance()

    def abandon(self) -> None:
        """Forget all that was begun."""
        self._now.answerer.abandon()

    def compare(self) -> SamplesScore | None:
        """Give the bundle's samples again, while nothing is under way; None where it has none. Raises AgentError."""
        return self._now.compare()

    def tend(self) -> None:
        """Go over to what has become ready, or take note of why it never will be."""
        self._now.answerer.tend()
        if self._preparation is None or self._preparation.outcome is None:
            return
        prepared, self._preparation = self._preparation, None
        outcome = prepared.outcome
        if isinstance(outcome, Ready):
            before, self._now = self._now, outcome
            self.choice = self.choice.using(outcome.runtime)
            before.close()
            log.info("%s now runs on %s", self.served.bundle, outcome.runtime)
        else:
            self.choice = self.choice.without(prepared.runtime, str(outcome))
            log.warning("%s stays on %s: %s", self.served.bundle, self.choice.used, self.choice.why)

    def close(self) -> None:
        """Release what is in use and what is being made ready."""
        if self._preparation is not None:
            self._preparation.close()
        self._now.close()
