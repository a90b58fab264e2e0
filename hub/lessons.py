"""What do answers, failures and lateness teach of nodes, bundles and devices?

Keeps the fleet's costs and spreads, the expected lengths and the cached prompts true to what was seen. Knows nothing of
where a question goes because of it.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

from hub import wire
from hub.admission import Refusals
from hub.columns import Fleet
from hub.crowding import Demand
from hub.delay import Lengths
from hub.eligible import Features
from hub.fleet import Node, Standing, delayed, failed, kept_waiting, succeeded, surprised, taught
from hub.intake import DEFAULT_TASK
from hub.prefixes import Prefixes
from hub.questions import Attempt, InFlight

QUESTIONS_FAULT: Final = ("invalid", "too_large", "deadline")  # outcomes that say nothing against the node


class LessonLimits(Protocol):
    """The bounds that matter here."""

    @property
    def devices(self) -> int: ...
    @property
    def nodes(self) -> int: ...


class Lessons:
    """Teaches `fleet`. What was sent while the link or this hub was held up says nothing of a node's delay."""

    def __init__(self, fleet: Fleet, limits: LessonLimits) -> None:
        self.refusals = Refusals(limits.devices + limits.nodes)
        self.demand = Demand()
        self._fleet = fleet
        self._lengths = Lengths(limits.devices)
        self._prefixes = Prefixes(limits.devices)
        self._clear_since_s = math.inf  # infinite while there is no link

    def features(self, question: InFlight, now: float) -> Features:
        """What the question's delay depends on, by what is known of its device."""
        return question.features(self._lengths, self._prefixes, self._fleet, now)

    def link_opened(self, now: float) -> None:
        """From now on delays are what nodes and network make them."""
        self._clear_since_s = now

    def link_closed(self) -> None:
        """Nothing can come now, however fast a node is."""
        self._clear_since_s = math.inf

    def held_up(self, now: float) -> None:
        """This hub did not run for a while: what was sent before waited for it."""
        if self._clear_since_s < now:
            self._clear_since_s = now

    def answered(
        self, device: str, question: wire.Question, attempt: Attempt, node: Node, done: wire.Done, now: float
    ) -> None:
        """What an answer shows of its node, its bundle and its device, whichever hub it was asked for."""
        after = taught(node, attempt.bundle, done.tokens, done.timing_ms)
        if attempt.sent_s > self._clear_since_s:
            took_ms = (now - attempt.sent_s) * 1000
            after = surprised(after, attempt.predicted_ms, took_ms)
            if attempt.network_ms is not None:  # a later ping may have stood behind the question
                known_ms = attempt.network_ms + done.timing_ms.queue + done.timing_ms.compute
                after = delayed(after, attempt.payload_bytes, took_ms - known_ms)
        self._fleet.put(succeeded(after, now))
        self.refusals.answered(device, node.name)
        self._prefixes.learn(device, question.session, node.name, node.epoch, done.tokens)
        if question.session is None:  # else the prompt holds turns that were not sent
            self._fleet.learn_prompt_size(attempt.bundle, question.size_chars, done.tokens.prompt)
        if (tokens := done.tokens.completion) > 0:
            if attempt.expected_tokens > 0:
                self._fleet.tail.learn(tokens / attempt.expected_tokens)
            self._lengths.learn(device, question.task or DEFAULT_TASK, tokens, question.max_tokens)

    def late(self, attempt: Attempt, now: float) -> None:
        """An attempt that is ended without its answer would have taken at least so long."""
        node = self._fleet.get(attempt.node)
        if node is None or node.epoch != attempt.epoch or node.standing != Standing.READY:
            return
        if attempt.sent_s > self._clear_since_s:
            self._fleet.put(kept_waiting(node, attempt.predicted_ms, (now - attempt.sent_s) * 1000))


def charged(node: Node, done: wire.Done, now: float) -> Node:
    """A node that fails fast is not cheaper for it: what it fails counts, unless the question is to blame."""
    if done.outcome in QUESTIONS_FAULT or (done.outcome == "overloaded" and node.standing != Standing.READY):
        return node
    return failed(node, now)
