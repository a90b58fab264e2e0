"""One run: a hub's core, nodes and links, driven from event to event in virtual time.

What the core wants done happens, after as long as it would take: Work and pings travel half a round trip, are worked
off or answered, and what a node says travels back. A node's death shows when its will comes, as on a broker. Delays
are counted from the hub's receipt of a question to the answer at the broker; what lies between an asker and its
broker is the same for every policy. Knows nothing of policies but that they rank, hear of answers, and may probe.

With `minds_deadlines` nodes drop what is late, and a policy that is the hub's own has the hub's admission and second
attempts, too. Without, questions go where the ranking says, however late: to compare rankings alone.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hub import events, wire
from hub.core import Core
from hub.ledger import Limits
from hub.simulator.fleet_file import FleetFile, Happening
from hub.simulator.node import Job, SimulatedNode
from hub.simulator.policies import Policy
from hub.simulator.trace import BYTES_PER_TOKEN, Trace
from hub.simulator.truth import Truth

DEVICES: Final = 50
WILL_AFTER_S: Final = 7.5  # the broker waits one and a half keepalives
_SETTLING_S: Final = 5.0  # before the first question: the fleet shows itself, and is pinged
_RECENT_LATENCIES: Final = 16
_DRAWN_AT_ONCE: Final = 4096


class Outcomes(NamedTuple):
    """Of every question: the delay in milliseconds (NaN where it failed), and what the router had promised.

    `refused` of them were sent to no node.
    """

    delays_ms: NDArray[np.float64]
    predicted_ms: NDArray[np.float64]
    refused: int
    attempts: int
    counters: dict[str, int]


class World:
    """Everything there is in one run."""

    def __init__(
        self,
        fleet: FleetFile,
        truth: Truth,
        trace: Trace,
        policy: Policy,
        *,
        arrivals_s: NDArray[np.float64],
        deadline_ms: float,
        lengths_known: bool,
        minds_deadlines: bool = False,
        draw: np.random.Generator,
    ) -> None:
        self._truth, self._trace, self._policy = truth, trace, policy
        self._arrivals_s = arrivals_s + _SETTLING_S
        self._deadline_ms, self._lengths_known = deadline_ms, lengths_known
        self._jitter, self._draw = fleet.network.jitter, draw
        self.nodes = [SimulatedNode(name, kind, minds_budgets=minds_deadlines) for name, kind in fleet.nodes]
        self._report_topics = [str(wire.Topic("report", node.name)) for node in self.nodes]
        self._number = {node.name: number for number, node in enumerate(self.nodes)}
        self._latencies: list[deque[float]] = [deque(maxlen=_RECENT_LATENCIES) for _ in self.nodes]
        self._arrived_s = np.zeros((2, len(self.nodes)))  # of the last message to and from each: none overtakes another
        limits = Limits(in_flight=10**6, in_flight_bytes=2**40, nodes=2 * len(self.nodes), ended=1000)
        self._core = Core(
            "hub",
            new_id=lambda: "drawn",
            settle_s=0.0,
            rank=policy,
            limits=limits,
            draw=policy.draw,
            minds_deadlines=minds_deadlines and policy.admits,
        )
        self._now = 0.0
        self._drawn: list[float] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._sent_s: dict[tuple[str, str], float] = {}
        self._delays_ms = np.full(len(arrivals_s), np.nan)
        self._predicted_ms = np.full(len(arrivals_s), np.nan)
        self._left = len(arrivals_s)
        self._refused = self._attempts = 0
        self._happenings = fleet.event

    def run(self) -> Outcomes:
        """Until every question has its outcome."""
        self._handle(events.LinkOpened())
        for node in self.nodes:
            self._publish_state(node)
        self._schedule_happenings()
        self._at(self._arrivals_s[0], lambda: self._ask(0))
        while self._left:
            wake_s = self._core.next_wake(self._now)
            if wake_s is not None and (not self._heap or wake_s < self._heap[0][0]):
                self._now = wake_s
                self._handle(events.TimePassed())
            else:
                self._now, _, happen = heapq.heappop(self._heap)
                happen()
        return Outcomes(self._delays_ms, self._predicted_ms, self._refused, self._attempts, dict(self._core.counters))

    # --- askers -----------------------------------------------------------------------------------------

    def _ask(self, number: int) -> None:
        if number + 1 < len(self._arrivals_s):
            self._at(self._arrivals_s[number + 1], lambda: self._ask(number + 1))
        question = wire.Question(
            id=str(number),
            text="x" * (BYTES_PER_TOKEN * int(self._trace.prompt_tokens[number])),
            deadline_ms=self._deadline_ms,
            max_tokens=int(self._trace.answer_tokens[number]) if self._lengths_known else None,
        )
        topic = str(wire.Topic("ask", f"device-{number % DEVICES}"))
        self._handle(events.MessageReceived(topic=topic, payload=wire.encode(question)))

    # --- what the core wants ----------------------------------------------------------------------------

    def _handle(self, event: events.Event) -> None:
        for effect in self._core.handle(event, self._now):
            if isinstance(effect, events.PublishWork):
                self._send_work(effect)
            elif isinstance(effect, events.PublishControl):
                self._control(effect)
            elif isinstance(effect, events.StoreRecord):
                self._ended(effect.record)
            elif isinstance(effect, events.PublishFailure):
                self._accept(effect.ticket)

    def _send_work(self, effect: events.PublishWork) -> None:
        self._attempts += 1
        number = self._number[effect.node]
        work = effect.work
        assert work.question.id is not None
        self._sent_s[effect.node, work.question.id] = self._now
        question = int(work.question.id)
        self._truth.sent(question, number, self._now)
        upload_s = self._truth.upload_of_ms(question, number) / 1000
        self._travel(number, 0, lambda: self._work_arrived(number, work), upload_s)
        for name in self._policy.wants_probed():
            self._probe(self._number[name])
        self._accept(effect.ticket)

    def _accept(self, ticket: int) -> None:
        """The broker is beside the hub."""
        self._at(self._now, lambda: self._handle(events.PublishAccepted(ticket)))

    def _control(self, effect: events.PublishControl) -> None:
        number, control = self._number[effect.node], effect.control
        if isinstance(control, wire.Ping):
            self._travel(number, 0, lambda: self._pinged(number, control))
        elif isinstance(control, wire.Cancel):
            self._travel(number, 0, lambda: self._cancelled(number, control))

    def _ended(self, record: events.Record) -> None:
        self._left -= 1
        question = int(record.id)
        self._refused += record.attempts == 0
        if record.outcome == "answered":
            self._delays_ms[question] = record.total_ms
            if record.predicted_ms is not None:
                self._predicted_ms[question] = record.predicted_ms

    # --- nodes ------------------------------------------------------------------------------------------

    def _work_arrived(self, number: int, work: wire.Work) -> None:
        node, question = self.nodes[number], int(work.question.id or 0)
        if not node.up:
            return
        job = Job(
            work=work,
            arrived_s=self._now,
            tokens=wire.Tokens(
                prompt=int(self._trace.prompt_tokens[question]), completion=int(self._trace.answer_tokens[question])
            ),
            prefill_s=self._truth.prefill_of_ms(question, number) / 1000,
            compute_s=self._truth.compute_of_ms(question, number) / 1000,
        )
        self._wake_node(number, lambda: node.take(job, self._now))

    def _cancelled(self, number: int, control: wire.Cancel) -> None:
        node = self.nodes[number]
        self._wake_node(number, lambda: node.cancel(control, self._now))

    def _wake_node(self, number: int, change: Callable[[], None]) -> None:
        """Let something happen at a node, and come back when it ends the next question."""
        node = self.nodes[number]
        before_s = node.next_end_s
        change()
        if node.next_end_s is not None and node.next_end_s != before_s:
            epoch = node.epoch
            self._at(node.next_end_s, lambda: self._node_ends(number, epoch))

    def _node_ends(self, number: int, epoch: int) -> None:
        node = self.nodes[number]
        if not node.up or node.epoch != epoch:
            return
        before_s = node.next_end_s
        for done in node.ended(self._now):
            self._latencies[number].append(done.timing_ms.queue + done.timing_ms.compute)
            self._travel(number, 1, lambda done=done: self._done_arrived(number, done))  # type: ignore[misc]
        if node.next_end_s is not None and node.next_end_s != before_s:
            self._at(node.next_end_s, lambda: self._node_ends(number, epoch))

    def _done_arrived(self, number: int, done: wire.Done) -> None:
        sent_s = self._sent_s.pop((self.nodes[number].name, done.id), None)
        if sent_s is not None:
            self._policy.answered(self.nodes[number].name, 1000 * (self._now - sent_s), self._now)
        self._report(number, done)

    def _pinged(self, number: int, ping: wire.Ping) -> None:
        if self.nodes[number].up:
            pong = wire.Pong(hub=ping.hub, seq=ping.seq, hold_ms=0.0, backlog=self.nodes[number].backlog(self._now))
            self._travel(number, 1, lambda: self._report(number, pong))

    def _report(self, number: int, report: wire.Pong | wire.Done) -> None:
        self._handle(events.MessageReceived(topic=self._report_topics[number], payload=wire.encode(report)))

    def _publish_state(self, node: SimulatedNode) -> None:
        topic = str(wire.Topic("node_state", node.name))
        self._handle(events.MessageReceived(topic=topic, payload=wire.encode(node.state)))

    def _probe(self, number: int) -> None:
        def looked() -> None:
            seen, latencies = self.nodes[number].in_flight, self._latencies[number]
            latency_ms = float(np.median(latencies)) if latencies else 0.0
            name = self.nodes[number].name
            self._travel(number, 1, lambda: self._policy.probed(name, seen, latency_ms, self._now))

        self._travel(number, 0, looked)

    # --- what happens to them ---------------------------------------------------------------------------

    def _schedule_happenings(self) -> None:
        first_s, last_s = float(self._arrivals_s[0]), float(self._arrivals_s[-1])
        for happening in self._happenings:
            concerned = self._concerned(happening)
            for share, begins in ((happening.since, True), (happening.until, False)):
                at_s = first_s + share * (last_s - first_s)
                self._at(at_s, lambda h=happening, c=concerned, b=begins: self._happen(h, c, b))  # type: ignore[misc]

    def _concerned(self, happening: Happening) -> list[int]:
        numbers = [
            number
            for number, node in enumerate(self.nodes)
            if happening.kind in (None, node.kind.name) and happening.node in (None, node.name)
        ]
        count = max(1, round(happening.share * len(numbers)))
        return sorted(int(number) for number in self._draw.permutation(numbers)[:count])

    def _happen(self, happening: Happening, concerned: list[int], begins: bool) -> None:
        for number in concerned:
            node = self.nodes[number]
            if happening.slower is not None:
                node.slower = happening.slower if begins else 1.0
                self._truth.slower[number] = node.slower
            elif happening.link_ms is not None:
                node.more_link_ms = happening.link_ms if begins else 0.0
                self._truth.round_trip_ms[number] += happening.link_ms if begins else -happening.link_ms
            elif begins:
                node.die()
                self._truth.up[number] = False
                self._at(self._now + WILL_AFTER_S, lambda node=node: self._will(node))  # type: ignore[misc]
            else:
                node.rise()
                self._truth.up[number] = True
                self._publish_state(node)

    def _will(self, node: SimulatedNode) -> None:
        if not node.up:
            self._publish_state(node)

    # --- time -------------------------------------------------------------------------------------------

    def _travel(self, number: int, way: int, arrive: Callable[[], None], upload_s: float = 0.0) -> None:
        half_s = float(self._truth.round_trip_ms[number]) / 2000
        if self._jitter:
            if not self._drawn:
                self._drawn = self._draw.standard_exponential(_DRAWN_AT_ONCE).tolist()
            half_s *= 1 + self._jitter * self._drawn.pop()
        at_s = max(self._now + half_s + upload_s, float(self._arrived_s[way, number]))
        self._arrived_s[way, number] = at_s
        self._at(at_s, arrive)

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (float(at_s), next(self._order), happen))
