"""How much longer does a large question travel than a ping? Milliseconds per KiB on the way to one node.

A ping measures a distance, not a width: over a slow uplink 100 KiB take seconds. What an answer took beyond the pings,
the node's queue and its compute is blamed on the question's size, by least squares through the origin with forgetting;
small questions say little of a link's width, and change little. Knows nothing of nodes.
"""

from __future__ import annotations

from typing import Final

import msgspec

KIB: Final = 1024.0
_KEEP: Final = 0.9  # of an observation's weight after one of typical size
_TYPICAL_KIB: Final = 16.0  # beyond what TCP sends without waiting for the first acknowledgement
_MOST_MS: Final = 1e6  # of one question: more was something else, or what its node reports is not true


class Upload(msgspec.Struct, frozen=True):
    """The estimate, and the decayed sums that it came from; nothing is known to be slow before it was seen."""

    ms_per_kib: float = 0.0
    xx: float = 0.0
    xy: float = 0.0


def fit_upload(upload: Upload, size_bytes: int, beyond_ms: float) -> Upload:
    """The estimate after a question of `size_bytes` took `beyond_ms` longer than all else explains.

    >>> slow = Upload()
    >>> for _ in range(5): slow = fit_upload(slow, 100 * 1024, 800.0)
    >>> round(slow.ms_per_kib, 1), round(fit_upload(slow, 1024, 300.0).ms_per_kib, 1)
    (8.0, 8.0)
    """
    if size_bytes <= 0 or abs(beyond_ms) > _MOST_MS:
        return upload
    size_kib = size_bytes / KIB
    keep = 1.0 - (1.0 - _KEEP) * min(size_kib / _TYPICAL_KIB, 1.0)
    xx = keep * upload.xx + size_kib * size_kib
    xy = keep * upload.xy + size_kib * beyond_ms
    return Upload(max(xy / (xx + _TYPICAL_KIB**2), 0.0), xx, xy)
