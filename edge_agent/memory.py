"""How much memory this process can still have, of the machine and of what its unit or container may use."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Bytes that can be had without pushing anything out; None where the system does not say.

    Linux's own estimate, `MemAvailable` of /proc/meminfo (proc(5)), or less where a control group of this process
    (cgroup v2: systemd's MemoryMax, a container's limit) leaves less.
    """
    free = [_machine_bytes(proc), *_group_bytes(proc, cgroups)]
    return min((one for one in free if one is not None), default=None)


def _machine_bytes(proc: Path) -> int | None:
    for line in _read(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_bytes(proc: Path, cgroups: Path) -> list[int | None]:
    """What each group that this process is in leaves, the root's left out, which has no limit of its own."""
    lines = _read(proc / "self/cgroup").splitlines()
    named = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if named is None:
        return []
    inner = PurePosixPath(named)
    return [_left_bytes(cgroups / one) for one in (inner, *inner.parents)]


def _left_bytes(group: Path) -> int | None:
    """Limit less use, but what the kernel keeps of files only because there is room counts as free."""
    limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    if not (limit.isdigit() and used.isdigit()):  # "max", or no file
        return None
    stat = dict(line.split(maxsplit=1) for line in _read(group / "memory.stat").splitlines())
    return max(0, int(limit) - int(used) + int(stat.get("inactive_file", 0)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
