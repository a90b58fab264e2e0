"""Which fault strikes whom, when and for how long? Drawn from a seed; the same seed gives the same schedule.

Knows names and seconds, nothing of how a fault is made.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import msgspec

from .history import BROKER


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something bad for `duration_s`, from `at_s` after the start. `delay_ms` is of a slowed link, one way."""

    at_s: float
    kind: str
    party: str
    duration_s: float
    delay_ms: float = 0.0


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """How often a fault is drawn, whom it can strike, and between which seconds it lasts."""

    weight: float
    strikes: tuple[str, ...]
    shortest_s: float
    longest_s: float


REPLAYER: Final = "replayer"
KINDS: Final[dict[str, Kind]] = {
    # Processes
    "kill-broker": Kind(weight=1.2, strikes=("broker",), shortest_s=0.1, longest_s=12.0),
    "stop-broker": Kind(weight=0.8, strikes=("broker",), shortest_s=0.3, longest_s=9.0),
    "kill-hub": Kind(weight=1.5, strikes=("hub",), shortest_s=0.0, longest_s=8.0),
    "stop-hub": Kind(weight=1.0, strikes=("hub",), shortest_s=0.3, longest_s=9.0),
    "kill-node": Kind(weight=2.5, strikes=("node",), shortest_s=0.0, longest_s=8.0),
    "stop-node": Kind(weight=2.0, strikes=("node",), shortest_s=0.3, longest_s=12.0),
    # Links
    "cut-link": Kind(weight=2.0, strikes=("hub", "node", "device"), shortest_s=0.0, longest_s=10.0),
    "hold-link": Kind(weight=1.2, strikes=("hub", "node", "device"), shortest_s=0.5, longest_s=6.0),
    "lose-link": Kind(weight=1.2, strikes=("hub", "node", "device"), shortest_s=0.5, longest_s=9.0),
    "deafen-link": Kind(weight=2.0, strikes=("hub", "node", "device"), shortest_s=0.05, longest_s=2.0),
    "slow-link": Kind(weight=2.0, strikes=("hub", "node", "device"), shortest_s=3.0, longest_s=10.0),
    # Deliveries
    "replay": Kind(weight=1.5, strikes=("replayer",), shortest_s=1.0, longest_s=4.0),
}
SLOWEST_MS: Final = 300.0
ALL_NODES: Final = 0.12  # of the faults of a node's process strike all nodes at once
ALL_HUBS: Final = 0.25  # and of a hub's all hubs; so does the first one that kills, so that no run is without
BY_CHANCE_TOGETHER: Final = 0.1  # of all faults strike at the same time as the one before


def draw(
    seed: int, *, seconds: float, faults: int, hubs: Sequence[str], nodes: Sequence[str], devices: Sequence[str]
) -> list[Fault]:
    """`faults` faults over `seconds`, in order. Every kind occurs once before any is drawn by weight.

    Faults of different parties may overlap; two of one party do not.
    """
    rng = random.Random(f"schedule {seed}")
    parties = {"broker": [BROKER], "hub": list(hubs), "node": list(nodes), "device": list(devices)}
    parties["replayer"] = [REPLAYER]
    kinds = list(KINDS)
    rng.shuffle(kinds)
    kinds = kinds[:faults]
    kinds += rng.choices(list(KINDS), [kind.weight for kind in KINDS.values()], k=faults - len(kinds))
    slot_s = seconds / max(faults, 1)
    free_at_s: dict[str, float] = {}
    found: list[Fault] = []
    for number, name in enumerate(kinds):
        kind = KINDS[name]
        at_s = (number + rng.random()) * slot_s
        if found and rng.random() < BY_CHANCE_TOGETHER:
            at_s = found[-1].at_s
        struck = [rng.choice(parties[rng.choice(kind.strikes)])]
        if name in ("kill-node", "stop-node") and rng.random() < ALL_NODES:
            struck = list(nodes)
        if name in ("kill-hub", "stop-hub") and len(hubs) > 1:
            is_first_kill = name == "kill-hub" and all(fault.kind != name for fault in found)
            if rng.random() < ALL_HUBS or is_first_kill:
                struck = list(hubs)
        at_s = max(at_s, *(free_at_s.get(party, 0.0) for party in struck), 0.0)
        for party in struck:
            share = rng.random() ** 2  # short ones are as common as in life
            duration_s = kind.shortest_s + share * (kind.longest_s - kind.shortest_s)
            free_at_s[party] = at_s + duration_s + 1.0
            delay_ms = rng.uniform(20.0, SLOWEST_MS) if name == "slow-link" else 0.0
            found.append(Fault(at_s=at_s, kind=name, party=party, duration_s=duration_s, delay_ms=delay_ms))
    return sorted(found[:faults], key=lambda fault: fault.at_s)
