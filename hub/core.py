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

from collections.abc import Callable, Mapping

from hub import events, wire
from hub.accounts import Accounts, Heard
from hub.asks import RESEND_AFTER_S, Asks
from hub.chooser import Chooser
from hub.errors import WireError
from hub.fleet import Key
from hub.ledger import Ledger, Limits
from hub.lessons import Lessons
from hub.offers import offers_of
from hub.outcomes import Outcomes
from hub.peers import SWEEP_EVERY_S, Peers
from hub.placing import Placing
from hub.questions import own_record
from hub.recent import Recent
from hub.router import Ranking, least_delay
from hub.second import HEDGE_SHARE
from hub.shares import Rate
from hub.sharing import Sharing
from hub.watch import Watch


def _never() -> float:
    return 1.0


class Core:
    """One hub. `new_id` draws an id for a question that came without one.

    `draw` gives a number from 0 to 1 by chance, for which few questions go to a node to learn of it.
    `device_rate` bounds what each device may ask, `device_in_flight` what it may have in flight, and so does
    `fair_shares` when the hub is crowded.
    `heard` is what the records of the time before tell of each node's answers.
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
        device_in_flight: int | None = None,
        fair_shares: bool = False,
        hedge_share: float = HEDGE_SHARE,
        minds_deadlines: bool = True,
        heard: Mapping[str, Heard] | None = None,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
    ) -> None:
        self.hub = hub
        self._settle_s = settle_s
        self._ledger = Ledger(
            hub, limits, device_rate=device_rate, device_in_flight=device_in_flight, fair_shares=fair_shares
        )
        self.fleet = self._ledger.fleet
        self.counters = self._ledger.counters
        self._watch = Watch(hub, self.fleet, self._ledger.timers, self.counters, lost_s=lost_s, limits=limits)
        self._peers = Peers(hub, self.fleet, limits)
        self._lessons = Lessons(self.fleet, limits)
        chooser = Chooser(
            self.fleet, self._lessons, self.counters, rank=rank, draw=draw, minds_deadlines=minds_deadlines
        )
        self._placing = Placing(self._ledger, chooser, hedge_share)
        self._sharing = Sharing(self._ledger, self._placing, self._peers)
        self._asks = Asks(self._ledger, self._placing, self._sharing, self._peers, new_id)
        self._accounts = Accounts(hub, heard or {})
        self._outcomes = Outcomes(self._ledger, self._placing, self._lessons, self._peers, self._accounts)
        self._own_kept: Recent[tuple[str, str, str], bool] = Recent(limits.ended)

    @property
    def in_flight(self) -> int:
        """Questions without an outcome."""
        return len(self._ledger.in_flight)

    def offers(self, now: float) -> tuple[wire.Offer, ...]:
        """At what terms the fleet answers now."""
        return offers_of(self.fleet, now)

    def next_wake(self, now: float) -> float | None:
        """When `TimePassed` is to be handled, at the latest; None where nothing is due ever."""
        at_s = self._ledger.timers.next_s()
        return None if at_s is None else max(at_s, now)

    def handle(self, event: events.Event, now: float) -> list[events.Effect]:
        """What is to be done now that `event` has happened."""
        effects: list[events.Effect] = []
        self._ledger.outbox.out = effects
        if self._watch.notice_stall(now):
            self._lessons.held_up(now)
        if isinstance(event, events.MessageReceived):
            self._received(event, now)
        elif isinstance(event, events.PublishAccepted):
            self._accepted(event.ticket)
        elif isinstance(event, events.LinkOpened):
            self._opened(now)
        elif isinstance(event, events.LinkClosed):
            self._closed()
        elif isinstance(event, events.AsksTakenOver):
            self._sharing.asks_taken_over(event.hub)
        for alarm in self._ledger.timers.due(now):
            self._fire(alarm, now)
        return effects

    # --- what arrives -------------------------------------------------------------------------------

    def _received(self, message: events.MessageReceived, now: float) -> None:
        topic = wire.Topic.parse(message.topic)
        if topic is not None and topic.kind == "ask" and not message.retained:
            self._asks.asked(message, topic.name, now)
            return
        if message.receipt is not None:  # nothing that comes of this needs it again
            self._ledger.outbox.out.append(events.AcknowledgeAsk(message.receipt))
        try:
            if topic is None:
                self.counters["foreign_topic"] += 1
            elif topic.kind == "node_state":
                self._state_published(topic.name, message, now)
            elif topic.kind == "report" and not message.retained:
                self._reported(topic.name, message.payload, now)
            elif topic.kind == "work" and not message.retained:
                self._sharing.sent_elsewhere(topic.name, message.payload, now)
            elif topic.kind == "hub_state" and topic.name != self.hub:
                self._peers.state_published(topic.name, message.payload)
                self._sharing.mind_peers(now)
            else:
                self.counters[f"ignored_{topic.kind}"] += 1
        except WireError:
            assert topic is not None
            self.counters[f"bad_{topic.kind}"] += 1

    def _state_published(self, name: str, message: events.MessageReceived, now: float) -> None:
        news = self._watch.state_published(name, message.payload, now, live=not message.retained)
        self._ledger.outbox.out += news.pings
        self._placing.strand(news.stranded, name, now)
        if news.usable:
            self._placing.rally(now)

    def _reported(self, name: str, payload: bytes, now: float) -> None:
        report = wire.decode_report(payload)
        if isinstance(report, wire.Pong):
            news = self._watch.ponged(name, report, now)
            self._peers.missing(name, news.missing, now)
            for key in news.missing:
                self._resend_missing(key, name, now)
            if (node := self.fleet.get(name)) is not None:
                self._ledger.outbox.out += self._accounts.ponged(node, report, now)
            if news.usable:
                self._placing.rally(now)
            if self._peers.ping_answered(report.hub, now):
                self._sharing.mind_peers(now)
            return
        if isinstance(report, wire.OwnRecords):
            if report.hub == self.hub:
                self._keep(name, report)
            return
        if report.again and not self._ledger.is_in_flight(report):
            self._outcomes.told_again(name, report)
        elif self._watch.told_by_done(name, report, now):
            self._outcomes.done_somewhere(name, report, now)

    def _keep(self, name: str, own: wire.OwnRecords) -> None:
        """What a node answered on its own becomes rows, each once, and the node may forget it."""
        for record in own.records:
            key = (name, record.device, record.id)
            if self._own_kept.get(key) is None:
                self._own_kept.put(key, True)
                self.counters["own_records"] += 1
                self._ledger.outbox.out.append(events.StoreRecord(own_record(record, name, self.hub), record.ago_ms))
        self._ledger.outbox.out.append(events.PublishControl(node=name, control=wire.Kept(hub=self.hub, seq=own.seq)))

    def _resend_missing(self, key: Key, name: str, now: float) -> None:
        """A node has nothing to do although it was sent this question: the Work or its Done got lost."""
        question = self._ledger.in_flight.get(key)
        if question is None or question.current is None or question.current.node != name:
            return
        if question.accepted and now - question.published_s >= RESEND_AFTER_S:
            self.counters["resent"] += 1
            self._placing.publish_work(question, now)

    # --- the link -----------------------------------------------------------------------------------

    def _accepted(self, ticket: int) -> None:
        key = self._ledger.outbox.accepted(ticket)
        if key is not None:
            question = self._ledger.in_flight[key]
            question.accepted = True
            self._ledger.outbox.acknowledge(question.receipts)

    def _opened(self, now: float) -> None:
        if self._ledger.outbox.is_open:
            self._closed()
        self._lessons.link_opened(now)
        self._ledger.timers.set(("settled",), now + self._settle_s)
        self._ledger.outbox.out += self._watch.link_opened(now)
        self._ledger.outbox.open()
        for question in self._ledger.in_flight.values():  # the broker may have lost even what it had accepted
            if question.current is not None:
                self._placing.publish_work(question, now)

    def _closed(self) -> None:
        self._placing.settled = False
        self._ledger.timers.cancel(("settled",))
        self._peers.link_closed()
        self._watch.link_closed()
        self._lessons.link_closed()
        self._ledger.outbox.close()

    # --- time ---------------------------------------------------------------------------------------

    def _fire(self, alarm: tuple[str, ...], now: float) -> None:
        if alarm[0] == "deadline":
            self._outcomes.deadline_passed(self._ledger.in_flight[alarm[1], alarm[2]], now)
        elif alarm[0] == "hopeless":
            self._placing.give_up(self._ledger.in_flight[alarm[1], alarm[2]], now)
        elif alarm[0] == "second":
            self._placing.doubt(self._ledger.in_flight[alarm[1], alarm[2]], now)
        elif alarm[0] == "settled":
            self._placing.settled = True
            for key in list(self._ledger.adrift):
                if self._ledger.in_flight[key].current is None:
                    self._placing.place(self._ledger.in_flight[key], now)
            self._sharing.mind_peers(now)
        elif alarm[0] == "sweep":
            self._peers.sweep(now)
            if len(self._peers):
                self._ledger.timers.set(("sweep",), now + SWEEP_EVERY_S)
        elif alarm[0] == "ping":
            news = self._watch.ping_due(alarm[1], now)
            self._ledger.outbox.out += news.pings
            self._placing.strand(news.stranded, alarm[1], now)
        elif alarm[0] == "lost":
            self._placing.strand(self._watch.stayed_away(alarm[1]), alarm[1], now)
