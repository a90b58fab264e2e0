"""Which machine is measuring here, and may its figures be called those of a profile?

Does not know any model.
"""

from __future__ import annotations

import platform
from pathlib import Path

from device_profiles.profile import Profile


def description(threads: int) -> str:
    """For example `AMD EPYC, 2 threads, x86_64 Linux`."""
    return f"{_processor()}, {threads} threads, {platform.machine()} {platform.system()}"


def stands_for(profile: Profile) -> bool:
    """Whether this machine is one of those that `profile` describes.

    Only the profile of "any CPU of this architecture" can be told from here; a measurement for any other device is an
    estimate.
    """
    return profile.memory_bytes is None and profile.runtimes == ("cpu",) and profile.architecture == platform.machine()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown CPU"
