"""Any interleaving of everything that can happen to a hub, and what must hold all the time and in the end."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hub import events, wire
from hub.admission import least_wait_ms
from hub.core import Core
from hub.failing import rate_at
from hub.fleet import Key, wait_ms, waiting
from hub.ledger import Limits
from hub.second import HEDGE_BURST, RETRY_BURST
from hub.shares import Rate
from tests.hub.core_driver import BUNDLE, EXPECTED, bundle

LIMITS = Limits(in_flight=6, in_flight_bytes=2000, ended=5, nodes=4, devices=3, unaccepted=8, attempts=4)
NODES = ("a", "b", "c", "d", "e")
SERVED = {name: bundle(context=2048 if name < "c" else 64, model="smol" if name < "d" else "big") for name in NODES}
PEERS = ("another", "the-other")  # one would be heir of this hub, and this one of the other
OUTCOMES = ("answered", "answered", "cancelled", *wire.CODES)
DEVICES = ("kitchen", "library")
node_names = st.sampled_from(NODES)


class CoreMachine(RuleBasedStateMachine):
    """The world around one core: a broker that may vanish, nodes that come and go, devices that repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = itertools.count(1)
        self.core = self.new_core()
        self.now = 0.0
        self.open = False
        self.receipts = itertools.count(1)
        self.given: set[int] = set()
        self.acknowledged: Counter[int] = Counter()
        self.tickets: list[int] = []
        self.works: list[events.PublishWork] = []
        self.pings: list[tuple[str, int]] = []
        self.unanswered: list[tuple[str, int]] = []
        self.ended: Counter[Key] = Counter()
        self.begun: Counter[Key] = Counter()

    def new_core(self, **options: Any) -> Core:
        return Core("hub", new_id=lambda: f"drawn-{next(self.drawn)}", limits=LIMITS, **options)

    @initialize(
        device_rate=st.sampled_from([None, None, Rate(3, 1.0)]),
        device_in_flight=st.sampled_from([None, None, 2]),
        fair_shares=st.booleans(),
        hedge_share=st.sampled_from([1.0, 1.0, 0.02]),
        known=st.sampled_from([True, True, False]),
    )
    def hub_starts(self, known: bool, **options: Any) -> None:
        """With any policy; where `known`, its nodes have answered often enough to be taken at their word."""
        self.core = self.new_core(**options)
        if not known:
            return
        self.link_opens()
        for name in ("a", "b"):
            self.node_says_what_it_is(name, "ready", 1, False, backlog=wire.Backlog(), parallel=1)
            for number in range(8):
                self.ask(
                    f"teacher-{number}", wire.encode(wire.Question(id=f"{name}{number}", question="Why?", model="smol"))
                )
                self.time_passes_in_a_healthy_fleet(0.1)
                for effect in self.works[-1:]:
                    self.node_ends(effect, "answered", 8)
            self.node_says_what_it_is(name, "draining", 1, False, backlog=wire.Backlog(), parallel=1)
        for name in ("a", "b"):
            self.node_says_what_it_is(name, "ready", 1, False, backlog=wire.Backlog(), parallel=1)

    # --- the world --------------------------------------------------------------------------------------

    def handle(self, event: events.Event, *, repeats: bool = False) -> list[events.Effect]:
        """Let it happen; `repeats` where the same outcome may be published again."""
        effects = self.core.handle(event, self.now)
        said: Counter[Key] = Counter()
        recorded: Counter[Key] = Counter()
        for effect in effects:
            if isinstance(effect, events.AcknowledgeAsk):
                self.acknowledged[effect.receipt] += 1
            elif isinstance(effect, events.StoreRecord):
                key = (effect.record.device, effect.record.id)
                recorded[key] += 1
                self.ended[key] += 1
            elif isinstance(effect, events.PublishFailure):
                said[effect.reply_to.split("/")[3], effect.failure.id] += 1
                self.tickets.append(effect.ticket)
            elif isinstance(effect, events.PublishWork):
                assert effect.work.budget_ms >= 0
                self.tickets.append(effect.ticket)
                self.works.append(effect)
            elif isinstance(effect, events.PublishControl) and isinstance(effect.control, wire.Ping):
                self.pings.append((effect.node, effect.control.seq))
                self.unanswered.append((effect.node, effect.control.seq))
        if not self.open:
            kinds = {type(effect) for effect in effects}
            assert not kinds & {events.PublishWork, events.PublishFailure, events.PublishControl}
        assert all(count == 1 for count in recorded.values())
        if not repeats:
            assert all(count == 1 for count in said.values())
        self.works, self.pings, self.unanswered = self.works[-30:], self.pings[-30:], self.unanswered[-30:]
        return effects

    def receive(self, topic: str, payload: bytes, *, repeats: bool = False, **options: Any) -> None:
        message = events.MessageReceived(topic=f"edge/v1/{topic}", payload=payload, **options)
        self.handle(message, repeats=repeats)

    def ask(self, device: str, payload: bytes, **options: Any) -> None:
        receipt = next(self.receipts)
        self.given.add(receipt)
        before = self.core.counters["asks"] + self.core.counters["answers_lost_with_their_node"]
        self.receive(f"ask/{device}", payload, receipt=receipt, repeats=True, **options)
        after = self.core.counters["asks"] + self.core.counters["answers_lost_with_their_node"]
        assert after - before <= 1

    # --- what can happen --------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.9, 1.0, 3.5, 11.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while (wake := self.core.next_wake(self.now)) is not None and wake <= end:
            self.now = wake
            self.handle(events.TimePassed())
        self.now = end

    @rule(seconds=st.sampled_from([0.3, 2.0, 6.0]))
    @precondition(lambda self: self.open)
    def time_passes_in_a_healthy_fleet(self, seconds: float) -> None:
        """Every ping is answered; no question is."""
        end = self.now + seconds
        while True:
            for name, seq in self.unanswered[:]:
                pong = wire.Pong(hub="hub", seq=seq, hold_ms=0.0, backlog=wire.Backlog(questions=1, ms=10.0))
                self.receive(f"node/{name}/report", wire.encode(pong))
            self.unanswered.clear()
            wake = self.core.next_wake(self.now)
            if wake is None or wake > end:
                break
            self.now = wake
            self.handle(events.TimePassed())
        self.now = end

    @rule(seconds=st.sampled_from([0.5, 7.0]))
    def hub_is_held_up(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        device=st.sampled_from(DEVICES),
        question_id=st.sampled_from([None, "1", "2", "3"]),
        text=st.sampled_from(["Why?", "Why not?", "x" * 900]),
        deadline_ms=st.sampled_from([4000, 20_000, 300, None]),
        model=st.sampled_from([None, None, "smol", "big", "none"]),
        max_tokens=st.sampled_from([None, 8, 500]),
        stream=st.sampled_from([False, False, True]),
        session=st.sampled_from([None, None, "s"]),
        correlation=st.sampled_from([None, b"1", b"c"]),
        expiry_s=st.sampled_from([None, 0, 10]),
        retained=st.sampled_from([False, False, False, True]),
    )
    def device_asks(self, device: str, question_id: str | None, text: str, **given: Any) -> None:
        asked = {name: given.pop(name) for name in ("deadline_ms", "model", "max_tokens", "stream", "session")}
        question = wire.Question(id=question_id, question=text, **asked)
        self.ask(device, wire.encode(question), **given)

    @rule(device=st.sampled_from(DEVICES), payload=st.sampled_from([b"", b"{", b"\xff", b"Why?", b'{"id":"1"}']))
    def device_asks_nonsense(self, device: str, payload: bytes) -> None:
        self.ask(device, payload)

    @rule(topic=st.sampled_from(["node/a/state", "node/b/report", "hub/x/state", "x"]), payload=st.binary(max_size=30))
    def garbage_comes(self, topic: str, payload: bytes) -> None:
        self.receive(topic, payload)

    @rule(
        name=node_names,
        status=st.sampled_from(["ready", "ready", "ready", "draining", "offline"]),
        epoch=st.integers(1, 4),
        retained=st.booleans(),
        backlog=st.builds(wire.Backlog, questions=st.integers(0, 3), ms=st.floats(0, 1e4)),
        parallel=st.integers(1, 2),
    )
    def node_says_what_it_is(self, name: str, status: Any, epoch: int, retained: bool, **fields: Any) -> None:
        served = () if status == "offline" else (SERVED[name],)
        state = wire.NodeState(status=status, epoch=epoch, bundles=served, **fields)
        self.receive(f"node/{name}/state", wire.encode(state), retained=retained)

    @rule(name=node_names)
    def state_is_cleared(self, name: str) -> None:
        self.receive(f"node/{name}/state", b"")

    @rule(data=st.data(), questions=st.integers(0, 2), hub=st.sampled_from(["hub", "hub", "other"]))
    @precondition(lambda self: self.pings)
    def node_answers_a_ping(self, data: st.DataObject, questions: int, hub: str) -> None:
        name, seq = data.draw(st.sampled_from(self.pings))
        backlog = wire.Backlog(questions=questions, ms=50.0 * questions)
        self.receive(f"node/{name}/report", wire.encode(wire.Pong(hub=hub, seq=seq, hold_ms=1.0, backlog=backlog)))

    @rule(name=st.sampled_from(PEERS), status=st.sampled_from(["ready", "offline", None]), epoch=st.integers(1, 3))
    def other_hub_says_what_it_is(self, name: str, status: Any, epoch: int) -> None:
        payload = b"" if status is None else wire.encode(wire.HubState(epoch=epoch, status=status))
        self.receive(f"hub/{name}/state", payload)

    @rule(
        node=node_names,
        hub=st.sampled_from(PEERS),
        device=st.sampled_from(DEVICES),
        question_id=st.sampled_from(["1", "2", "3", "4", "5"]),
        text=st.sampled_from(["Why?", "Why not?", "x" * 900]),
        attempt=st.integers(1, 3),
        budget_ms=st.sampled_from([300.0, 4000.0, 20_000.0]),
    )
    def other_hub_sends_work(
        self, node: str, hub: str, device: str, question_id: str, text: str, attempt: int, budget_ms: float
    ) -> None:
        work = wire.Work(
            hub=hub, device=device, question=wire.Question(id=question_id, question=text), attempt=attempt,
            budget_ms=budget_ms, bundle=SERVED[node].bundle, reply_to=f"edge/v1/answer/{device}", expected=EXPECTED,
        )  # fmt: skip
        self.works.append(events.PublishWork(node=node, work=work, ticket=0))
        self.receive(f"node/{node}/work", wire.encode(work), repeats=True)

    @rule(data=st.data(), node=node_names, hub=st.sampled_from(PEERS), attempt=st.integers(1, 3))
    @precondition(lambda self: self.core.in_flight)
    def other_hub_is_at_our_question(self, data: st.DataObject, node: str, hub: str, attempt: int) -> None:
        ask = data.draw(st.sampled_from([each.ask for each in self.core._ledger.in_flight.values()]))
        work = wire.Work(
            hub=hub, device=ask.sender.device, question=ask.question, attempt=attempt, budget_ms=4000.0,
            bundle=SERVED[node].bundle, reply_to=ask.sender.reply_to,
        )  # fmt: skip
        self.works.append(events.PublishWork(node=node, work=work, ticket=0))
        self.receive(f"node/{node}/work", wire.encode(work), repeats=True)

    @rule(hub=st.sampled_from(PEERS))
    def asks_are_taken_over(self, hub: str) -> None:
        self.handle(events.AsksTakenOver(hub))

    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), tokens=st.integers(0, 50))
    @precondition(lambda self: self.works)
    def node_is_done(self, data: st.DataObject, outcome: Any, tokens: int) -> None:
        self.node_ends(data.draw(st.sampled_from(self.works)), outcome, tokens)

    def node_ends(self, effect: events.PublishWork, outcome: Any, tokens: int) -> None:
        before = self.failure_rates()
        done = wire.Done(
            hub=effect.work.hub,
            device=effect.work.device,
            id=effect.work.question.id or "",
            attempt=effect.work.attempt,
            bundle=BUNDLE.bundle,
            outcome=outcome,
            tokens=wire.Tokens(prompt=20, completion=tokens),
            timing_ms=wire.Timing(prefill=20, decode=5.0 * tokens, compute=20 + 5.0 * tokens),
        )
        self.receive(f"node/{effect.node}/report", wire.encode(done))
        after = self.failure_rates()
        assert outcome == "answered" or all(after[name] >= before[name] for name in before)

    def failure_rates(self) -> dict[str, float]:
        return {name: rate_at(node.failing, self.now) for name, node in self.core.fleet.items()}

    @rule(data=st.data())
    @precondition(lambda self: self.tickets)
    def broker_accepts(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(ticket)
        self.handle(events.PublishAccepted(ticket))

    @rule()
    def link_opens(self) -> None:
        self.open = True
        self.tickets.clear()
        self.handle(events.LinkOpened(), repeats=True)

    @rule()
    @precondition(lambda self: self.open)
    def link_closes(self) -> None:
        self.open = False
        self.tickets.clear()
        self.handle(events.LinkClosed())

    # --- what must hold ---------------------------------------------------------------------------------

    @invariant()
    def receipts_are_acknowledged_once(self) -> None:
        assert set(self.acknowledged) <= self.given
        assert all(count == 1 for count in self.acknowledged.values())

    @invariant()
    def one_outcome_for_each_question(self) -> None:
        """As many records as questions that began and are over; answers told anew are recorded once.

        What another hub had counts as begun, and what it has, or has seen answered, as over.
        """
        counters = self.core.counters
        begun = counters["asks"] + counters["taken_over"] - counters["handed_over"] - counters["answered_for_others"]
        outcomes = sum(self.ended.values())
        assert outcomes <= begun
        assert outcomes >= begun - self.core.in_flight

    @invariant()
    def memory_is_bounded(self) -> None:
        core = self.core
        assert core.in_flight <= LIMITS.in_flight
        assert len(core.fleet) <= LIMITS.nodes
        assert len(core._ledger.ended) <= LIMITS.ended
        assert core._ledger.outbox.waiting <= LIMITS.unaccepted + LIMITS.in_flight
        assert len(core._ledger.timers) <= 3 * LIMITS.in_flight + 2 * LIMITS.nodes + 2
        assert core._ledger.room.shares.size_bytes == sum(
            each.ask.payload_bytes for each in core._ledger.in_flight.values()
        )
        assert core._ledger.room.shares.size_bytes <= LIMITS.in_flight_bytes
        assert len(core._ledger.room.shares) <= core.in_flight
        assert core._ledger.room._rates is None or len(core._ledger.room._rates._buckets) <= LIMITS.devices
        assert len(core._lessons.refusals) <= LIMITS.devices + LIMITS.nodes
        assert core._placing._hedges._saved <= HEDGE_BURST
        assert core._placing._retries._saved <= RETRY_BURST
        assert len(core._peers) <= 4 * LIMITS.in_flight
        assert core._peers._bytes == sum(each.payload_bytes for each in core._peers._elsewhere.values())
        assert core._peers._bytes <= LIMITS.in_flight_bytes
        assert set(core._peers._unheard) <= core._peers._there

    @invariant()
    def nothing_leaks(self) -> None:
        core = self.core
        assert set(core._ledger.adrift) <= set(core._ledger.in_flight)
        for node in core.fleet.values():
            assert {load.key for load in node.load} <= {*core._ledger.in_flight, *core._peers._elsewhere}, node
            assert wait_ms(waiting(node), self.now, self.core.fleet.tail) >= 0
            assert least_wait_ms(node, "kitchen", self.now) >= 0
        assert not set(core._ledger.in_flight) & set(core._peers._elsewhere)
        for alarm in core._ledger.timers._at:
            assert alarm[0] not in ("deadline", "hopeless", "second") or alarm[1:] in core._ledger.in_flight
        for question in core._ledger.in_flight.values():
            assert question.current is not None or question.key in core._ledger.adrift
            assert len(question.attempts) <= question.tries <= LIMITS.attempts
            assert sum(decision.cause in ("hedge", "silence") for decision in question.decisions) <= 1
            assert question.second == "" or question.ask.question.session is None
            assert question.second != "hedge" or not question.ask.question.stream
            assert question.deadline_s > core._ledger.timers.next_s() or question.deadline_s >= self.now - 50

    @invariant()
    def wakes_are_not_in_the_past(self) -> None:
        wake = self.core.next_wake(self.now)
        assert wake is None or wake >= self.now

    def teardown(self) -> None:
        """Once the broker is there and time has passed, every question has its outcome and every ask its end."""
        if not self.open:
            self.link_opens()
        for _ in range(20):
            for ticket in self.tickets[:]:
                self.tickets.remove(ticket)
                self.handle(events.PublishAccepted(ticket), repeats=True)
            self.time_passes(2.0)
        for ticket in self.tickets[:]:
            self.handle(events.PublishAccepted(ticket), repeats=True)
        assert self.core.in_flight == 0
        assert self.core._ledger.outbox.waiting == 0
        assert set(self.acknowledged) == self.given
        self.one_outcome_for_each_question()
        assert not any(node.load for node in self.core.fleet.values())
        assert not self.core._ledger.adrift
