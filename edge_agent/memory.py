"""How much memory this machine has left."""

from __future__ import annotations

from pathlib import Path


def available_bytes() -> int | None:
    """Bytes that can be had without pushing anything out; None where the system does not say.

    Linux's own estimate, `MemAvailable` of /proc/meminfo (proc(5)).
    """
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
