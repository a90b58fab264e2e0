"""What would an answer cost on a device that is not here?

Decoding reads every weight for every token, so memory bandwidth bounds it: the estimate takes the device's published
bandwidth times the fraction of its own that this machine reached. Prefill and the fixed part are scaled by the same
ratio of bandwidths, which is crude: they are bound by arithmetic, of which a GPU has more than its bandwidth tells, so
they come out too slow for a GPU. An estimate is never called a measurement: `estimated` is part of it.

Does not know how anything was measured.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from device_profiles.profile import Profile
from edge_agent.bench import Cost


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of an answer on another device, in the terms of `edge_agent.bench.Cost`.

    `bandwidth_fraction` is the part of the bandwidth limit that decoding reached here, and is taken to reach there.
    """

    where: str
    fixed_ms: float
    prefill_ms_per_token: float
    decode_ms_per_token: float
    bandwidth_fraction: float
    estimated: Literal[True] = True


class NoEstimate(msgspec.Struct, frozen=True):
    """Why there is none."""

    reason: str


def decode_ms(read_bytes_per_token: int, bytes_per_s: float, fraction: float) -> float:
    """Milliseconds in which one token's bytes are read at this fraction of the bandwidth.

    >>> round(decode_ms(86_000_000, 34e9, 0.5), 2)
    5.06
    """
    return 1e3 * read_bytes_per_token / (bytes_per_s * fraction)


def reached_fraction(read_bytes_per_token: int, bytes_per_s: float, decode_ms_per_token: float) -> float:
    """The part of the bandwidth limit that a measured decode reached; a model that sits in a cache has reached all.

    >>> round(reached_fraction(86_000_000, 24e9, 5.5), 2)
    0.65
    >>> reached_fraction(1_000_000, 24e9, 0.01)
    1.0
    """
    return min(1.0, 1e3 * read_bytes_per_token / (bytes_per_s * decode_ms_per_token))


def estimate(
    cost: Cost, *, read_bytes_per_token: int, here_bytes_per_s: float, profile: Profile
) -> Estimate | NoEstimate:
    """What `cost`, measured here, would be on the profile's device.

    `read_bytes_per_token` are the bytes of weights and cache that one decoded token reads, `here_bytes_per_s` what this
    machine reads (`edge_agent.bench.read_bandwidth`).
    """
    if profile.memory_bandwidth_gb_per_s is None:
        return NoEstimate(f"{profile.name} has no bandwidth of its own: measure on such a machine")
    there_bytes_per_s = profile.memory_bandwidth_gb_per_s * 1e9
    decodes = cost.decode_ms_per_token > 0  # an encoder does not
    fraction = reached_fraction(read_bytes_per_token, here_bytes_per_s, cost.decode_ms_per_token) if decodes else 1.0
    slower = here_bytes_per_s / there_bytes_per_s
    return Estimate(
        where=f"{profile.name}, from {profile.memory_bandwidth_gb_per_s:g} GB/s there and "
        f"{here_bytes_per_s / 1e9:.1f} GB/s here",
        fixed_ms=cost.fixed_ms * slower,
        prefill_ms_per_token=cost.prefill_ms_per_token * slower,
        decode_ms_per_token=decode_ms(read_bytes_per_token, there_bytes_per_s, fraction) if decodes else 0.0,
        bandwidth_fraction=fraction,
    )
