"""The hub's mind: events in, effects out. Which question is where, and what is to be done about it now. Pure.

`Core.handle(event, now)` reads no clock, draws no random number and touches no socket; `now` is monotonic seconds.
An ask's life here:

    (new) -> waiting -> placed -> answered        the node told the device, the hub hears Done
       \\        \\        |  \\-> failed            the hub tells the device
        \\        \\       v
         \\        \\-> adrift -> placed ...        its node is silent or lost: it goes where a node is ready
          \\-> failed

- *Acknowledged* is an ask once the broker has accepted its Work or its Failure, and not before.
- *Placed*: on the ready node with the least delay. Where no node is ready, on a suspect one, else on a lost one,
  and it stays adrift; so it is acknowledged at once, and goes on as soon as any node is ready. A hub that has just
  connected waits `settle_s` for nodes to be announced before it does that, or says `no_node`.
- *Refused* is a question that no node can answer in time, see `hub/admission.py`; and one for which there is no room
  here, or none for its device, see `hub/shares.py`.
- *Doubted* is an attempt that takes longer than it should: a second node tries as well, once, see `hub/second.py`.
  The first goes on, and the first outcome wins.
- *Failed with no_node* is an adrift question without a living node as soon as its budget cannot hold
  `WORTH_WAITING_S` of one any more, at the latest.
- *Ended* questions are remembered: a repeat gets the same answer again from the node that gave it, or the same
  failure.
- *Elsewhere* is a question that another hub has in flight, see `hub/peers.py`. A repeat of it that comes here is left
  to that hub, as long as it and the node are there; else this hub goes on with it. Where two hubs are at one question,
  the one with the later attempt has it, or with the greater name.

What is not a valid message is counted and dropped; nothing else changes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Set
from typing import Final

import msgspec

from hub import events, wire
from hub.admission import LEAST_RETRY_MS, Refusals, problem_of, surer
from hub.columns import Fleet
from hub.decision import Decision, Terms
from hub.delay import Lengths
from hub.errors import WireError
from hub.explore import EXPLORING_SHARE, exploring
from hub.few import FEW, PRICINGS, choose_among_few
from hub.fleet import Key, Node, Standing, failed, freed, kept_waiting, loaded, succeeded, surprised, taught
from hub.intake import DEFAULT_TASK, Ask, Refusal, fingerprint_of, other_id, read_ask
from hub.offers import offers_of
from hub.outbox import Outbox, Reply
from hub.peers import SWEEP_EVERY_S, Elsewhere, Peers
from hub.prefixes import Prefixes
from hub.questions import Attempt, Ended, InFlight, failure_for, load_of, own_record, record_of, work_for
from hub.recent import Recent
from hub.router import Features, Ranking, choose, least_delay, least_wait_ms, refusal
from hub.second import (
    HEDGE_BURST,
    HEDGE_SHARE,
    RETRY_BURST,
    RETRY_SHARE,
    WORTH_CHANCE,
    Allowance,
    Doubt,
    doubt_of,
    looked_again,
)
from hub.shares import Rate, Room
from hub.timers import Timers
from hub.watch import STALL_S, Watch

WORTH_WAITING_S: Final = 3.0  # of the 5 s of budget that a node is up, it may need 2 until it is heard of
RESEND_AFTER_S: Final = 2.0  # a repeat or an idle node makes the hub send Work again, no sooner than this
MESSAGE_CHARS: Final = 500  # of a node's own words in a failure
QUESTIONS_FAULT: Final = ("invalid", "too_large", "deadline")  # outcomes that say nothing against the node


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the memory. Beyond `in_flight*` a question is `overloaded`; the rest forgets the oldest."""

    in_flight: int = 4096
    in_flight_bytes: int = 64 * 1024 * 1024
    ended: int = 10_000
    nodes: int = 10_000
    bundles_per_node: int = 64
    devices: int = 10_000
    unaccepted: int = 10_000
    attempts: int = 8


def _never() -> float:
    return 1.0


class Core:
    """One hub. `new_id` draws an id for a question that came without one.

    `draw` gives a number from 0 to 1 by chance, for which few questions go to a node to learn of it.
    `device_rate` bounds what each device may ask, `fair_shares` what it may have in flight when the hub is crowded.
    Without `minds_deadlines` a question goes where `rank` says, to one node, however late: to compare rankings.
    """

    def __init__(
        self,
        hub: str,
        *,
        new_id: Callable[[], str],
        settle_s: float = 2.0,
        lost_s: float = 30.0,
        rank: Ranking = least_delay,
        draw: Callable[[], float] = _never,
        device_rate: Rate | None = None,
        fair_shares: bool = False,
        hedge_share: float = HEDGE_SHARE,
        minds_deadlines: bool = True,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
    ) -> None:
        self.hub = hub
        self.counters: Counter[str] = Counter()
        self.fleet = Fleet()
        self._new_id = new_id
        self._settle_s = settle_s
        self._rank = rank
        self._pricing = PRICINGS.get(rank)
        self._draw = draw
        self._limits = limits
        self._timers = Timers()
        self._watch = Watch(hub, self.fleet, self._timers, self.counters, lost_s=lost_s, limits=limits)
        self._lengths = Lengths(limits.devices)
        self._prefixes = Prefixes(limits.devices)
        self._room = Room(
            *(limits.in_flight, limits.in_flight_bytes, limits.devices),
            device_rate=device_rate,
            fair_shares=fair_shares,
        )
        self._minds_deadlines = minds_deadlines
        self._refusals = Refusals(limits.devices + limits.nodes)
        self._hedges = Allowance(hedge_share, HEDGE_BURST, 0.0)
        self._retries = Allowance(RETRY_SHARE, RETRY_BURST, RETRY_BURST)
        self._in_flight: dict[Key, InFlight] = {}
        self._adrift: dict[Key, None] = {}  # in order of their coming adrift
        self._ended: Recent[Key, Ended] = Recent(limits.ended)
        self._own_kept: Recent[tuple[str, str, str], bool] = Recent(limits.ended)
        self._outbox = Outbox(self.counters, limits.unaccepted)
        self._settled = False
        self._clear_since_s = -math.inf  # what was sent before says nothing of a node's delay: link or hub was held up
        self._peers = Peers(hub, self.fleet, limits)
        self._hears_work = False

    @property
    def in_flight(self) -> int:
        """Questions without an outcome."""
        return len(self._in_flight)

    def offers(self, now: float) -> tuple[wire.Offer, ...]:
        """At what terms the fleet answers now."""
        return offers_of(self.fleet, now)

    def next_wake(self, now: float) -> float | None:
        """When `TimePassed` is to be handled, at the latest; None where nothing is due ever."""
        at_s = self._timers.next_s()
        return None if at_s is None else max(at_s, now)

    def handle(self, event: events.Event, now: float) -> list[events.Effect]:
        """What is to be done now that `event` has happened."""
        effects: list[events.Effect] = []
        self._outbox.out = effects
        if self._watch.notice_stall(now):
            self._clear_since_s = now
        if isinstance(event, events.MessageReceived):
            self._received(event, now)
        elif isinstance(event, events.PublishAccepted):
            self._accepted(event.ticket)
        elif isinstance(event, events.LinkOpened):
            self._opened(now)
        elif isinstance(event, events.LinkClosed):
            self._closed()
        elif isinstance(event, events.AsksTakenOver):
            self._asks_taken_over(event.hub)
        for alarm in self._timers.due(now):
            self._fire(alarm, now)
        return effects

    # --- what arrives -----------------------------------------------------------------------------------

    def _received(self, message: events.MessageReceived, now: float) -> None:
        topic = wire.Topic.parse(message.topic)
        if topic is not None and topic.kind == "ask" and not message.retained:
            self._asked(message, topic.name, now)
            return
        if message.receipt is not None:  # nothing that comes of this needs it again
            self._outbox.out.append(events.AcknowledgeAsk(message.receipt))
        try:
            if topic is None:
                self.counters["foreign_topic"] += 1
            elif topic.kind == "node_state":
                self._state_published(topic.name, message, now)
            elif topic.kind == "report" and not message.retained:
                self._reported(topic.name, message.payload, now)
            elif topic.kind == "work" and not message.retained:
                self._sent_elsewhere(topic.name, message.payload, now)
            elif topic.kind == "hub_state" and topic.name != self.hub:
                self._peers.state_published(topic.name, message.payload)
                self._mind_peers(now)
            else:
                self.counters[f"ignored_{topic.kind}"] += 1
        except WireError:
            assert topic is not None
            self.counters[f"bad_{topic.kind}"] += 1

    def _asked(self, message: events.MessageReceived, device: str, now: float) -> None:
        ask = read_ask(message, device, self._new_id)
        receipts = [] if message.receipt is None else [message.receipt]
        if isinstance(ask, Refusal):
            self.counters[f"ask_{ask.failure.error.code}"] += 1
            self._outbox.reply(Reply(failure_for(ask.sender, ask.failure), receipts))
            return
        known = self._known_fingerprint(ask.key)
        if known is not None and known != ask.fingerprint:
            renamed = self._resolve_conflict(ask, receipts)
            if renamed is None:
                return
            ask = renamed
        if (question := self._in_flight.get(ask.key)) is not None:
            self._repeated(question, receipts, now)
        elif (ended := self._ended.get(ask.key)) is not None:
            self._asked_again(ended, ask, receipts, now)
        elif (other := self._peers.find(ask.key)) is not None:
            self._asked_elsewhere(other, ask, receipts, now)
        else:
            self.counters["asks"] += 1
            self._begin(InFlight(ask, now), receipts, now)

    def _known_fingerprint(self, key: Key) -> bytes | None:
        question = self._in_flight.get(key)
        if question is not None:
            return question.ask.fingerprint
        known = self._ended.get(key) or self._peers.find(key)
        return known.fingerprint if known is not None else None

    def _resolve_conflict(self, ask: Ask, receipts: list[int]) -> Ask | None:
        """Another question under a known id must not get the other's answer.

        An id that came from Correlation Data is made distinct. A device's own id may be used again once its first
        question has ended (it counts from 1 again after a restart), but not before.
        """
        self.counters["id_conflicts"] += 1
        if not ask.id_is_own:
            return other_id(ask)
        if self._ended.pop(ask.key) is not None:
            return ask
        problem = wire.Problem(code="invalid", message=f"id {ask.key[1]!r} is in use by another question in flight")
        failure = wire.Failure(id=ask.key[1], error=problem)
        self._outbox.reply(Reply(failure_for(ask.sender, failure), receipts))
        return None

    def _begin(self, question: InFlight, receipts: list[int], now: float) -> None:
        """A new question: place it, let it wait for the fleet to show itself, or fail it."""
        question.receipts = receipts
        self._in_flight[question.key] = question
        self._room.shares.add(question.key[0], question.ask.payload_bytes)
        if question.budget_ms(now) <= 0:
            self._fail(question, "deadline", "no time was left when the question reached the hub", now)
            return
        others = len(self._in_flight) - 1
        problem = self._room.problem_with(question.key[0], others, lambda: self._retry_after_ms(now), now)
        if problem is not None:
            self._fail(question, problem.code, problem.message, now, retry_after_ms=problem.retry_after_ms)
            return
        self._timers.set(("deadline", *question.key), question.deadline_s)
        self._place(question, now)

    def _repeated(self, question: InFlight, receipts: list[int], now: float) -> None:
        self.counters["duplicates"] += 1
        question.duplicates += 1
        if not question.accepted:
            question.receipts += receipts  # goes with the publish under way, or with the first one
            return
        self._outbox.acknowledge(receipts)
        if now - question.published_s >= RESEND_AFTER_S:
            self._publish_work(question, now)

    def _asked_again(self, ended: Ended, ask: Ask, receipts: list[int], now: float) -> None:
        """The outcome did not reach its asker, or not in time: let it be said again, at its present address."""
        self.counters["duplicates"] += 1
        if ended.failure is not None:
            self._outbox.reply(Reply(failure_for(ask.sender, ended.failure), receipts))
            return
        attempt = ended.attempt
        assert attempt is not None
        node = self.fleet.get(attempt.node)
        there = node is not None and node.standing in (Standing.READY, Standing.DRAINING)
        if node is not None and there and node.epoch == attempt.epoch:
            work = work_for(self.hub, ask, attempt, ask.budget_ms)
            self._outbox.reply(Reply(events.PublishWork(node=node.name, work=work, ticket=0), receipts))
            return
        self.counters["answers_lost_with_their_node"] += 1
        self._ended.pop(ask.key)
        self._begin(InFlight(ask, now, first_number=attempt.number + 1, recorded=False), receipts, now)

    def _state_published(self, name: str, message: events.MessageReceived, now: float) -> None:
        news = self._watch.state_published(name, message.payload, now, live=not message.retained)
        self._outbox.out += news.pings
        self._strand(news.stranded, name, now)
        if news.usable:
            self._rally(now)

    def _reported(self, name: str, payload: bytes, now: float) -> None:
        report = wire.decode_report(payload)
        if isinstance(report, wire.Pong):
            news = self._watch.ponged(name, report, now)
            self._peers.missing(name, news.missing, now)
            for key in news.missing:
                self._resend_missing(key, name, now)
            if news.usable:
                self._rally(now)
            return
        if isinstance(report, wire.OwnRecords):
            if report.hub == self.hub:
                self._keep(name, report)
            return
        if self._watch.told_by_done(name, report, now):
            self._done_somewhere(name, report, now)

    def _keep(self, name: str, own: wire.OwnRecords) -> None:
        """What a node answered on its own becomes rows, each once, and the node may forget it."""
        for record in own.records:
            key = (name, record.device, record.id)
            if self._own_kept.get(key) is None:
                self._own_kept.put(key, True)
                self.counters["own_records"] += 1
                self._outbox.out.append(events.StoreRecord(own_record(record, name, self.hub), record.ago_ms))
        self._outbox.out.append(events.PublishControl(node=name, control=wire.Kept(hub=self.hub, seq=own.seq)))

    def _resend_missing(self, key: Key, name: str, now: float) -> None:
        """A node has nothing to do although it was sent this question: the Work or its Done got lost."""
        question = self._in_flight.get(key)
        if question is None or question.current is None or question.current.node != name:
            return
        if question.accepted and now - question.published_s >= RESEND_AFTER_S:
            self.counters["resent"] += 1
            self._publish_work(question, now)

    # --- other hubs -------------------------------------------------------------------------------------

    def _mind_peers(self, now: float) -> None:
        """Hear what others send as soon as there are any, and go on with what those left behind whose heir we are."""
        if self._peers.any_there != self._hears_work and (self._settled or not self._hears_work):
            self._hears_work = not self._hears_work
            self._outbox.out.append(events.HearWork(self._hears_work))
        if self._settled:
            self._outbox.out += [events.TakeOverAsks(hub) for hub in self._peers.left_behind]
            for other in self._peers.orphans:
                self._take_over(other, other.ask(now), now)

    def _asks_taken_over(self, hub: str) -> None:
        if hub in self._peers.left_behind:  # it may have come back
            self._outbox.out.append(events.ForgetHub(hub))

    def _sent_elsewhere(self, name: str, payload: bytes, now: float) -> None:
        """Another hub has sent a question to a node: a repeat of it is known from now on, and so is the load."""
        work = wire.decode_work(payload)
        assert work.question.id is not None
        key = (work.device, work.question.id)
        known = self._known_fingerprint(key)
        if work.hub == self.hub or (known is not None and known != fingerprint_of(work.question)):
            return  # a device that uses an id twice is told so where it asks
        question, ended = self._in_flight.get(key), self._ended.get(key)
        if question is not None:
            mine = question.current
            if mine is not None and (mine.number, self.hub) > (work.attempt, work.hub):
                self._publish_work(question, now)  # so that the other one hears of it
                return
            self.counters["handed_over"] += question.recorded  # else it had its record before
            self._let_go(question, name, now)
        elif ended is not None:
            if ended.attempt is not None and work.attempt <= ended.attempt.number:
                return  # its answer is told again
            self._ended.pop(key)
        self._peers.sent(name, work, len(payload), now)
        self._timers.set(("sweep",), now + SWEEP_EVERY_S)

    def _asked_elsewhere(self, other: Elsewhere, ask: Ask, receipts: list[int], now: float) -> None:
        """A repeat of a question that another hub has in flight."""
        self.counters["duplicates"] += 1
        self._outbox.acknowledge(receipts)  # a broker had its Work: it is not lost with this hub
        if self._settled and not (self._peers.is_there(other.hub) and self._peers.is_well(other)):
            self._take_over(other, ask, now)

    def _take_over(self, other: Elsewhere, ask: Ask, now: float) -> None:
        """Go on with a question that another hub had: say so by its Work, or move it, where its node is lost."""
        size = other.payload_bytes
        full = len(self._in_flight) >= self._limits.in_flight
        if full or self._room.shares.size_bytes + size > self._limits.in_flight_bytes or ask.budget_ms <= 0:
            return  # a repeat will come
        self.counters["taken_over"] += 1
        question = InFlight(msgspec.structs.replace(ask, payload_bytes=size), now)
        question.attempts += self._peers.take(other.key).attempts
        question.tries = len(question.attempts)
        question.next_number = max(attempt.number for attempt in question.attempts) + 1
        question.accepted = True
        self._in_flight[question.key] = question
        self._room.shares.add(question.key[0], size)
        self._timers.set(("deadline", *question.key), question.deadline_s)
        if self._peers.is_well(other):
            self._publish_work(question, now)
        elif not self._move(question, now):
            self._mark_adrift(question, now)

    def _done_somewhere(self, name: str, done: wire.Done, now: float) -> None:
        """A node has ended a question: ours, or another hub's, which a repeat may bring here."""
        other = self._peers.done(name, done, now)
        key = (done.device, done.id)
        theirs = done.hub != self.hub and self._peers.is_there(done.hub)
        if other is not None:
            if done.outcome == "answered":
                self._answered_elsewhere(other, name, done, now)
            elif done.outcome != "cancelled":
                self.fleet.put(self._charged(self._node(name), done, now))
        elif done.hub == self.hub:
            self._done(name, done, now)
        elif (question := self._in_flight.get(key)) is not None and (done.outcome == "answered" or not theirs):
            if theirs:  # it has its record there
                self.counters["answered_for_others"] += question.recorded
                question.recorded = False
            self._done(name, done, now)

    def _answered_elsewhere(self, other: Elsewhere, name: str, done: wire.Done, now: float) -> None:
        node = self._node(name)
        found = (a for a in other.attempts if (a.node, a.number) == (name, done.attempt) and a.epoch == node.epoch)
        attempt = next(found, None)
        if attempt is None:
            attempt = Attempt(done.attempt, name, node.epoch, done.bundle[:256], now, 0.0, 0.0)
        else:
            self._learn(other.key[0], other.work.question, attempt, node, done, now)
        self._ended.put(other.key, Ended(other.fingerprint, attempt, None))

    # --- the link ---------------------------------------------------------------------------------------

    def _accepted(self, ticket: int) -> None:
        key = self._outbox.accepted(ticket)
        if key is not None:
            question = self._in_flight[key]
            question.accepted = True
            self._outbox.acknowledge(question.receipts)

    def _opened(self, now: float) -> None:
        if self._outbox.is_open:
            self._closed()
        self._clear_since_s = now
        self._timers.set(("settled",), now + self._settle_s)
        self._outbox.out += self._watch.link_opened(now)
        self._outbox.open()
        for question in self._in_flight.values():  # the broker may have lost even what it had accepted
            if question.current is not None:
                self._publish_work(question, now)

    def _closed(self) -> None:
        self._settled = False
        self._timers.cancel(("settled",))
        self._peers.link_closed()
        self._watch.link_closed()
        self._outbox.close()

    # --- time -------------------------------------------------------------------------------------------

    def _fire(self, alarm: tuple[str, ...], now: float) -> None:
        if alarm[0] == "deadline":
            self._deadline_passed(self._in_flight[alarm[1], alarm[2]], now)
        elif alarm[0] == "hopeless":
            self._give_up(self._in_flight[alarm[1], alarm[2]], now)
        elif alarm[0] == "second":
            self._doubt(self._in_flight[alarm[1], alarm[2]], now)
        elif alarm[0] == "settled":
            self._settled = True
            for key in list(self._adrift):
                if self._in_flight[key].current is None:
                    self._place(self._in_flight[key], now)
            self._mind_peers(now)
        elif alarm[0] == "sweep":
            self._peers.sweep(now)
            if len(self._peers):
                self._timers.set(("sweep",), now + SWEEP_EVERY_S)
        elif alarm[0] == "ping":
            news = self._watch.ping_due(alarm[1], now)
            self._outbox.out += news.pings
            self._strand(news.stranded, alarm[1], now)
        elif alarm[0] == "lost":
            self._strand(self._watch.stayed_away(alarm[1]), alarm[1], now)

    def _deadline_passed(self, question: InFlight, now: float) -> None:
        budget = f"no answer within {question.ask.budget_ms:.0f} ms"
        attempt = question.current
        if attempt is None:
            self._fail(question, "no_node", f"{budget}: no node was there to take it", now)
        else:
            self._note_lateness(attempt, now)
            self._fail(question, "deadline", f"{budget}; it was at node {attempt.node}", now)

    def _give_up(self, question: InFlight, now: float) -> None:
        """Too little time is left for a node to appear and to answer."""
        if not self._has_living_node(question):
            why = "its node was lost and none came in its place" if question.attempts else "no node came"
            self._fail(question, "no_node", f"{why}: start one with `edge-agent serve`", now)

    # --- placing ----------------------------------------------------------------------------------------

    def _place(self, question: InFlight, now: float) -> None:
        """Send a question without an attempt to the best node; without any, let it wait or fail it."""
        features = question.features(self._lengths, self._prefixes, self.fleet, now)
        worth_waiting = question.deadline_s - now > WORTH_WAITING_S
        decision = self._choose(features, now, question.failed_on, last_resort=self._settled)
        if decision.chosen is None and not self._settled:
            self._mark_adrift(question, now)
        elif decision.chosen is None:
            self._refuse(question, decision, refusal(features, self.fleet), now)
        elif (problem := self._too_late(decision, now)) is not None:
            self._refuse(question, msgspec.structs.replace(decision, chosen=None), problem, now)
        elif self._node(decision.chosen.node).standing == Standing.LOST and not worth_waiting:
            self._fail(question, "no_node", "the nodes that could answer have just gone offline", now)
        else:
            if question.tries == 0 and self._draw() < EXPLORING_SHARE:
                decision = exploring(decision, self._node, now)
            self._dispatch(question, decision, now)

    def _choose(self, features: Features, now: float, exclude: Set[str], *, last_resort: bool = False) -> Decision:
        if self._pricing is not None and self.fleet.size <= FEW:
            decision = choose_among_few(
                *(features, self.fleet, now, exclude), last_resort=last_resort, pricing=self._pricing
            )
        else:
            decision = choose(features, self.fleet, now, exclude, last_resort=last_resort, rank=self._rank)
        return surer(decision) if self._minds_deadlines else decision

    def _refuse(self, question: InFlight, decision: Decision, problem: wire.Problem, now: float) -> None:
        decision = msgspec.structs.replace(decision, cause=f"refused: {problem.code}")
        question.decisions.append(decision)
        self._outbox.out.append(events.LogDecision(decision))
        self._fail(question, problem.code, problem.message, now, retry_after_ms=problem.retry_after_ms)

    def _too_late(self, decision: Decision, now: float) -> wire.Problem | None:
        """Why nobody will answer a new question in time; None also where it is to be tried all the same."""
        chosen = decision.chosen
        if chosen is None or not self._minds_deadlines or self._node(chosen.node).standing != Standing.READY:
            return None
        problem = problem_of(decision, self._node, now)
        if problem is None or problem.code != "deadline":
            return problem
        if self._refusals.is_to_be_tried(decision.device, chosen.node, now):
            self.counters["tried_against_the_odds"] += 1
            return None
        return problem

    def _strand(self, keys: tuple[Key, ...], name: str, now: float) -> None:
        """These questions' node cannot be counted on: move those that it still has to a ready node, if there is one."""
        for key in keys:
            question = self._in_flight.get(key)
            if question is None or question.current is None or question.current.node != name:
                continue
            if not self._falls_back(question) and not self._move(question, now):
                self._mark_adrift(question, now)

    def _falls_back(self, question: InFlight) -> bool:
        """Whether another attempt, beside the current one that is lost, is at a ready node: that one is counted on."""
        for attempt in question.attempts:
            if self._is_at_ready_node(attempt):
                question.attempts.remove(attempt)
                question.attempts.append(attempt)
                return True
        return False

    def _is_at_ready_node(self, attempt: Attempt) -> bool:
        node = self.fleet.get(attempt.node)
        return node is not None and node.epoch == attempt.epoch and node.standing == Standing.READY

    def _mark_adrift(self, question: InFlight, now: float) -> None:
        self._adrift[question.key] = None
        worth_until_s = question.deadline_s - WORTH_WAITING_S
        if worth_until_s > now:
            self._timers.set(("hopeless", *question.key), worth_until_s)
        elif self._settled:
            self._give_up(question, now)
        # else the fleet is about to show itself: the end of settling or the deadline has the last word

    def _rally(self, now: float) -> None:
        """A node is usable that was not: it takes what is adrift, where it is the best for it."""
        for key in list(self._adrift):
            self._move(self._in_flight[key], now)

    def _move(self, question: InFlight, now: float) -> bool:
        """Whether the question has found a ready node, or its end because it has lost too many."""
        decision = self._choose(
            question.features(self._lengths, self._prefixes, self.fleet, now), now, question.failed_on
        )
        if decision.chosen is None:
            return False
        if question.tries >= self._limits.attempts and not self._has(question, decision.chosen):
            lost = f"{question.tries} nodes in turn were lost or gave up while they had it"
            self._fail(question, "internal", lost, now)
            return True
        self._dispatch(question, decision, now)
        return True

    def _dispatch(self, question: InFlight, decision: Decision, now: float) -> None:
        terms = decision.chosen
        assert terms is not None
        node = self._node(terms.node)
        if self._has(question, terms):
            assert question.current is not None
            decision = msgspec.structs.replace(decision, attempt=question.current.number)
        else:
            question.attempts.append(
                Attempt(
                    question.next_number,
                    node.name,
                    node.epoch,
                    terms.bundle,
                    now,
                    terms.delay_ms,
                    terms.completion_tokens,
                    terms.fixed_ms + terms.prefill_ms,
                    terms.decode_ms,
                )
            )
            question.decisions.append(decision)
            question.next_number += 1
            if question.tries == 0:
                self._hedges.earn()
                self._retries.earn()
            question.tries += 1
        load = load_of(question, terms, now)
        self.fleet.put(loaded(freed(node, question.key, now), load))
        self._publish_work(question, now)
        self._outbox.out.append(events.LogDecision(decision))
        if node.standing == Standing.READY:
            self._adrift.pop(question.key, None)
            self._timers.cancel(("hopeless", *question.key))
            once = self._minds_deadlines and not question.second
            self._look_later(question, doubt_of(question.ask, terms, load, now) if once else None)
        else:
            self._mark_adrift(question, now)

    def _has(self, question: InFlight, terms: Terms) -> bool:
        """Whether the chosen node is the one that the question is at already, in this life of it."""
        current, node = question.current, self._node(terms.node)
        return current is not None and (current.node, current.epoch, current.bundle) == (
            node.name,
            node.epoch,
            terms.bundle,
        )

    def _publish_work(self, question: InFlight, now: float) -> None:
        attempt = question.current
        assert attempt is not None
        question.accepted = False
        question.published_s = now
        budget_ms = question.budget_ms(now)
        node = self.fleet.get(attempt.node)
        if node is not None and node.standing == Standing.LOST:
            # When the question is given up, the Work must be gone too: no answer after a failure.
            budget_ms = max(budget_ms - WORTH_WAITING_S * 1000, 0.0)
        work = work_for(self.hub, question.ask, attempt, budget_ms)
        self._outbox.publish_work(question.key, events.PublishWork(node=attempt.node, work=work, ticket=0))

    # --- a second attempt -------------------------------------------------------------------------------

    def _look_later(self, question: InFlight, doubt: Doubt | None) -> None:
        question.doubt = doubt
        if doubt is None:
            self._timers.cancel(("second", *question.key))
        else:
            self._timers.set(("second", *question.key), doubt.next_s)

    def _doubt(self, question: InFlight, now: float) -> None:
        """The current attempt takes longer than it should."""
        doubt, attempt = question.doubt, question.current
        assert doubt is not None
        if attempt is None or question.key in self._adrift:
            return  # it goes to the next node that is ready, and is looked at then
        hedging = now < doubt.silent_at_s
        node = self._node(attempt.node)
        if now - doubt.next_s > STALL_S or (not hedging and node.ended_s > doubt.looked_s):
            pass  # this hub was held up, and the outcome may be in its socket; or the node is busy with others
        elif self._try_second(question, "hedge" if hedging else "silence", now):
            return
        if hedging and now - doubt.next_s <= STALL_S:
            self._look_later(question, msgspec.structs.replace(doubt, hedge_at_s=math.inf))
        else:
            self._look_later(question, looked_again(doubt, doubt.silent_at_s - doubt.looked_s, now))

    def _try_second(self, question: InFlight, why: str, now: float) -> bool:
        """Whether a second node tries as well: there is one that will be in time, and the budget for it."""
        allowance = self._hedges if why == "hedge" else self._retries
        if allowance.is_spent or not self._outbox.is_open or question.tries >= self._limits.attempts:
            return False
        features = question.features(self._lengths, self._prefixes, self.fleet, now)
        others = question.failed_on | {attempt.node for attempt in question.attempts}
        decision = self._choose(features, now, others)
        terms = decision.chosen
        if terms is None or terms.chance_within(question.budget_ms(now)) < WORTH_CHANCE or not allowance.take():
            return False
        self.counters[f"second_{why}"] += 1
        question.second = why
        self._dispatch(question, msgspec.structs.replace(decision, cause=why), now)
        return True

    # --- ending -----------------------------------------------------------------------------------------

    def _done(self, name: str, done: wire.Done, now: float) -> None:
        question = self._in_flight.get((done.device, done.id))
        node = self._node(name)
        if question is None:
            self.fleet.put(freed(node, (done.device, done.id), now))
            self.counters["late_done"] += 1
            return
        attempt = question.find(name, done.attempt)
        if done.outcome == "answered":
            self._answered(question, attempt, node, done, now)
        elif attempt is None:
            self.counters["stray_done"] += 1
        elif attempt is not question.current:
            question.attempts.remove(attempt)  # another node is at it
            question.failed_on.add(name)
            question.internal_failures += done.outcome == "internal"
            self.fleet.put(self._charged(freed(node, question.key, now), done, now))
        else:
            node = self._charged(freed(node, question.key, now), done, now)
            self.fleet.put(node)
            self._retry_or_fail(question, attempt, node, done, now)

    def _charged(self, node: Node, done: wire.Done, now: float) -> Node:
        """A node that fails fast is not cheaper for it: what it fails counts, unless the question is to blame."""
        if done.outcome in QUESTIONS_FAULT or (done.outcome == "overloaded" and node.standing != Standing.READY):
            return node
        return failed(node, now)

    def _note_lateness(self, attempt: Attempt, now: float) -> None:
        """An attempt that is ended without its answer would have taken at least so long."""
        late_ms = (now - attempt.sent_s) * 1000
        node = self.fleet.get(attempt.node)
        clear = self._outbox.is_open and attempt.sent_s > self._clear_since_s
        if clear and node is not None and self._is_at_ready_node(attempt):
            self.fleet.put(kept_waiting(node, attempt.predicted_ms, late_ms))

    def _answered(self, question: InFlight, attempt: Attempt | None, node: Node, done: wire.Done, now: float) -> None:
        """The device has its answer, be it from an attempt that this hub (before a restart) does not remember."""
        if attempt is None:
            self.counters["answered_unasked"] += 1
            attempt = Attempt(done.attempt, node.name, node.epoch, done.bundle[:256], now, 0.0, 0.0)
        else:
            self._learn(question.key[0], question.ask.question, attempt, freed(node, question.key, now), done, now)
            for other in question.attempts:
                if other is not attempt:
                    self._note_lateness(other, now)
            self.fleet.took((now - question.received_s) * 1000)
        self.counters["answered"] += 1
        self._end(question, "answered", None, done, attempt, now)

    def _learn(
        self, device: str, question: wire.Question, attempt: Attempt, node: Node, done: wire.Done, now: float
    ) -> None:
        """What an answer shows of its node, its bundle and its device, whichever hub it was asked for."""
        after = taught(node, attempt.bundle, done.tokens, done.timing_ms)
        if attempt.sent_s > self._clear_since_s:
            after = surprised(after, attempt.predicted_ms, (now - attempt.sent_s) * 1000)
        self.fleet.put(succeeded(after, now))
        self._refusals.answered(device, node.name)
        self._prefixes.learn(device, question.session, node.name, node.epoch, done.tokens)
        if question.session is None:  # else the prompt holds turns that were not sent
            self.fleet.learn_prompt_size(attempt.bundle, question.size_chars, done.tokens.prompt)
        if (tokens := done.tokens.completion) > 0:
            if attempt.expected_tokens > 0:
                self.fleet.tail.learn(tokens / attempt.expected_tokens)
            self._lengths.learn(device, question.task or DEFAULT_TASK, tokens, question.max_tokens)

    def _retry_or_fail(self, question: InFlight, attempt: Attempt, node: Node, done: wire.Done, now: float) -> None:
        """The node has given up. Another one may do better, unless the fault is the question's own."""
        self.counters[f"node_{done.outcome}"] += 1
        outcome = "internal" if done.outcome in ("cancelled", "no_node", "answered") else done.outcome
        internal = outcome == "internal"
        handed_back = outcome == "overloaded" and node.standing in (Standing.DRAINING, Standing.GONE)
        question.internal_failures += internal
        question.attempts.remove(attempt)
        if outcome == "too_large":
            contexts = [bundle.context for bundle in node.bundles if bundle.bundle == attempt.bundle]
            question.larger_than = max([question.larger_than, *contexts])
        elif not handed_back:  # it leaves, and may come back
            question.failed_on.add(node.name)
        final = outcome in ("invalid", "deadline") or (internal and question.internal_failures > 1)
        if self._falls_back(question):
            return  # the other attempt goes on
        if not final and self._move(question, now):
            return
        if not final and (question.attempts or handed_back):  # a node that fell silent, or left, may come back
            self._mark_adrift(question, now)
            return
        message = done.message[:MESSAGE_CHARS] or f"node {node.name} ended it as {done.outcome}"
        retry_after_ms = self._retry_after_ms(now) if outcome == "overloaded" else None
        self._fail(question, outcome, message, now, by=attempt, done=done, retry_after_ms=retry_after_ms)

    def _fail(
        self,
        question: InFlight,
        code: str,
        message: str,
        now: float,
        *,
        by: Attempt | None = None,
        done: wire.Done | None = None,
        retry_after_ms: float | None = None,
    ) -> None:
        problem = wire.Problem(
            code=code,  # type: ignore[arg-type]  # callers give one of wire.Code
            message=message,
            retry_after_ms=retry_after_ms,
        )
        failure = wire.Failure(id=question.key[1], error=problem)
        self.counters[f"failed_{code}"] += 1
        self._outbox.reply(Reply(failure_for(question.ask.sender, failure), question.receipts))
        question.receipts = []
        self._end(question, code, failure, done, by or question.current, now)

    def _end(
        self,
        question: InFlight,
        outcome: str,
        failure: wire.Failure | None,
        done: wire.Done | None,
        by: Attempt | None,
        now: float,
    ) -> None:
        """Forget the question, but for its outcome; every other attempt at it is called off."""
        self._let_go(question, by.node if failure is None and by is not None else None, now)
        self._ended.put(question.key, Ended(question.ask.fingerprint, by if failure is None else None, failure))
        if question.recorded:
            record = record_of(question, self.hub, outcome, self.fleet, done, by, now)
            self._outbox.out.append(events.StoreRecord(record))

    def _let_go(self, question: InFlight, but: str | None, now: float) -> None:
        """The question is not in flight here any more; what other nodes than `but` do about it is called off."""
        key = question.key
        del self._in_flight[key]
        self._room.shares.remove(key[0], question.ask.payload_bytes)
        self._adrift.pop(key, None)
        self._timers.cancel(("deadline", *key))
        self._timers.cancel(("hopeless", *key))
        self._timers.cancel(("second", *key))
        self._outbox.forget_work(key)
        self._outbox.acknowledge(question.receipts)  # an answered question needs no redelivery, accepted Work or not
        for attempt in question.attempts:
            node = self.fleet.get(attempt.node)
            if node is None or node.epoch != attempt.epoch:
                continue
            self.fleet.put(freed(node, key, now))
            if self._outbox.is_open and node.name != but:
                cancel = wire.Cancel(device=key[0], id=key[1], attempt=attempt.number)
                self._outbox.out.append(events.PublishControl(node=node.name, control=cancel))

    # --- small things -----------------------------------------------------------------------------------

    def _retry_after_ms(self, now: float) -> float:
        return max(round(least_wait_ms(self.fleet, now)), LEAST_RETRY_MS)

    def _has_living_node(self, question: InFlight) -> bool:
        attempt = question.current
        node = self.fleet.get(attempt.node) if attempt is not None else None
        if node is None or attempt is None or node.epoch != attempt.epoch:
            return False
        return node.standing in (Standing.READY, Standing.SUSPECT, Standing.DRAINING)

    def _node(self, name: str) -> Node:
        node = self.fleet.get(name)
        assert node is not None, name
        return node
