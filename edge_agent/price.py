"""What may an answer of a new bundle cost here, before it is slower than predicted? Pure.

What was measured here when it was opened would hide that a bundle is slow from its beginning. So it is held against the
bundle that it takes the place of: it may cost as much as that one does, and more only by what its maker measured, where
both were measured on the same machine. What makes it slow is not known here.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from edge_agent.manifest import Measured
from hub import wire

_TOKENS: Final = 32  # of a question, and of its answer: costs are compared by one figure each


class Priced(msgspec.Struct, frozen=True):
    """A bundle's costs: as they were measured `here`, and as its maker `said`."""

    here: wire.ServedBundle
    said: Measured


def expected(new: Measured, old: Priced) -> wire.ServedBundle | None:
    """The costs of `old` here, times what the maker says that the new one costs more; None where that is not known."""
    if new.estimated or _place(new) != _place(old.said):
        return None
    before, here = _typical_ms(old.said), old.here
    times = max(1.0, _typical_ms(new) / before if before > 0 else 1.0)
    return replace(
        here,
        fixed_ms=here.fixed_ms * times,
        prefill_ms_per_token=here.prefill_ms_per_token * times,
        decode_ms_per_token=here.decode_ms_per_token * times,
    )


def predicted_ms(price: wire.ServedBundle, tokens: wire.Tokens) -> float:
    """The compute of an answer of so many tokens."""
    computed = price.prefill_ms_per_token * (tokens.prompt - tokens.cached)
    return price.fixed_ms + computed + price.decode_ms_per_token * tokens.completion


def _place(said: Measured) -> tuple[str, str, int, bool]:
    return said.where, said.runtime, said.threads, said.estimated


def _typical_ms(cost: Measured) -> float:
    return cost.fixed_ms + _TOKENS * (cost.prefill_ms_per_token + cost.decode_ms_per_token)
