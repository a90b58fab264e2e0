"""Here or in the fleet: where is a question of this device answered sooner? Pure.

Knows the terms that hubs offer (`wire.HubState`) and is told those of this node. The node answers itself unless the
fleet is predicted to be sooner by a margin; nothing is sent away for being unknown. Both delays are DESIGN.md's:

    here  =                                           wait + fixed + prefill * prompt + decode * answer
    fleet = broker + network + max(wait - network / 2, 0) + fixed + prefill * prompt + decode * answer

`broker` is this node's own round trip to the broker: what the question and its answer take between here and there.
The hub's `network` is a round trip between hub and the other node, which the question travels one way and its answer
the other.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from hub import wire

UNMEASURED_BROKER_MS: Final = 100.0
GENERATION: Final = "text-generation"


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted, and the tokens that it is expected to take."""

    task: str
    model: str  # a model's name, or a bundle's id
    prompt_tokens: float
    answer_tokens: float


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer costs at this node now, milliseconds."""

    wait_ms: float
    fixed_ms: float
    prefill_ms_per_token: float
    decode_ms_per_token: float


class LocalFirst:
    """What is known of the fleet, and the choice. `node` is this node's name: its own offer is none."""

    def __init__(self, node: str, margin_ms: float) -> None:
        self._node = node
        self._margin_ms = margin_ms
        self._hubs: dict[str, tuple[wire.Offer, ...]] = {}  # replaced, never changed: other threads read it, too

    @property
    def hub(self) -> str | None:
        """A hub that is there; None where none is."""
        return min(self._hubs, default=None)

    @property
    def offers(self) -> tuple[wire.Offer, ...]:
        """What other nodes offer."""
        found = {(o.node, o.bundle): o for offers in self._hubs.values() for o in offers if o.node != self._node}
        return tuple(found.values())

    def heard(self, hub: str, state: wire.HubState) -> None:
        """A hub has said how it is."""
        others = {name: offers for name, offers in self._hubs.items() if name != hub}
        self._hubs = {**others, hub: state.offers} if state.status == "ready" else others

    def lost_broker(self) -> None:
        """What hubs said is not true any more."""
        self._hubs = {}

    def choose(self, need: Need, here: Terms | None, broker_ms: float | None) -> wire.Route:
        """Where the question goes. `here` is None where this node does not serve it."""
        here_ms = None if here is None else here.wait_ms + _compute_ms(here, need)
        travel_ms = UNMEASURED_BROKER_MS if broker_ms is None else broker_ms
        fit = [o for o in self.offers if o.task == need.task and need.model in (o.model, o.bundle)]
        fleet_ms = min((travel_ms + _fleet_ms(offer, need) for offer in fit), default=None)
        where, why = self._decide(here_ms, fleet_ms)
        return wire.Route(
            where=where, why=why, margin_ms=self._margin_ms, here_ms=_shown(here_ms), fleet_ms=_shown(fleet_ms)
        )

    def _decide(self, here_ms: float | None, fleet_ms: float | None) -> tuple[Literal["here", "fleet"], str]:
        if here_ms is None:
            return "fleet", "this node does not serve it"
        if not self._hubs:
            return "here", "no hub is in reach"
        if fleet_ms is None:
            return "here", "no other node offers it"
        if fleet_ms + self._margin_ms < here_ms:
            return "fleet", "sooner there by more than the margin"
        return "here", "as soon here, within the margin"


def _fleet_ms(offer: wire.Offer, need: Need) -> float:
    return offer.network_ms + max(offer.wait_ms - offer.network_ms / 2, 0.0) + _compute_ms(offer, need)


def _compute_ms(terms: Terms | wire.Offer, need: Need) -> float:
    return (
        terms.fixed_ms
        + terms.prefill_ms_per_token * need.prompt_tokens
        + terms.decode_ms_per_token * need.answer_tokens
    )


def _shown(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)
