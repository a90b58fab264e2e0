"""What a node does with work: queue, recognise repeats, refuse what is late, cancel, report. Pure.

`NodeCore.handle(event, now)` returns what is to be done; it reads no clock and touches no socket or thread.
As many questions run at once as their bundle takes, devices in turns, and none of several devices takes all of a bundle
for itself: a turn is worth little if it begins when a long answer ends. `now` is monotonic seconds. Work is a repeat
when device, id, question and bundle are the same: a device that uses an id again for another question gets an answer to
that one. Failures are reported to the hub, which decides whether to try elsewhere; only an answer goes to the device.

A question's life here:

    (new) -> queued -> running -> answered   remembered, a repeat gets the same answer again
                 \\          \\-> failed      reported, forgotten: a repeat is tried again
                  \\-> cancelled, late        reported, forgotten
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from edge_agent import events
from edge_agent.loaded import Loaded
from edge_agent.turns import Turns
from hub import wire

CHUNK_INTERVAL_S: Final = 0.020
OVERDUE: Final = 2.0  # times what an answer should take: the bundle's fault, not that of a tight deadline
MOST_RETOLD: Final = 64  # answers that a hub has missed, in one go
SHARED_S: Final = 600.0  # a device that was served within so long may come again: its place is kept free
_LEFT: Final = events.Refusal("overloaded", "this node is shutting down")
_HERE: Final = ""  # the device and hub of what was asked here: no name on the wire is empty


class _Job:
    """A question that is queued or running."""

    def __init__(self, work: wire.Work, now: float) -> None:
        self.work = work
        self.here = work.device == _HERE
        self.received_at = now
        self.deadline_at = now + work.budget_ms / 1000
        self.started_at: float | None = None
        self.computed_before_s = 0.0  # by then, of all questions: `NodeCore._count`
        self.unwanted: events.Refusal | None = None  # set when running and cancelled (code "") or late
        self.pending_text = ""
        self.chunks = 0
        self.last_chunk_at = -1.0

    @property
    def key(self) -> events.Key:
        assert self.work.question.id is not None
        return self.work.device, self.work.question.id


class _Answered:
    """An answer that was made here, kept for repeats; its number when hubs were told of it first."""

    def __init__(self, question: wire.Question, answer: wire.Answer) -> None:
        self.question = question
        self.answer = answer
        self.number: int | None = None
        self.done: wire.Done | None = None  # as hubs were told last
        self.size_bytes = len(wire.plain_text(answer).encode())


def _number(done: wire.Done) -> int:
    return done.number or 0


class NodeCore:
    """The state of one node, in one `life` of its process.

    `served` are the bundles by id, with the cost of an answer; `parallel` says how many questions each answers at once
    (default: 1). Questions of `device`, which is this machine, go first.
    """

    def __init__(
        self,
        node: str,
        served: dict[str, wire.ServedBundle],
        *,
        life: int = 0,
        device: str = _HERE,
        parallel: dict[str, int] | None = None,
        queue_limit: int = 256,
        remembered_limit: int = 1024,
    ) -> None:
        self.node = node
        self.draining = False
        self.leaving = False
        self._device = device
        self._queue_limit = queue_limit
        self._remembered_limit = remembered_limit
        self._queue: collections.OrderedDict[events.Key, _Job] = collections.OrderedDict()
        self._bundles = Loaded(served, parallel)
        self._running: dict[events.Key, _Job] = {}
        self._computed_s = self._counted_at = 0.0
        self._turns = Turns(remembered_limit)
        self._answered: collections.OrderedDict[events.Key, _Answered] = collections.OrderedDict()
        self._life = life
        self._answers = 0  # told to hubs so far
        self._expected_tokens = 32.0

    # --- what the shell asks ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing is queued or running."""
        return not self._running and not self._queue

    def backlog(self, now: float) -> wire.Backlog:
        """Unfinished questions, and a guess at the milliseconds they still need."""
        queued, running = list(self._queue.values()), list(self._running.values())  # other threads ask this, too
        left_ms = sum(self._cost_ms(job.work) for job in queued)
        left_ms += sum(self._left_ms(job, now) for job in running)
        return wire.Backlog(questions=len(queued) + len(running), ms=left_ms)

    @property
    def served(self) -> Mapping[str, wire.ServedBundle]:
        """The bundles that are offered, by id, with what an answer costs now."""
        return self._bundles.offered

    @property
    def known(self) -> Mapping[str, wire.ServedBundle]:
        """Those, and those that are or were loaded besides."""
        return self._bundles.known

    @property
    def loaded(self) -> Collection[str]:
        """The ids of those that are loaded, offered or not."""
        return self._bundles.parallel.keys()

    def successor(self, bundle: str) -> str:
        """The bundle itself while it takes questions; then what is offered of its model, if anything is."""
        known = self.known.get(bundle)
        if known is None or self._bundles.takes(bundle):
            return bundle
        same = (one.bundle for one in self.served.values() if (one.model, one.task) == (known.model, known.task))
        return next(same, bundle)

    def wait_here_ms(self, bundle: str, now: float) -> float:
        """How long a question of this device, which goes first, would wait for its turn."""
        running = [job for job in list(self._running.values()) if job.work.bundle == bundle]
        slots = self._bundles.parallel.get(bundle, 1)
        if len(running) < slots:
            return 0.0
        left = [self._left_ms(job, now) for job in running]
        before = [job for job in list(self._queue.values()) if self._is_first(job) and job.work.bundle == bundle]
        return min(left) + sum(self._cost_ms(job.work) for job in before) / slots

    def expected_tokens(self, question: wire.Question, task: str) -> tuple[float, float]:
        """A guess at the tokens of prompt and answer: one for about four characters, and answers like those before."""
        prompt_tokens = 16 + question.size_chars / 4
        if task != "text-generation":
            return prompt_tokens, 0.0
        return prompt_tokens, min(question.max_tokens or self._expected_tokens, self._expected_tokens)

    def state(self, epoch: int, now: float, machine: wire.Machine | None = None) -> wire.NodeState:
        """What this node says of itself."""
        return wire.NodeState(
            epoch=epoch,
            status="draining" if self.draining else "ready",
            bundles=tuple(self._bundles.offered.values()),
            backlog=self.backlog(now),
            parallel=max(self._bundles.parallel.values(), default=1),
            machine=machine,
        )

    def next_wake(self) -> float | None:
        """When the next deadline passes."""
        jobs = [*self._queue.values(), *(job for job in self._running.values() if job.unwanted is None)]
        return min((job.deadline_at for job in jobs), default=None)

    def handle(self, event: events.Event, now: float) -> list[events.Effect]:
        """What is to be done now that `event` has happened."""
        effects: list[events.Effect] = []
        if isinstance(event, events.WorkReceived):
            effects += self._take(event.work, now)
        elif isinstance(event, events.Asked):
            question = msgspec.structs.replace(event.question, id=event.id)
            effects += self._take(
                wire.Work(
                    hub=_HERE, device=_HERE, question=question, attempt=1, budget_ms=event.budget_ms,
                    bundle=event.bundle, reply_to="",
                ),
                now,
            )  # fmt: skip
        elif isinstance(event, events.Withdrawn):
            effects += self._cancel((_HERE, event.id), 1, now)
        elif isinstance(event, events.ControlReceived):
            effects += self._control(event, now)
        elif isinstance(event, events.TextProduced):
            effects += self._stream(event, now)
        elif isinstance(event, events.WorkFinished):
            effects += self._finish(event, now)
        elif isinstance(event, events.ServedChanged):
            self._bundles.costs(event.served)
            effects.append(events.PublishState())
        elif isinstance(event, events.BundleOffered):
            self._bundles.offer(event.served, event.parallel, instead_of=event.instead_of)
            effects.append(events.PublishState())
        elif isinstance(event, events.BundleWithdrawn):
            self._bundles.withdraw(event.bundle)
            effects.append(events.PublishState())
        elif isinstance(event, events.BundleDone):
            self._bundles.let_go(event.bundle)
        elif isinstance(event, events.Leaving):
            effects += self._leave(now)
        effects += self._drop_late(now)
        effects += self._start_next(now)
        if self._bundles.going:
            effects += [events.CloseBundle(bundle) for bundle in self._bundles.closed(self._busy())]
        return effects

    # --- inside -----------------------------------------------------------------------------------------

    def _take(self, work: wire.Work, now: float) -> list[events.Effect]:
        job = _Job(work, now)
        known = self._find(job.key)
        same = known is not None and (known.work.question, known.work.bundle) == (work.question, work.bundle)
        if known is not None and known.unwanted is None and same:
            # A repeat: the newest sender and attempt get the answer, the place in the queue is kept.
            before, known.work = known.work, work
            known.deadline_at = job.deadline_at
            return [events.NoteRepeat(before, work)]
        if known is None and (ended := self._answered.get(job.key)) is not None and ended.question == work.question:
            return self._answer(work, ended, now, job.deadline_at, again=True)
        if not self._bundles.takes(work.bundle):
            return [self._failed(work, events.Refusal("unsupported", f"bundle {work.bundle} is not served here"), now)]
        if self.leaving and not job.here:
            return [self._failed(work, _LEFT, now)]
        if len(self._queue) >= self._queue_limit:
            return [self._failed(work, events.Refusal("overloaded", f"{len(self._queue)} questions wait here"), now)]
        replaced = self._queue.pop(job.key, None)  # another question under the same id: nobody waits for the old one
        self._queue[job.key] = job
        return [] if replaced is None else [self._done(replaced.work, "cancelled", now)]

    def _leave(self, now: float) -> list[events.Effect]:
        self.draining = self.leaving = True
        handed_back = [job for job in self._queue.values() if not job.here]
        for job in handed_back:
            del self._queue[job.key]
        return [events.PublishState(), *(self._failed(job.work, _LEFT, now) for job in handed_back)]

    def _control(self, event: events.ControlReceived, now: float) -> list[events.Effect]:
        control = event.control
        if isinstance(control, wire.Ping):
            hold_ms = max((now - event.received_at) * 1000, 0.0)
            pong = wire.Pong(
                hub=control.hub,
                seq=control.seq,
                hold_ms=hold_ms,
                backlog=self.backlog(now),
                answers=self._answers,
                life=self._life,
            )
            return [events.PublishReport(pong)]
        if isinstance(control, wire.Kept):
            return []  # the records are the shell's
        if isinstance(control, wire.Retell):
            return self._tell_again(control.first, now)
        if isinstance(control, wire.Drain):
            if self.draining == control.on or self.leaving:
                return []
            self.draining = control.on
            return [events.PublishState()]
        return self._cancel((control.device, control.id), control.attempt, now)

    def _tell_again(self, first: int, now: float) -> list[events.Effect]:
        told = [each.done for each in self._answered.values() if each.done is not None]
        missed = sorted((done for done in told if _number(done) >= first), key=_number)[:MOST_RETOLD]
        return [
            events.PublishReport(msgspec.structs.replace(done, again=True, backlog=self.backlog(now)))
            for done in missed
        ]

    def _cancel(self, key: events.Key, attempt: int, now: float) -> list[events.Effect]:
        queued = self._queue.get(key)
        if queued is not None and queued.work.attempt <= attempt:
            del self._queue[key]
            return [self._done(queued.work, "cancelled", now)]
        running = self._running.get(key)
        if running is not None and running.work.attempt <= attempt and not running.unwanted:
            running.unwanted = events.Refusal("internal", "cancelled")
            return [events.StopWork(key)]
        return []

    def _stream(self, event: events.TextProduced, now: float) -> list[events.Effect]:
        job = self._running.get(event.key)
        if job is None or not job.work.question.stream or job.work.plain or job.unwanted:
            return []
        if job.here:
            return [events.TellText(job.key[1], event.text)]
        job.pending_text += event.text
        if now - job.last_chunk_at < CHUNK_INTERVAL_S or not job.pending_text:
            return []
        chunk = wire.Chunk(
            id=job.key[1], attempt=job.work.attempt, node=self.node, seq=job.chunks, text=job.pending_text
        )
        job.pending_text, job.last_chunk_at = "", now
        job.chunks += 1
        return [events.PublishChunk(job.work, chunk)]

    def _finish(self, event: events.WorkFinished, now: float) -> list[events.Effect]:
        beside = self._beside(self._running[event.key], now)
        job = self._running.pop(event.key)
        result = event.result
        if isinstance(result, events.Refusal):
            return [self._failed(job.work, result, now)]
        if result.finish == "cancelled":
            return [self._unanswered(job, now)]
        assert job.started_at is not None
        answer = wire.Answer(
            id=job.key[1],
            node=self.node,
            bundle=job.work.bundle,
            finish=result.finish,
            attempt=job.work.attempt,
            text=result.text,
            labels=result.labels,
            spans=result.spans,
            embedding=result.embedding,
            tokens=result.tokens,
            timing_ms=wire.Timing(
                queue=round((job.started_at - job.received_at) * 1000, 3),
                prefill=round(result.prefill_ms, 3),
                decode=round(result.decode_ms, 3),
                compute=round(result.compute_ms, 3),
            ),
        )
        answered = _Answered(job.work.question, answer)
        if not job.here:  # nobody repeats what was asked here
            self._answered[job.key] = answered
        while len(self._answered) > self._remembered_limit:
            self._answered.popitem(last=False)
        if result.tokens.completion:  # encoders write none
            self._expected_tokens += 0.2 * (result.tokens.completion - self._expected_tokens)
        computed = events.NoteComputed(answer, beside)
        if job.unwanted is None and now >= job.deadline_at:
            job.unwanted = events.Refusal("deadline", "late when it was answered")
        if job.unwanted is not None:  # the hub has said so to the device: no answer after a failure
            return [computed, self._unanswered(job, now)]
        return [computed, *self._answer(job.work, answered, now, job.deadline_at)]

    def _unanswered(self, job: _Job, now: float) -> events.Effect:
        late = job.unwanted is not None and job.unwanted.code == "deadline"
        message = job.unwanted.message if late and job.unwanted is not None else ""
        return self._done(job.work, "deadline" if late else "cancelled", now, message=message)

    def _drop_late(self, now: float) -> list[events.Effect]:
        effects: list[events.Effect] = []
        for key, job in list(self._queue.items()):
            if now >= job.deadline_at:
                del self._queue[key]
                waited_ms = (now - job.received_at) * 1000
                effects.append(
                    self._failed(
                        job.work, events.Refusal("deadline", f"late after {waited_ms:.0f} ms in the queue"), now
                    )
                )
        for key, job in self._running.items():
            if job.unwanted is None and now >= job.deadline_at:
                job.unwanted = events.Refusal("deadline", "late while it was being answered")
                effects.append(events.StopWork(key))
                assert job.started_at is not None
                due_ms = OVERDUE * (1 + self._beside(job, now)) * self._cost_ms(job.work)
                if (now - job.started_at) * 1000 > due_ms:
                    effects.append(events.NoteOverdue(job.work.bundle))
        return effects

    def _start_next(self, now: float) -> list[events.Effect]:
        effects: list[events.Effect] = []
        while (job := self._next_job(now)) is not None:
            del self._queue[job.key]
            self._turns.begun(job.work.device, now)
            job.started_at, job.computed_before_s = now, self._count(now)
            self._running[job.key] = job
            effects.append(events.StartWork(job.key, job.work.bundle, job.work.question))
        return effects

    def _next_job(self, now: float) -> _Job | None:
        """What was asked here, else the oldest question of the device that was served least recently.

        One that can not: its bundle is full, or would be with its device's questions alone while others come too, or
        its session waits for another answer, or its id is still running.
        """
        if not self._queue:
            return None
        running = collections.Counter(job.work.bundle for job in self._running.values())
        sessions = {(job.work.device, job.work.question.session) for job in self._running.values()}
        full = {bundle for bundle, parallel in self._bundles.parallel.items() if running[bundle] >= parallel}
        if len(full) == len(self._bundles.parallel):
            return None
        best: _Job | None = None
        for key, job in self._queue.items():
            work = job.work
            in_turn = work.question.session is not None and (work.device, work.question.session) in sessions
            if work.bundle in full or in_turn or key in self._running:
                continue
            if self._is_first(job):
                return job
            if self._takes_all(work, now):
                continue
            if best is None or self._turns.last(work.device) < self._turns.last(best.work.device):
                best = job
        return best

    def _takes_all(self, work: wire.Work, now: float) -> bool:
        """Whether it would take the last place in its bundle for a device that has all others, and is not alone here.

        Nothing takes a place back before its answer ends, so whoever asks long ones without end would keep everybody
        else waiting for as long as each takes.
        """
        parallel = self._bundles.parallel[work.bundle]
        beside = [job.work.device for job in self._running.values() if job.work.bundle == work.bundle]
        if parallel == 1 or len(beside) < parallel - 1 or set(beside) != {work.device}:
            return False
        return self._turns.since_others_s(work.device, now) < SHARED_S

    def _is_first(self, job: _Job) -> bool:
        return job.here or job.work.device == self._device

    def _busy(self) -> set[str]:
        return {job.work.bundle for jobs in (self._queue, self._running) for job in jobs.values()}

    def _find(self, key: events.Key) -> _Job | None:
        return self._queue.get(key) or self._running.get(key)

    def _answer(
        self, work: wire.Work, answered: _Answered, now: float, until: float, *, again: bool = False
    ) -> list[events.Effect]:
        if work.device == _HERE:
            return [events.TellOutcome(answered.answer.id, answered.answer)]
        if answered.number is None:
            self._answers += 1
            answered.number = self._answers
        answer = msgspec.structs.replace(answered.answer, attempt=work.attempt)
        publish = events.PublishAnswer(work, answer, until, again=again)
        return [publish, self._done(work, "answered", now, answered=answered)]

    def _failed(self, work: wire.Work, refusal: events.Refusal, now: float) -> events.Effect:
        return self._done(work, refusal.code, now, message=refusal.message)

    def _done(
        self,
        work: wire.Work,
        outcome: str,
        now: float,
        *,
        message: str = "",
        answered: _Answered | None = None,
    ) -> events.Effect:
        assert work.question.id is not None
        if work.device == _HERE:
            code = "internal" if outcome == "cancelled" else outcome
            refusal = events.Refusal(code, message or outcome)  # type: ignore[arg-type]
            return events.TellOutcome(work.question.id, refusal, cancelled=outcome == "cancelled")
        done = wire.Done(
            hub=work.hub,
            device=work.device,
            id=work.question.id,
            attempt=work.attempt,
            bundle=work.bundle,
            outcome=outcome,  # type: ignore[arg-type]  # one of wire.Code, "answered", "cancelled"
            message=message,
            tokens=answered.answer.tokens if answered is not None else wire.Tokens(),
            timing_ms=answered.answer.timing_ms if answered is not None else wire.Timing(),
            backlog=self.backlog(now),
            number=answered.number if answered is not None else None,
            life=self._life if answered is not None else 0,
            answer_bytes=answered.size_bytes if answered is not None else 0,
        )
        if answered is not None:
            answered.done = done
        return events.PublishReport(done)

    def _count(self, now: float) -> float:
        """How long questions were computed until now, all added up: two at once for a second are two."""
        self._computed_s += len(self._running) * max(now - self._counted_at, 0.0)
        self._counted_at = now
        return self._computed_s

    def _beside(self, job: _Job, now: float) -> float:
        """How many others were computed while this one was, on average."""
        assert job.started_at is not None
        took_s = now - job.started_at
        return max((self._count(now) - job.computed_before_s) / took_s - 1, 0.0) if took_s > 0 else 0.0

    def _left_ms(self, job: _Job, now: float) -> float:
        """A guess for a running question."""
        assert job.started_at is not None
        return max(self._cost_ms(job.work) - (now - job.started_at) * 1000, 0.0)

    def _cost_ms(self, work: wire.Work) -> float:
        """A guess from the bundle's own measurement."""
        served = self._bundles.known[work.bundle]
        prompt_tokens, answer_tokens = self.expected_tokens(work.question, served.task)
        return (
            served.fixed_ms + served.prefill_ms_per_token * prompt_tokens + served.decode_ms_per_token * answer_tokens
        )
