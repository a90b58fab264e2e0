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
import numpy as np
from numpy.typing import NDArray

from hub import wire
from hub.delay import Cost, Flow, Spread, beyond_ms, fit_cost, fit_flow, fit_spread, peak_ewma, seed_cost
from hub.failing import Failing, after_answer, after_failure
from hub.tail import Tail
from hub.upload import Upload, fit_upload

Series = NDArray[np.float64]
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
    before_ms: float  # predicted compute before the first token
    decode_ms: float  # and of the expected tokens
    longest_ms: float  # compute if its answer takes all the tokens that it may; infinite where that is not known
    deadline_s: float

    @property
    def work_ms(self) -> float:
        """Predicted compute."""
        return self.before_ms + self.decode_ms

    @property
    def end_by_s(self) -> float:
        """When it is over at the latest."""
        return min(self.deadline_s, self.start_s + self.longest_ms / 1000)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `costs` stands beside `bundles`; `network_ms` is None until the first pong.

    `missed` is one that is gone without having said so.
    """

    name: str
    epoch: int
    standing: Standing
    bundles: tuple[wire.ServedBundle, ...] = ()
    costs: tuple[Cost, ...] = ()
    parallel: int = 1
    machine: wire.Machine | None = None  # as it was at its last state
    network_ms: float | None = None
    network_at_s: float = NEVER
    upload: Upload = Upload()
    spread: Spread = Spread()
    flow: Flow | None = None  # None before its first answer
    failing: Failing = Failing()
    load: tuple[Load, ...] = ()
    others: int = 0  # questions that it has from others, by its last report
    others_end_s: float = NEVER  # when those are worked off
    ended_s: float = NEVER  # when it last said that it had ended a question, whosever
    missed: bool = False
    deployment: wire.Deployment | None = None  # as it was at its last state, like the next two
    deploys: bool = False
    profile: str = ""


class Waiting(msgspec.Struct, frozen=True):
    """A node's queue, so that its length at any time is a short formula (`wait_ms`).

    Of the running question that is expected to end first the rest is what answers have left in the mean that have run
    for as long, up to its last possible end; then come those that wait, and what others have sent.
    """

    rest_ms: float = 0.0
    busy: float = 0.0  # 1 where no slot is free
    head_start_s: float = 0.0
    head_before_ms: float = 0.0
    head_decode_ms: float = 1.0
    head_end_by_s: float = 0.0
    others_end_s: float = NEVER


def wait_ms(waiting: Waiting, now: float, tail: Tail) -> float:
    """The predicted milliseconds until the node is free, seen from the hub at `now`; never negative.

    >>> busy = Waiting(rest_ms=50.0, busy=1.0, head_start_s=10.0, head_before_ms=20.0, head_decode_ms=80.0,
    ...                head_end_by_s=12.0)
    >>> [round(wait_ms(busy, now, Tail())) for now in (9.9, 10.0, 10.1, 11.95, 20.0)]
    [250, 150, 106, 50, 50]
    """
    if not waiting.busy:
        return 0.0
    decoding_ms = (now - waiting.head_start_s) * 1000 - waiting.head_before_ms
    left_ms = waiting.head_decode_ms * tail.left_of(max(decoding_ms, 0.0) / waiting.head_decode_ms)
    left_ms = min(left_ms + max(-decoding_ms, 0.0), max(waiting.head_end_by_s - now, 0.0) * 1000)
    return waiting.rest_ms + left_ms + max(waiting.others_end_s - now, 0.0) * 1000


def waits_ms(
    rest_ms: Series,
    busy: Series,
    start_s: Series,
    before_ms: Series,
    decode_ms: Series,
    end_by_s: Series,
    others_end_s: Series,
    *,
    now: float,
    tail: Tail,
) -> Series:
    """`wait_ms` of many queues."""
    if not busy.any():
        return np.zeros(len(busy))
    decoding_ms = (now - start_s) * 1000 - before_ms
    left_ms = decode_ms * tail.left(np.maximum(decoding_ms, 0.0) / decode_ms) + np.maximum(-decoding_ms, 0.0)
    left_ms = np.minimum(left_ms, np.maximum(end_by_s - now, 0.0) * 1000)
    others_ms = np.maximum(others_end_s - now, 0.0) * 1000
    waits: Series = busy * (rest_ms + left_ms + others_ms)
    return waits


def waiting(node: Node) -> Waiting:
    """The queue before a new question at this node."""
    slots = node.parallel
    if len(node.load) + node.others < slots:
        return Waiting()
    heads, queued = node.load[:slots], node.load[slots:]
    rest_ms = sum(load.work_ms for load in queued) / slots
    if not heads:
        return Waiting(busy=1.0, others_end_s=node.others_end_s)
    first = min(heads, key=lambda load: load.start_s + load.work_ms / 1000)
    return Waiting(
        rest_ms=rest_ms,
        busy=1.0,
        head_start_s=first.start_s,
        head_before_ms=first.before_ms,
        head_decode_ms=max(first.decode_ms, 1e-3),
        head_end_by_s=first.end_by_s,
        others_end_s=node.others_end_s,
    )


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
        missed=False,
        machine=state.machine,
        deployment=state.deployment,
        deploys=state.deploys,
        profile=state.profile,
    )
    return told(after, state.backlog, now) if live else after


def ponged(node: Node, backlog: wire.Backlog, round_trip_ms: float | None, now: float) -> Node:
    """The node after its pong; `round_trip_ms` (hold subtracted) is None if not usable."""
    standing = Standing.READY if node.standing in (Standing.SUSPECT, Standing.LOST) else node.standing
    network_ms, network_at_s = node.network_ms, node.network_at_s
    if round_trip_ms is not None:
        network_ms = peak_ewma(network_ms, max(round_trip_ms, 0.0), now - network_at_s)
        network_at_s = now
    after = msgspec.structs.replace(node, standing=standing, network_ms=network_ms, network_at_s=network_at_s)
    return told(after, backlog, now)


def told(node: Node, backlog: wire.Backlog, now: float, ended: Key | None = None) -> Node:
    """The node after it reported its backlog, without the question that it has just `ended`.

    What this hub has sent it knows better itself; the others' share is what is more than that. A question that may
    have arrived when the node spoke counts as in its report: rather no stranger too many.
    """
    spoke_s = now - (node.network_ms or 0.0) / 2000
    ours = sum(load.sent_s <= spoke_s and load.key != ended for load in node.load)
    others = max(backlog.questions - ours, 0)
    others_ms = backlog.ms * others / backlog.questions / node.parallel if others else 0.0
    return msgspec.structs.replace(node, others=others, others_end_s=spoke_s + others_ms / 1000)


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


def kept_waiting(node: Node, predicted_ms: float, at_least_ms: float) -> Node:
    """The node after an attempt was ended without its answer, which would have taken longer still."""
    return surprised(node, predicted_ms, beyond_ms(node.spread, predicted_ms, at_least_ms))


def delayed(node: Node, size_bytes: int, beyond_ms: float) -> Node:
    """The node after a question of this size took so much longer than pings, queue and compute explain."""
    return msgspec.structs.replace(node, upload=fit_upload(node.upload, size_bytes, beyond_ms))


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
    return msgspec.structs.replace(emptied(node), standing=Standing.GONE, missed=True)


def emptied(node: Node) -> Node:
    """The node without any work."""
    return msgspec.structs.replace(node, load=(), others=0, others_end_s=NEVER)


def served_models(nodes: Iterable[Node]) -> str:
    """What these nodes can do, for a message: `model (task)`, each once, at most eight."""
    found = sorted({f"{bundle.model} ({bundle.task})" for node in nodes for bundle in node.bundles})
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return (", ".join(found[:8]) or "nothing") + more


def _cost(known: Cost | None, bundle: wire.ServedBundle) -> Cost:
    fresh = seed_cost(bundle)
    return known if known is not None and known.seed == fresh.seed else fresh
