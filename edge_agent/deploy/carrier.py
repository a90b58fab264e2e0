"""Carries out what the plan says, step by step and without threads: first the record, then the effects.

What takes long (fetching, checking, warming, comparing) is handed back as work, whose outcome is the next event; all
else is done at once. Where the record cannot be written, nothing new is begun, but going back is never held up.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edge_agent import samples
from edge_agent.bundle import Bundle
from edge_agent.bundle_paths import MANIFEST_NAME
from edge_agent.deploy import events, gather
from edge_agent.deploy.content import Content, read_content
from edge_agent.deploy.events import Effect, Event, Fixed
from edge_agent.deploy.fetch import Fetcher, Stop, Stopped
from edge_agent.deploy.health import LEAST_ANSWERS
from edge_agent.deploy.host import Host
from edge_agent.deploy.plan import step
from edge_agent.deploy.shelf import Shelf
from edge_agent.deploy.state import State, changed, deployment
from edge_agent.errors import AgentError, DeployError, FetchBroken
from hub import wire

log = logging.getLogger(__name__)

TIMES: Final = 48  # questions of the node's own to each bundle, where they are short
TIMES_WITHIN_S: Final = 10.0  # after which no further one is asked, once there are LEAST_ANSWERS

Work = Callable[[], Event | None]
Checker = Callable[[Path], Bundle]  # opens and verifies a bundle with its signature; raises AgentError

_NEW_STEPS = (events.Describe, events.Fetch, events.Check, events.Warm, events.Switch)


class Carrier:
    """One node's deployment on one shelf. `check` opens and verifies a bundle; `free_memory` is in bytes, None where
    the system does not say; `tell` is called with each event that happens while work is done.
    """

    def __init__(
        self,
        shelf: Shelf,
        fetcher: Fetcher,
        check: Checker,
        *,
        fixed: Sequence[Bundle],
        free_memory: Callable[[], int | None],
        tell: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        self.shelf = shelf
        self.host: Host | None = None
        self.state = State(record=shelf.record, fixed=tuple(map(_fixed, fixed)))
        self._fetcher = fetcher
        self._check = check
        self._free_memory = free_memory
        self._tell = tell
        self._clock = clock
        self._stop = Stop()
        self._checked: Bundle | None = None
        self._told: wire.Deployment | None = None
        self._holds = False  # a bundle serves that the record knows nothing of: its files stay until the next start
        self._unsaved_why = ""

    def take(self, event: Event, now: float) -> tuple[Work, ...]:
        """Do what follows from `event`; what takes long is to be done by the caller, in order."""
        state, effects = step(self.state, event, now)
        if state.record != self.shelf.record and (fault := self._unsaved(state)) is not None:
            desired = self.state.record.desired
            if any(isinstance(effect, _NEW_STEPS) for effect in effects) and desired is not None:
                if state.record.epoch != desired.epoch:  # a new Desired: taken when it comes again
                    return ()
                return self.take(events.Failed(desired.epoch, fault), now)
        self.state = state
        works: list[Work] = []
        for effect in effects:
            if (work := self._work(effect)) is not None:
                works.append(work)
            elif (failed := self._at_once(effect)) is not None:
                return (*works, *self.take(failed, now))
        self._report()
        return tuple(works)

    def _unsaved(self, state: State) -> str | None:
        """Save the record; why it cannot be."""
        try:
            self.shelf.save(state.record)
        except OSError as error:
            fault = f"the record of deployments cannot be written: {error}"
            if fault != self._unsaved_why:  # said once, and tried again with each event
                log.error("%s", fault)
            self._unsaved_why = fault
            return fault
        self._unsaved_why = ""
        return None

    def _report(self) -> None:
        now = deployment(self.state)
        if self.host is None or now is None or now == self._told:
            return
        if self._told is None or (now.phase, now.why) != (self._told.phase, self._told.why):
            log.info("rollout %s, %s: %s %s", now.rollout, now.bundle, now.phase, now.why)
        self._told = now
        try:
            self.host.report(now)
        except Exception:  # what is told must not hold up what is done
            log.exception("the state of a deployment could not be told")

    # --- at once ----------------------------------------------------------------------------------------

    def _at_once(self, effect: Effect) -> events.Failed | None:
        """What does not take long; where a switch fails, so does the deployment, and all else goes on."""
        try:
            self._do(effect)
        except Exception as error:
            if not isinstance(error, (AgentError, OSError)):
                log.exception("%s failed", type(effect).__name__)
            if isinstance(effect, events.Switch):
                return events.Failed(self.state.record.epoch, f"cannot be switched to: {error}")
            log.error("%s: %s", type(effect).__name__, error)
            if isinstance(effect, events.GoBack):  # the hub must not take it for done
                self.state = changed(self.state, note=f"but {effect.bundle} still serves, until a restart: {error}")
                self._holds = True
        return None

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, events.Tidy):
            if not self._holds:
                self.shelf.tidy(effect.keep)
        elif isinstance(effect, events.StopWork):
            self._stop.set()
            self._stop = Stop()
        elif self.host is None:
            return  # nothing is open yet: what the record says is what will be opened
        elif isinstance(effect, events.Switch):
            self.host.switch(effect.bundle, effect.replaces)
        elif isinstance(effect, events.Settle):
            self.host.settle(effect.bundle, effect.replaces)
        elif isinstance(effect, events.GoBack):
            to = None if effect.folder is None else self.shelf.folder(effect.folder)
            self.host.go_back(effect.bundle, effect.replaces, to)
        elif isinstance(effect, events.Release):
            self.host.release(effect.bundle)

    # --- what takes long --------------------------------------------------------------------------------

    def _work(self, effect: Effect) -> Work | None:
        stop = self._stop
        if isinstance(effect, events.Describe):
            return self._guarded(effect.desired.epoch, stop, lambda: self._describe(effect, stop))
        if isinstance(effect, events.Fetch):
            return self._guarded(effect.desired.epoch, stop, lambda: self._fetch(effect, stop))
        if isinstance(effect, events.Check):
            return self._guarded(effect.epoch, stop, lambda: self._checks(effect))
        if isinstance(effect, events.Warm):
            return self._guarded(effect.epoch, stop, lambda: self._warm(effect, stop))
        if isinstance(effect, events.Compare):
            return lambda: self._compare(effect)
        return None

    def _guarded(self, epoch: int, stop: Stop, work: Callable[[], Event | None]) -> Work:
        def guarded() -> Event | None:
            try:
                stop.wait(0)
                return work()
            except Stopped:
                return None
            except FetchBroken as error:
                return events.Failed(epoch, str(error), may_later=True)
            except (AgentError, OSError) as error:
                return events.Failed(epoch, str(error))
            except Exception as error:  # a bug, or a runtime's: this bundle is refused, and the node goes on
                log.exception("the deployment of epoch %d failed", epoch)
                return events.Failed(epoch, f"{type(error).__name__}: {error}")

        return guarded

    def _describe(self, effect: events.Describe, stop: Stop) -> Event:
        content = gather.describe(self.shelf, self._fetcher, effect.desired, effect.folder, stop)
        return events.Described(effect.desired.epoch, gather.facts_of(content))

    def _fetch(self, effect: events.Fetch, stop: Stop) -> Event:
        epoch = effect.desired.epoch

        def heard(fetched_bytes: int, share: float) -> None:
            self._tell(events.Progressed(epoch, fetched_bytes, share))

        gather.gather(self.shelf, self._fetcher, effect.desired, effect.folder, stop, heard)
        return events.Fetched(epoch)

    def _checks(self, effect: events.Check) -> Event:
        self._checked = self._check(self.shelf.folder(effect.folder))
        return events.Checked(effect.epoch, gather.facts_of(_content(self._checked)))

    def _warm(self, effect: events.Warm, stop: Stop) -> Event | None:
        bundle, host = self._checked, self.host
        assert bundle is not None
        assert host is not None
        if fault := memory_fault(_content(bundle).memory_bytes, self._free_memory()):
            raise DeployError(fault)
        score = host.warm(bundle)
        why = None if score is None else samples.refusal(score)
        if stop.is_set:  # whoever stopped this may have done so before there was anything to release
            host.release(bundle.manifest.bundle_id)
            raise Stopped
        if why is not None:
            raise DeployError(why)
        return events.Warmed(effect.epoch)

    def _compare(self, effect: events.Compare) -> Event:
        assert self.host is not None
        try:
            score = self.host.compare(effect.bundle)
        except Exception as error:
            log.warning("%s cannot answer its samples again: %s", effect.bundle, error)
            return events.Compared(effect.epoch, f"cannot answer its samples again: {error}")
        why = None if score is None else samples.refusal(score)
        if why is not None or effect.before is None:
            return events.Compared(effect.epoch, why)
        try:
            ratios = self._ratios(self.host, effect.bundle, effect.before)
        except Exception as error:
            log.warning("%s cannot answer a question of this node: %s", effect.bundle, error)
            return events.Compared(effect.epoch, f"cannot answer a question of this node: {error}")
        if ratios:
            more = statistics.median(ratios) - 1
            log.info("%s takes %+.0f%% beside %s, in %d answers", effect.bundle, 100 * more, effect.before, len(ratios))
        return events.Compared(effect.epoch, None, ratios)

    def _ratios(self, host: Host, bundle: str, before: str) -> tuple[float, ...]:
        """As many as there is time for; fewer where others are asked all the time."""
        found: list[float] = []
        began = self._clock()
        for number in range(TIMES):
            if number >= LEAST_ANSWERS and self._clock() - began > TIMES_WITHIN_S:
                break
            if (ratio := host.time(bundle, before)) is not None:
                found.append(ratio)
        return tuple(found)


def memory_fault(needed_bytes: int, free_bytes: int | None) -> str | None:
    """Why a bundle cannot be opened beside what runs; None if it can, or the system does not say."""
    if free_bytes is None or needed_bytes <= free_bytes:
        return None
    return f"about {needed_bytes} bytes of memory are needed beside what runs, {free_bytes} are free"


def _content(bundle: Bundle) -> Content:
    return read_content((bundle.path / MANIFEST_NAME).read_bytes())


def _fixed(bundle: Bundle) -> Fixed:
    manifest = hashlib.sha256((bundle.path / MANIFEST_NAME).read_bytes()).hexdigest()
    said = bundle.manifest
    return Fixed(model=said.model.name, bundle=said.bundle_id, version=said.version, manifest=manifest)
