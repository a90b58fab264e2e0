"""What does the page show of a node? A node of the hub's fleet as plain values, rounded as they are shown.

Rounded, so that what changes too little to be seen is not sent. Pure; it does not know who looks, nor what was shown
before.
"""

from __future__ import annotations

from typing import Any, Final

from hub import wire
from hub.core import Core
from hub.delay import Cost
from hub.failing import rate_at
from hub.fleet import Node, Waiting, waits_ms

MOST_BUNDLES: Final = 8  # of a node; how many more there are is said
_MEBIBYTE: Final = 1024 * 1024

View = dict[str, Any]
Look = tuple[list[tuple[Node, float]], int, float]  # nodes with their waits, questions in flight, the loop's time


def look(core: Core, now: float) -> Look:
    """The fleet as it is: for `HubService.call`, so it takes no more than the frozen values and their waits."""
    fleet, table = core.fleet, core.fleet.table
    of_rows = (table[name] for name in Waiting.__struct_fields__)
    waits: list[float] = waits_ms(*of_rows, now=now, tail=fleet.tail).tolist()
    rows = [fleet.rows(name)[:1] for name, _ in fleet.items()]  # a node's rows all have its queue
    nodes = [(node, waits[row[0]] if row else 0.0) for node, row in zip(fleet.values(), rows, strict=True)]
    return nodes, core.in_flight, now


def node_view(node: Node, wait_ms: float, now: float, before: tuple[Node, View] | None = None) -> View:
    """Everything that the page shows of this node; parts that are as `before` are those, not made again."""
    network_ms = None if node.network_ms is None else _rounded(node.network_ms)
    was, shown = before if before is not None else (None, {})
    same_bundles = was is not None and was.bundles is node.bundles and was.costs is node.costs
    same_machine = was is not None and was.machine is node.machine
    return {
        "standing": node.standing.name.lower(),
        "network_ms": network_ms,
        "wait_ms": _rounded(wait_ms),
        "in_flight": len(node.load),
        "others": node.others,
        "parallel": node.parallel,
        "failing": round(rate_at(node.failing, now), 2) if node.failing.rate else 0.0,
        "bundles": shown["bundles"] if same_bundles else _bundles(node),
        "more_bundles": max(len(node.bundles) - MOST_BUNDLES, 0),
        "machine": shown["machine"] if same_machine else _machine(node.machine or wire.Machine()),
    }


def _bundles(node: Node) -> list[View]:
    return [_bundle(*both) for both in zip(node.bundles[:MOST_BUNDLES], node.costs, strict=False)]


def _bundle(served: wire.ServedBundle, cost: Cost) -> View:
    """What it costs is what the hub has learned of it."""
    return {
        "bundle": served.bundle,
        "model": served.model,
        "task": served.task,
        "context": served.context,
        "runtime": served.runtime,
        "why": served.why,
        "progress": None if served.progress is None else round(served.progress, 2),
        "fixed_ms": _rounded(cost.fixed_ms),
        "prefill_ms_per_token": _rounded(cost.prefill_ms_per_token),
        "decode_ms_per_token": _rounded(cost.decode_ms_per_token),
    }


def _machine(machine: wire.Machine) -> View:
    """Only what it tells."""
    free = machine.memory_available_bytes
    told = {
        "temperature_c": _whole(machine.temperature_c),
        "power_w": _tenths(machine.power_w),
        "power_mode": machine.power_mode,
        "throttled": machine.throttled,
        "cpu": _hundredths(machine.cpu),
        "gpu": _hundredths(machine.gpu),
        "tokens_per_s": _tenths(machine.tokens_per_s),
        "free_mib": None if free is None else free // _MEBIBYTE,
    }
    return {name: value for name, value in told.items() if value is not None}


def _rounded(ms: float) -> float:
    """Three digits, or all those before the point.

    >>> [_rounded(ms) for ms in (0.0, 0.012345, 7.1234, 161.04, 12_345.6)]
    [0.0, 0.0123, 7.12, 161.0, 12346.0]
    """
    if ms == 0.0:
        return 0.0
    return float(f"{ms:.3g}") if ms < 1000 else float(round(ms))


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _tenths(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _hundredths(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
