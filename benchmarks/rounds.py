"""Lets several jobs measure by turns, each in a process of its own, so that none waits for another's threads or memory.

One works at a time. Knows nothing of what they measure: a job opens something and gives back a measurement, to be
called once for each round; both travel to the process and must be picklable, and so must what is measured.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Generic, NamedTuple, TypeVar

SampleT = TypeVar("SampleT")


class _Worker(NamedTuple, Generic[SampleT]):
    """One job's process, seen from here."""

    name: str
    pipe: Connection

    def take(self) -> SampleT:
        """What it measures next."""
        try:
            sample: SampleT = self.pipe.recv()
        except EOFError:
            raise SystemExit(f"{self.name} has died; its last words are above") from None
        return sample


def interleaved(
    jobs: Mapping[str, Callable[[], Callable[[], SampleT]]], rounds: int, between: Callable[[], None] = lambda: None
) -> dict[str, list[SampleT]]:
    """`rounds` samples of each job in turns, after a warm-up; `between` is called before each round."""
    with ExitStack() as at_end:
        workers = [_start(name, job, at_end) for name, job in jobs.items()]
        samples: dict[str, list[SampleT]] = {name: [] for name in jobs}
        for done in range(rounds):
            between()
            for worker in workers:
                worker.pipe.send("again")
                samples[worker.name].append(worker.take())
            note(f"{', '.join(jobs)}: round {done + 1} of {rounds}")
    return samples


def alone(name: str, job: Callable[[], Callable[[], SampleT]]) -> SampleT:
    """The only sample of a job, without a warm-up."""
    with ExitStack() as at_end:
        worker: _Worker[SampleT] = _Worker(name, _pipe_of(job, at_end))
        sample = worker.take()
    note(name)
    return sample


def note(text: str) -> None:
    """Progress, where somebody watches."""
    if sys.stderr.isatty():
        print(f"bench: {text}", file=sys.stderr)


def _start(name: str, job: Callable[[], Callable[[], SampleT]], at_end: ExitStack) -> _Worker[SampleT]:
    worker: _Worker[SampleT] = _Worker(name, _pipe_of(job, at_end))
    worker.take()  # the warm-up
    return worker


def _pipe_of(job: Callable[[], Callable[[], SampleT]], at_end: ExitStack) -> Connection:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(theirs, job))
    process.start()
    at_end.callback(process.join)  # undone in reverse: the pipe is closed, which ends the process, which is awaited
    at_end.callback(ours.close)
    theirs.close()  # else a job that dies would be waited for
    return ours


def _work(pipe: Connection, job: Callable[[], Callable[[], SampleT]]) -> None:
    """The life of a job's process: one sample at once, then one for each order until nobody asks."""
    measure = job()
    with suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(measure())
            pipe.recv()
