"""A node that computes nothing but takes as long: first come, first served, in `parallel` slots.

Takes Work and Cancel, gives Done and backlog as a real one does. Where it `minds_budgets` it also drops by itself, as a
real one does, what is late: queued or under way, and without a word, for by then the hub has ended the question. Knows
nothing of networks, or of who is chosen.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Final, NamedTuple

from hub import wire
from hub.delay import EXPECTED_TOKENS
from hub.simulator.fleet_file import Kind

_ANSWERS_REMEMBERED: Final = 20


class Job(NamedTuple):
    """A question at this node; it would take `compute_s` on it at its usual speed."""

    work: wire.Work
    arrived_s: float
    tokens: wire.Tokens
    prefill_s: float
    compute_s: float


class Running(NamedTuple):
    """A job under way."""

    end_s: float
    number: int
    began_s: float
    job: Job
    slower: float
    cut: bool  # it will be late, and is ended then


class SimulatedNode:
    """Time is told by the caller, and never goes back."""

    def __init__(self, name: str, kind: Kind, *, minds_budgets: bool = False) -> None:
        self.name = name
        self.minds_budgets = minds_budgets
        self.kind = kind
        self.bundle = wire.ServedBundle(
            bundle=f"simulated-{kind.name}",
            model="simulated",
            task="text-generation",
            context=10**7,
            fixed_ms=kind.fixed_ms * kind.announced,
            prefill_ms_per_token=kind.prefill_ms_per_token * kind.announced,
            decode_ms_per_token=kind.decode_ms_per_token * kind.announced,
        )
        self.epoch = 1
        self.up = True
        self.slower = 1.0
        self.more_link_ms = 0.0
        self._queue: deque[Job] = deque()
        self._running: list[Running] = []
        self._number = 0
        self._mean_tokens = EXPECTED_TOKENS

    @property
    def state(self) -> wire.NodeState:
        """What it shows of itself."""
        return wire.NodeState(
            epoch=self.epoch,
            status="ready" if self.up else "offline",
            bundles=(self.bundle,) if self.up else (),
            parallel=self.kind.parallel,
        )

    def backlog(self, now: float) -> wire.Backlog:
        """What is left, as a node guesses it, which knows how long its answers were and not how long they will be."""
        running_s = sum(max(self._guess_s(one.job) - (now - one.began_s), 0.0) for one in self._running)
        left_s = running_s + sum(self._guess_s(job) for job in self._queue)
        return wire.Backlog(questions=self.in_flight, ms=1000 * left_s)

    @property
    def in_flight(self) -> int:
        """Questions here."""
        return len(self._running) + len(self._queue)

    @property
    def next_end_s(self) -> float | None:
        """When something ends."""
        return self._running[0].end_s if self._running else None

    def take(self, job: Job, now: float) -> None:
        """One more question."""
        self._queue.append(job)
        self._begin(now)

    def cancel(self, cancel: wire.Cancel, now: float) -> None:
        """It is wanted no longer, running or not."""
        wanted = (cancel.device, cancel.id, cancel.attempt)
        self._queue = deque(job for job in self._queue if _key(job) != wanted)
        left = [one for one in self._running if _key(one.job) != wanted]
        if len(left) < len(self._running):
            heapq.heapify(left)
            self._running = left
            self._begin(now)

    def ended(self, now: float) -> list[wire.Done]:
        """What has ended by `now`."""
        done = []
        while self._running and self._running[0].end_s <= now:
            one = heapq.heappop(self._running)
            self._begin(one.end_s)
            if not one.cut:
                done.append(self._done(one, now))
        return done

    def die(self) -> None:
        """Everything it had is lost."""
        self.up = False
        self._queue.clear()
        self._running.clear()

    def rise(self) -> None:
        """It is there again, in a new life."""
        self.up = True
        self.epoch += 1

    def _begin(self, now: float) -> None:
        while self._queue and len(self._running) < self.kind.parallel:
            job = self._queue.popleft()
            self._number += 1
            late_s = job.arrived_s + job.work.budget_ms / 1000 if self.minds_budgets else math.inf
            end_s = now + job.compute_s * self.slower
            if now < late_s:
                one = Running(min(end_s, late_s), self._number, now, job, self.slower, cut=end_s >= late_s)
                heapq.heappush(self._running, one)

    def _guess_s(self, job: Job) -> float:
        return self.slower * (job.prefill_s + self.kind.decode_ms_per_token * self._mean_tokens / 1000)

    def _done(self, one: Running, now: float) -> wire.Done:
        job = one.job
        self._mean_tokens += (job.tokens.completion - self._mean_tokens) / _ANSWERS_REMEMBERED
        prefill_ms = 1000 * job.prefill_s * one.slower
        compute_ms = 1000 * job.compute_s * one.slower
        return wire.Done(
            hub=job.work.hub,
            device=job.work.device,
            id=job.work.question.id or "",
            attempt=job.work.attempt,
            bundle=job.work.bundle,
            outcome="answered",
            tokens=job.tokens,
            timing_ms=wire.Timing(
                queue=1000 * (one.began_s - job.arrived_s),
                prefill=prefill_ms,
                decode=compute_ms - prefill_ms,
                compute=compute_ms,
            ),
            backlog=self.backlog(now),
        )


def _key(job: Job) -> tuple[str, str, int]:
    return job.work.device, job.work.question.id or "", job.work.attempt
