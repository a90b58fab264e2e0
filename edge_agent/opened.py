"""Which bundles has this process open, and how do they change while it serves? The host of `deploy/`.

Every model of the fixed bundles, and every one that was deployed, has a place, in which one bundle serves. A bundle
that left its place stays open until it is said to be needed no more, so that going back costs nothing.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

from edge_agent.bundle import Bundle
from edge_agent.errors import BundleError, DeployError, RequestError
from edge_agent.price import Priced, expected, predicted_ms
from edge_agent.runtime.generation import Answerer, Generation
from edge_agent.runtime.launch import Opening, open_answerer
from edge_agent.runtime.switching import Switching
from edge_agent.samples import SamplesScore
from hub import wire

log = logging.getLogger(__name__)
T = TypeVar("T")

CLOSES_WITHIN_S: Final = 60.0
COMPARES_WITHIN_S: Final = 120.0
PROBE: Final = "What is the capital of France?"
PROBE_CONTEXT: Final = "Paris is the capital of France."
PROBE_TOKENS: Final = 8


class Service(Protocol):
    """The running node; its methods return at once, and what they say happens in order."""

    def offer(self, answerer: Answerer, *, instead_of: str | None = None) -> None: ...

    def withdraw(self, bundle: str) -> None: ...

    def let_go(self, bundle: str, close: Callable[[], None]) -> None: ...

    def between_questions(self, bundle: str, call: Callable[[bool], None]) -> None: ...

    def deployed(self, deployment: wire.Deployment) -> None: ...


class Opened:
    """The open bundles of one process. `check` opens and verifies a bundle; `fixed` are those of `--bundle`."""

    def __init__(self, opening: Opening, check: Callable[[Path], Bundle], fixed: Sequence[Bundle] = ()) -> None:
        self.service: Service | None = None
        self._opening = opening
        self._check = check
        self._fixed = {bundle.manifest.model.name: bundle for bundle in fixed}
        self._twice = {model for model in self._fixed if sum(one.manifest.model.name == model for one in fixed) > 1}
        self._open: dict[str, Switching] = {}
        self._places: dict[str, str] = {}  # model to the bundle that serves in its place
        self._before: dict[str, str] = {}  # ... and to the one that did before, while it is kept open
        self._versions: dict[str, int] = {}  # as which each was warmed last
        self._priced: dict[str, Priced] = {}  # as each was opened
        self._closing: dict[str, threading.Event] = {}
        self.profile = ""  # of what was opened first
        self._lock = threading.Lock()

    @property
    def answerers(self) -> Mapping[str, Answerer]:
        """By bundle id."""
        return dict(self._open)

    def open(self, bundle: Bundle, place: str | None = None) -> None:
        """Open a bundle before the node serves, in the place of its own model or of another. Raises AgentError."""
        opened = bundle.manifest.bundle_id
        if opened in self._open:
            raise BundleError(f"{bundle.path} is bundle {opened} again: give each bundle once")
        self._open[opened] = answerer = open_answerer(bundle, self._opening)
        self._priced[opened] = Priced(answerer.served, bundle.manifest.measured)
        self.profile = self.profile or bundle.manifest.profile
        model = bundle.manifest.model.name
        self._places[place or (opened if model in self._twice else model)] = opened
        served = answerer.served
        log.info(
            "opened %s: %.1f ms + %.2f ms a prompt token + %.2f ms an answer token here",
            served.bundle, served.fixed_ms, served.prefill_ms_per_token, served.decode_ms_per_token,
        )  # fmt: skip

    def close(self) -> None:
        """Close all; nobody is answered any more."""
        for answerer in self._open.values():
            answerer.close()
        self._open.clear()

    # --- for who deploys: `deploy/host.py` says what each does ------------------------------------------

    def warm(self, bundle: Bundle) -> SamplesScore | None:
        """Opening compares the samples, and refuses a bundle whose answers differ."""
        opened = bundle.manifest.bundle_id
        if (closing := self._closing.get(opened)) is not None and not closing.wait(CLOSES_WITHIN_S):
            raise DeployError(f"{opened} is still being closed: what it has to answer takes too long")
        self._versions[opened] = bundle.manifest.version
        with self._lock:
            if opened in self._open:  # the same content, signed anew as another version
                return None
        answerer = open_answerer(bundle, self._opening)
        with self._lock:
            self._open[opened] = answerer
        self._priced[opened] = Priced(answerer.served, bundle.manifest.measured)
        return None

    def compare(self, bundle: str) -> SamplesScore | None:
        """Also answer a question as it would come from a device: on trial without one, nothing else has been seen.

        None where questions came in between: they will tell.
        """
        return self._between_questions(bundle, _tried)

    def time(self, bundle: str, before: str) -> float | None:
        """By a question of the node's own to each, alone: what slows the machine down slows both."""
        new, old = self._priced.get(bundle), self._priced.get(before)
        if new is None or old is None or not {bundle, before} <= self._open.keys():
            return None
        price = expected(new.said, old)
        if price is None or (given := self._between_questions(bundle, _asked)) is None:
            return None
        if (given_before := self._between_questions(before, _asked)) is None:
            return None
        due_ms, due_before_ms = predicted_ms(price, given.tokens), predicted_ms(old.here, given_before.tokens)
        if due_ms <= 0 or due_before_ms <= 0 or given_before.compute_ms <= 0:
            return None
        return (given.compute_ms / due_ms) / (given_before.compute_ms / due_before_ms)

    def switch(self, bundle: str, replaces: str) -> None:
        """Refused where two fixed bundles are of the same model: which of them is meant cannot be known."""
        if replaces in self._twice:
            raise DeployError(f"this node has two fixed bundles of {replaces}: serve each model with one bundle")
        before = self._places.get(replaces)
        self._offer(bundle, replaces, before)
        if before is not None and before != bundle:
            self._before[replaces] = before

    def settle(self, bundle: str, replaces: str) -> None:
        """The one before is closed."""
        before = self._before.pop(replaces, None)
        if before is not None and before != bundle:
            self._let_go(before)

    def go_back(self, bundle: str, replaces: str, to: Path | None) -> None:
        """What served before is open still, but for a rollout that had been settled: only then is it checked again."""
        if self._places.get(replaces) != bundle:  # it was never switched to, and what serves goes on
            return self.release(bundle)
        before = self._before.pop(replaces, None)
        if before is not None and before in self._open:
            self._offer(before, replaces, bundle)
            return self._let_go(bundle)
        back = self._check(to) if to is not None else self._fixed.get(replaces)
        if back is None:
            self._places.pop(replaces, None)
            self._running.withdraw(bundle)
        else:
            self.warm(back)
            self._offer(back.manifest.bundle_id, replaces, bundle)
        if back is None or back.manifest.bundle_id != bundle:
            self._let_go(bundle)
        return None

    def release(self, bundle: str) -> None:
        """Nobody was answered with it."""
        with self._lock:
            answerer = None if bundle in self._places.values() else self._open.pop(bundle, None)
        if answerer is not None:
            answerer.close()

    def report(self, deployment: wire.Deployment) -> None:
        """Into the node's state."""
        self._running.deployed(deployment)

    # --- inside -----------------------------------------------------------------------------------------

    @property
    def _running(self) -> Service:
        assert self.service is not None, "nothing is deployed before the node serves"
        return self.service

    def _offer(self, bundle: str, replaces: str, instead_of: str | None) -> None:
        self._open[bundle].version = self._versions.get(bundle)
        self._running.offer(self._open[bundle], instead_of=instead_of)
        self._places[replaces] = bundle

    def _between_questions(self, bundle: str, ask: Callable[[Switching], T | None]) -> T | None:
        """What comes of it; None where something of that bundle was under way. Raises what `ask` does, DeployError."""
        outcome: concurrent.futures.Future[T | None] = concurrent.futures.Future()

        def asked(idle: bool) -> None:
            try:
                outcome.set_result(ask(self._open[bundle]) if idle else None)
            except BaseException as error:  # it is for whoever asked, not for the thread that answers questions
                outcome.set_exception(error)
                if not isinstance(error, Exception):
                    raise

        self._running.between_questions(bundle, asked)
        try:
            return outcome.result(COMPARES_WITHIN_S)
        except concurrent.futures.TimeoutError:
            raise DeployError(f"{bundle} has not answered its samples within {COMPARES_WITHIN_S:.0f} s") from None

    def _let_go(self, bundle: str) -> None:
        """Close it once its work has ended, if it serves nowhere else."""
        with self._lock:
            if bundle in self._places.values() or bundle not in self._open:
                return
            answerer, closed = self._open.pop(bundle), threading.Event()
            self._closing[bundle] = closed

        def close() -> None:
            try:
                answerer.close()
            except Exception:  # it is called where questions are answered: that must go on
                log.exception("%s could not be closed", bundle)
            finally:
                self._closing.pop(bundle, None)
                closed.set()

        self._running.let_go(bundle, close)


def _tried(answerer: Switching) -> SamplesScore | None:
    """The samples again, and a question. Raises as `_asked` does."""
    score = answerer.compare()
    _asked(answerer)
    return score


def _asked(answerer: Switching) -> Generation | None:
    """What comes of a question; None where it is not taken. Raises what the answerer does, but for such a question."""
    finds = answerer.served.task == "question-answering"
    question = wire.Question(
        id="trial", question=PROBE, context=PROBE_CONTEXT if finds else None, max_tokens=PROBE_TOKENS
    )
    try:
        ticket = answerer.begin(question, should_stop=lambda: False)
        while True:
            for ended, outcome in answerer.advance():
                if ended != ticket:
                    continue
                if isinstance(outcome, RequestError):
                    raise outcome
                return outcome
    except RequestError as error:
        if error.code == "internal":
            raise
        return None
    except BaseException:  # what was begun for it must not end among the questions of others
        answerer.abandon()
        raise
