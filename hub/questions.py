"""What the hub remembers of a question: while it is in flight, and for a while after it has ended.

Values and their bookkeeping only; what is to be done about them is the core's business.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from hub import events, wire
from hub.columns import Fleet
from hub.decision import Decision, Terms
from hub.delay import Lengths
from hub.eligible import Features
from hub.fleet import Key, Load, Node, Standing
from hub.intake import Ask, Sender
from hub.prefixes import Kept, Prefixes
from hub.second import Doubt

MOST_ATTEMPTS: Final = 1000  # of a number that another hub gave


class Attempt(msgspec.Struct, frozen=True):
    """One node's try at a question; `number` counts from 1 over all nodes."""

    number: int
    node: str
    epoch: int
    bundle: str
    sent_s: float
    predicted_ms: float
    expected_tokens: float
    before_ms: float = 0.0  # predicted compute before the first token
    decode_ms: float = 0.0  # and of the expected tokens
    network_ms: float | None = None  # of a ping, as it was then; None where that was not known
    payload_bytes: int = 0


class InFlight:
    """A question without an outcome.

    It is *adrift* when no ready node has it: it waits for its first one, or its node fell silent or was lost.
    """

    def __init__(self, ask: Ask, now: float, *, first_number: int = 1, recorded: bool = True) -> None:
        self.ask = ask
        self.received_s = now
        self.deadline_s = now + ask.budget_ms / 1000
        self.next_number = first_number
        self.recorded = recorded  # False where a record of this question exists already
        self.attempts: list[Attempt] = []  # those that may still end it, the current one last
        self.decisions: list[Decision] = []
        self.tries = 0
        self.receipts: list[int] = []  # to be acknowledged when the current publish is accepted
        self.accepted = False  # by the broker: its Work, as it was published last
        self.published_s = now
        self.duplicates = 0
        self.failed_on: set[str] = set()
        self.internal_failures = 0
        self.larger_than = -1
        self.doubt: Doubt | None = None  # when the current attempt is to be looked at
        self.second = ""  # why there is a second attempt beside the first, or was: `hedge` or `silence`
        self.second_number = 0  # of that attempt

    @property
    def key(self) -> Key:
        """Device and id."""
        return self.ask.key

    @property
    def current(self) -> Attempt | None:
        """The attempt that is counted on."""
        return self.attempts[-1] if self.attempts else None

    def budget_ms(self, now: float) -> float:
        """What is left until the deadline."""
        return max((self.deadline_s - now) * 1000, 0.0)

    def find(self, node: str, number: int) -> Attempt | None:
        """The attempt of this node, if it may still end the question."""
        return next((a for a in self.attempts if a.node == node and a.number == number), None)

    def features(self, lengths: Lengths, prefixes: Prefixes, fleet: Fleet, now: float) -> Features:
        """What its delay depends on."""
        question, device = self.ask.question, self.ask.sender.device
        cached, holder = _known_prompt(prefixes, device, question.session, fleet)
        return Features(
            device=device,
            id=self.key[1],
            attempt=self.next_number,
            task=self.ask.task,
            model=question.model,
            chars=question.size_chars,
            payload_bytes=self.ask.payload_bytes,
            max_tokens=question.max_tokens,
            expected_tokens=lengths.expected(device, self.ask.task, question.max_tokens),
            larger_than=self.larger_than,
            budget_ms=self.budget_ms(now),
            cached=cached,
            holder=holder,
        )


def _known_prompt(
    prefixes: Prefixes, device: str, session: str | None, fleet: Fleet
) -> tuple[tuple[tuple[str, float], ...], str | None]:
    """What nodes have cached of a prompt like this device's last, and who has its conversation.

    A node that has started anew since has neither, and one that takes no questions is of no use for it.
    """
    if session is not None:
        kept = prefixes.of_session(device, session)
        return (), kept.node if kept is not None and _lives(kept, fleet) else None
    return tuple(
        (kept.node, float(kept.tokens)) for kept in prefixes.of_device(device) if kept.tokens and _lives(kept, fleet)
    ), None


def _lives(kept: Kept, fleet: Fleet) -> bool:
    node = fleet.get(kept.node)
    return node is not None and node.epoch == kept.epoch and node.standing == Standing.READY


class Ended(msgspec.Struct, frozen=True):
    """A question with its outcome: the attempt that answered, or the failure that was published."""

    fingerprint: bytes
    attempt: Attempt | None
    failure: wire.Failure | None


def work_for(hub: str, ask: Ask, attempt: Attempt, budget_ms: float) -> wire.Work:
    """The Work of one attempt."""
    return wire.Work(
        hub=hub,
        device=ask.sender.device,
        question=ask.question,
        attempt=attempt.number,
        budget_ms=budget_ms,
        bundle=attempt.bundle,
        reply_to=ask.sender.reply_to,
        correlation=ask.sender.correlation,
        plain=ask.sender.plain,
        expected=wire.Expected(
            before_ms=round(attempt.before_ms, 3),
            decode_ms=round(attempt.decode_ms, 3),
            tokens=round(attempt.expected_tokens, 3),
        ),
    )


def load_of(question: InFlight, terms: Terms, now: float) -> Load:
    """What the current attempt weighs on its node: it arrives after half a round trip."""
    most = question.ask.question.max_tokens
    before_decode_ms = terms.fixed_ms + terms.prefill_ms
    longest_ms = math.inf
    if most is not None and terms.completion_tokens > 0:
        longest_ms = before_decode_ms + terms.decode_ms * most / terms.completion_tokens
    return Load(
        key=question.key,
        sent_s=now,
        start_s=now + terms.arrival_ms / 1000,
        before_ms=before_decode_ms,
        decode_ms=terms.decode_ms,
        longest_ms=longest_ms,
        deadline_s=question.deadline_s,
    )


def failure_for(sender: Sender, failure: wire.Failure, ticket: int = 0) -> events.PublishFailure:
    """The failure on its way to whoever asked."""
    return events.PublishFailure(
        reply_to=sender.reply_to,
        failure=failure,
        correlation=sender.correlation,
        plain=sender.plain,
        ticket=ticket,
    )


def own_record(record: wire.OwnRecord, node: str, hub: str) -> events.Record:
    """The row of a question that `node` answered for its own device."""
    timing, tokens = record.timing_ms, record.tokens
    return events.Record(
        device=record.device,
        id=record.id,
        hub=hub,
        outcome=record.outcome,
        node=node,
        bundle=record.bundle[:256],
        model=record.model[:256],
        task=record.task,
        attempts=0,
        duplicates=0,
        question_bytes=record.question_bytes,
        prompt_tokens=tokens.prompt,
        cached_tokens=tokens.cached,
        completion_tokens=tokens.completion,
        predicted_ms=None,
        total_ms=record.total_ms,
        network_ms=0.0,
        queue_ms=timing.queue,
        prefill_ms=timing.prefill,
        decode_ms=timing.decode,
        overhead_ms=_overhead_ms(timing),
        decisions=(),
        local=True,
    )


def pieced_together(done: wire.Done, node: Node, hub: str) -> events.Record:
    """The row of a question of which nothing is known but its node's answer: whoever had it is gone."""
    timing, tokens = done.timing_ms, done.tokens
    bundle = next((each for each in node.bundles if each.bundle == done.bundle), None)
    return events.Record(
        device=done.device[:64],
        id=done.id[:128],
        hub=hub,
        outcome="answered",
        node=node.name,
        bundle=done.bundle[:256],
        model=bundle.model if bundle is not None else None,
        task=bundle.task if bundle is not None else "",
        attempts=max(min(done.attempt, MOST_ATTEMPTS), 1),
        duplicates=0,
        question_bytes=0,
        answer_bytes=done.answer_bytes,
        prompt_tokens=tokens.prompt,
        cached_tokens=tokens.cached,
        completion_tokens=tokens.completion,
        predicted_ms=None,
        total_ms=timing.queue + timing.compute,
        network_ms=0.0,
        queue_ms=timing.queue,
        prefill_ms=timing.prefill,
        decode_ms=timing.decode,
        overhead_ms=_overhead_ms(timing),
        decisions=(),
        node_life=done.life,
        node_number=done.number,
        partial=True,
    )


def record_of(
    question: InFlight, hub: str, outcome: str, fleet: Fleet, done: wire.Done | None, by: Attempt | None, now: float
) -> events.Record:
    """The row of a question that has ended through attempt `by` with `done`, or without them."""
    total_ms = (now - question.received_s) * 1000
    timing = done.timing_ms if done is not None else wire.Timing()
    tokens = done.tokens if done is not None else wire.Tokens()
    node = fleet.get(by.node) if by is not None else None
    served = {bundle.bundle: bundle.model for bundle in node.bundles} if node is not None else {}
    promised = question.decisions[0].chosen if question.decisions else None
    return events.Record(
        device=question.key[0],
        id=question.key[1],
        hub=hub,
        outcome=outcome,
        node=by.node if by is not None else None,
        bundle=by.bundle if by is not None else None,
        model=served.get(by.bundle) if by is not None else None,
        task=question.ask.task,
        attempts=question.tries,
        duplicates=question.duplicates,
        question_bytes=question.ask.payload_bytes,
        answer_bytes=done.answer_bytes if done is not None else 0,
        prompt_tokens=tokens.prompt,
        cached_tokens=tokens.cached,
        completion_tokens=tokens.completion,
        predicted_ms=promised.delay_ms if promised is not None else None,
        predicted_network_ms=promised.network_ms + promised.upload_ms if promised is not None else None,
        predicted_queue_ms=promised.visible_wait_ms if promised is not None else None,
        predicted_prefill_ms=promised.fixed_ms + promised.prefill_ms if promised is not None else None,
        predicted_decode_ms=promised.decode_ms if promised is not None else None,
        total_ms=total_ms,
        network_ms=max(total_ms - timing.queue - timing.compute, 0.0),
        queue_ms=timing.queue,
        prefill_ms=timing.prefill,
        decode_ms=timing.decode,
        overhead_ms=_overhead_ms(timing),
        decisions=tuple(question.decisions),
        node_life=done.life if done is not None and done.number is not None else None,
        node_number=done.number if done is not None else None,
        again=question.ask.again,
        second=question.second,
        second_won=bool(question.second) and by is not None and by.number == question.second_number,
    )


def _overhead_ms(timing: wire.Timing) -> float:
    return max(timing.compute - timing.prefill - timing.decode, 0.0)
