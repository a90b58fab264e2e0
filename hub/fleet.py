"""What the hub knows of its nodes: frozen values, and one small function per thing that can happen to a node.

    nothing -> ready <-> suspect        three lost pings, healed by a pong
                 |  \\       |
                 |   draining           asked to take nothing new
                 v          v
               lost -> gone             its will came; lost ones may come back any second, gone ones are history

A higher epoch starts a node afresh, a lower one is an old message and changes nothing. Knows nothing of topics,
questions or how a node is chosen; `now` is monotonic seconds.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from hub import wire
from hub.delay import Cost, Flow, Spread, fit_cost, fit_flow, fit_spread, peak_ewma, seed_cost
from hub.failing import Failing, after_answer, after_failure

Key = tuple[str, str]  # device and question id
Verdict = Literal["stale", "new", "restarted", "offline", "back", "same"]
NEVER: Final = -math.inf


class Standing(enum.IntEnum):
    """How far a node can be counted on; smaller is better, and what is above LOST gets nothing new."""

    READY = 0
    SUSPECT = 1
    LOST = 2
    DRAINING = 3
    GONE = 4


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A question that this hub sent to a node and has not seen done."""

    key: Key
    sent_s: float
    start_s: float  # when the node began it or will; infinite while others are before it
    work_ms: float  # predicted compute
    longest_ms: float  # compute if its answer takes all the tokens that it may; infinite where that is not known
    deadline_s: float

    @property
    def end_by_s(self) -> float:
        """When it is over at the latest."""
        return min(self.deadline_s, self.start_s + self.longest_ms / 1000)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `costs` stands beside `bundles`; `network_ms` is None until the first pong."""

    name: str
    epoch: int
    standing: Standing
    bundles: tuple[wire.ServedBundle, ...] = ()
    costs: tuple[Cost, ...] = ()
    parallel: int = 1
    network_ms: float | None = None
    network_at_s: float = NEVER
    spread: Spread = Spread()
    flow: Flow | None = None  # None before its first answer
    failing: Failing = Failing()
    load: tuple[Load, ...] = ()
    reported_questions: int = 0
    reported_end_s: float = NEVER  # when the backlog that the node reported is worked off
    reported_since_s: float = NEVER  # what was sent after this is not in that backlog
    ended_s: float = NEVER  # when it last said that it had ended a question, whosever


class Waiting(msgspec.Struct, frozen=True):
    """A node's queue, so that its length at any time is a short formula.

    `wait_ms(now) = max(rest_ms + busy * min(|end - now|, max(end_by - now, 0)), said_end - now, 0)`

    The running question is `end - now` from its end by prediction. Once it is late, it is expected to be late by
    as much again, up to its last possible end: of heavy-tailed lengths, the longer one has run, the longer it goes
    on. The second part is what the node said of itself, worked off since, plus what was sent since it said so: it
    covers questions that this hub never saw.
    """

    rest_ms: float = 0.0
    busy: float = 0.0
    end_s: float = 0.0
    end_by_s: float = 0.0
    said_end_s: float = NEVER


def wait_ms(waiting: Waiting, now: float) -> float:
    """The predicted milliseconds until the node is free, seen from the hub at `now`; never negative.

    >>> busy = Waiting(rest_ms=50.0, busy=1.0, end_s=10.0, end_by_s=12.0)
    >>> [round(wait_ms(busy, now)) for now in (9.9, 10.0, 10.1, 11.5, 20.0)]
    [150, 50, 150, 550, 50]
    """
    running_s = min(abs(waiting.end_s - now), max(waiting.end_by_s - now, 0.0))
    ours_ms = waiting.rest_ms + waiting.busy * running_s * 1000.0
    return max(ours_ms, (waiting.said_end_s - now) * 1000.0, 0.0)


def waiting(node: Node) -> Waiting:
    """The queue before a new question at this node. With `parallel` slots, full ones drain together."""
    slots = node.parallel
    if len(node.load) < slots:
        return Waiting(said_end_s=_said_end_s(node))
    heads, queued = node.load[:slots], node.load[slots:]
    return Waiting(
        rest_ms=sum(load.work_ms for load in queued) / slots,
        busy=1.0,
        end_s=sum(load.start_s + load.work_ms / 1000 for load in heads) / slots,
        end_by_s=max(load.end_by_s for load in heads),
        said_end_s=_said_end_s(node),
    )


def _said_end_s(node: Node) -> float:
    """When the reported backlog, and what was sent since, is worked off; never where a slot is free by that."""
    since = [load for load in node.load if load.sent_s > node.reported_since_s]
    if node.reported_questions + len(since) < node.parallel:
        return NEVER
    travel_s = (node.network_ms or 0.0) / 2000
    end_s = node.reported_end_s
    for load in since:
        end_s = max(end_s, load.sent_s + travel_s) + load.work_ms / 1000 / node.parallel
    return end_s


# --- what can happen to a node --------------------------------------------------------------------------


def judge(before: Node | None, state: wire.NodeState) -> Verdict:
    """What an announced state means for the node as it was known."""
    if before is None:
        return "new"
    if state.epoch < before.epoch:
        return "stale"
    if state.status == "offline":
        return "offline"
    if state.epoch > before.epoch:
        return "restarted"
    return "back" if before.standing in (Standing.LOST, Standing.GONE) else "same"


def announced(before: Node | None, name: str, state: wire.NodeState, now: float, *, live: bool) -> Node:
    """The node after a state that is not stale. The backlog in it counts only when it was said just now (`live`).

    Costs are kept while their seed is the same, and so is the network estimate: the machine has not moved. An
    offline node that was ready is lost and may come back; one that was draining left on purpose.
    """
    if state.status == "offline":
        if before is None:
            return Node(name=name, epoch=state.epoch, standing=Standing.GONE)
        unexpected = before.standing in (Standing.READY, Standing.SUSPECT, Standing.LOST)
        standing = Standing.LOST if unexpected else Standing.GONE
        return msgspec.structs.replace(emptied(before), epoch=state.epoch, standing=standing)
    standing = Standing.READY if state.status == "ready" else Standing.DRAINING
    if before is None:
        before = Node(name=name, epoch=state.epoch, standing=standing)
    elif state.epoch > before.epoch:
        before = emptied(before)
    elif before.standing == Standing.SUSPECT and standing == Standing.READY:
        standing = Standing.SUSPECT  # a retained state may be repeated by the broker: only a pong heals
    known = dict(zip((bundle.bundle for bundle in before.bundles), before.costs, strict=True))
    after = msgspec.structs.replace(
        before,
        epoch=state.epoch,
        standing=standing,
        bundles=state.bundles,
        costs=tuple(_cost(known.get(bundle.bundle), bundle) for bundle in state.bundles),
        parallel=state.parallel,
    )
    return told(after, state.backlog, now, now) if live else after


def ponged(node: Node, backlog: wire.Backlog, round_trip_ms: float | None, sent_s: float, now: float) -> Node:
    """The node after its pong to the ping of `sent_s`; `round_trip_ms` (hold subtracted) is None if not usable."""
    standing = Standing.READY if node.standing in (Standing.SUSPECT, Standing.LOST) else node.standing
    network_ms, network_at_s = node.network_ms, node.network_at_s
    if round_trip_ms is not None:
        network_ms = peak_ewma(network_ms, max(round_trip_ms, 0.0), now - network_at_s)
        network_at_s = now
    after = msgspec.structs.replace(node, standing=standing, network_ms=network_ms, network_at_s=network_at_s)
    return told(after, backlog, sent_s, now)


def told(node: Node, backlog: wire.Backlog, since_s: float, now: float) -> Node:
    """The node after it reported its backlog, which holds everything that was sent before `since_s`."""
    travel_s = (node.network_ms or 0.0) / 2000
    return msgspec.structs.replace(
        node,
        reported_questions=backlog.questions,
        reported_end_s=now - travel_s + backlog.ms / 1000,
        reported_since_s=since_s,
    )


def loaded(node: Node, load: Load) -> Node:
    """The node after a question was sent to it."""
    start_s = load.start_s if len(node.load) < node.parallel else math.inf
    return msgspec.structs.replace(node, load=(*node.load, msgspec.structs.replace(load, start_s=start_s)))


def freed(node: Node, key: Key, now: float) -> Node:
    """The node after it ended (or was told to drop) every attempt at a question; the next ones have begun."""
    left = tuple(load for load in node.load if load.key != key)
    if len(left) == len(node.load):
        return node
    begun_s = now - (node.network_ms or 0.0) / 2000  # the news took that long
    begun = tuple(
        msgspec.structs.replace(load, start_s=begun_s) if load.start_s == math.inf else load
        for load in left[: node.parallel]
    )
    return msgspec.structs.replace(node, load=begun + left[node.parallel :])


def taught(node: Node, bundle: str, tokens: wire.Tokens, timing: wire.Timing) -> Node:
    """The node after one of its answers showed what answers cost there."""
    costs = tuple(
        fit_cost(cost, tokens, timing) if served.bundle == bundle else cost
        for served, cost in zip(node.bundles, node.costs, strict=True)
    )
    return msgspec.structs.replace(node, costs=costs)


def answered(node: Node, compute_ms: float, now: float) -> Node:
    """The node after it has answered somebody, be it for another hub."""
    flow = node.flow or Flow(since_s=now, at_s=now)
    return msgspec.structs.replace(node, flow=fit_flow(flow, compute_ms, now))


def surprised(node: Node, predicted_ms: float, actual_ms: float) -> Node:
    """The node after an answer came, as late as it came."""
    return msgspec.structs.replace(node, spread=fit_spread(node.spread, predicted_ms, actual_ms))


def failed(node: Node, now: float) -> Node:
    """The node after it failed a question by no fault of the question's."""
    return msgspec.structs.replace(node, failing=after_failure(node.failing, now))


def succeeded(node: Node, now: float) -> Node:
    """The node after it answered one."""
    return msgspec.structs.replace(node, failing=after_answer(node.failing, now))


def doubted(node: Node) -> Node:
    """The node after three lost pings."""
    return msgspec.structs.replace(
        node, standing=Standing.SUSPECT if node.standing == Standing.READY else node.standing
    )


def given_up(node: Node) -> Node:
    """The node after it did not come back in time."""
    return msgspec.structs.replace(emptied(node), standing=Standing.GONE)


def emptied(node: Node) -> Node:
    """The node without any work."""
    return msgspec.structs.replace(node, load=(), reported_questions=0, reported_end_s=NEVER, reported_since_s=NEVER)


def served_models(nodes: Iterable[Node]) -> str:
    """What these nodes can do, for a message: `model (task)`, each once, at most eight."""
    found = sorted({f"{bundle.model} ({bundle.task})" for node in nodes for bundle in node.bundles})
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return (", ".join(found[:8]) or "nothing") + more


def _cost(known: Cost | None, bundle: wire.ServedBundle) -> Cost:
    fresh = seed_cost(bundle)
    return known if known is not None and known.seed == fresh.seed else fresh
