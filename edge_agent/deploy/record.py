"""What a node must not forget of its deployments, whenever the power goes: the schema of `record.json`, version 1.

Frozen values only; `shelf.py` keeps them, `plan.py` says how they change. Files forbid unknown keys.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hub import wire

SCHEMA: Final = 1
_MOST_ID_CHARS: Final = 200  # a file name has at most 255
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")

Folder = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=255)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Placed(_Part, frozen=True):
    """A bundle in the folder of deployed ones: the one of manifest `manifest`, of the model `model`, by `rollout`.

    `is_first` says that no deployed bundle served before it: what was there is a fixed one, or none. `above` is the
    highest version that was confirmed before it, -1 for none.
    """

    bundle: str
    version: wire.Count
    manifest: wire.Sha256
    model: str
    folder: Folder
    rollout: str
    is_first: bool = False
    above: int = -1


class Slot(_Part, frozen=True):
    """The deployed bundles in the place of one model: on trial, serving for good, and the one before that."""

    trial: Placed | None = None
    current: Placed | None = None
    previous: Placed | None = None

    @property
    def serving(self) -> Placed | None:
        """What answers; None for a fixed bundle, or none."""
        return self.trial or self.current


class Record(_Part, frozen=True):
    """The whole of `record.json`.

    `desired` is the newest that was taken, `phase` and `why` how far it has come; `slots` are by the model that a
    bundle takes the place of, `highest` is the highest confirmed version by model. `faults` counts the ends of the
    process without a close since this bundle is checked, warmed or tried; `is_open` says that a process has it now.
    """

    schema: Literal[1] = 1
    desired: wire.Desired | None = None
    phase: wire.Phase = "waiting"
    why: str = ""
    slots: dict[str, Slot] = {}
    highest: dict[str, int] = {}
    faults: int = 0
    is_open: bool = False

    @property
    def epoch(self) -> int:
        """The highest that was seen; -1 before the first."""
        return -1 if self.desired is None else self.desired.epoch

    def kept(self) -> frozenset[str]:
        """The folders of all bundles that serve, or may again."""
        slots = self.slots.values()
        return frozenset(
            one.folder for slot in slots for one in (slot.trial, slot.current, slot.previous) if one is not None
        )


def folder_name(bundle: str, version: int, manifest: str) -> str | None:
    """The folder of a bundle; None where its id is no plain name.

    >>> folder_name("smollm2-desktop-cpu-0123456789ab", 2, "beef" * 16)
    'smollm2-desktop-cpu-0123456789ab-v2-beefbeef'
    >>> folder_name("../smollm2", 2, "beef" * 16) is None
    True
    """
    if not _PLAIN.match(bundle) or len(bundle) > _MOST_ID_CHARS:
        return None
    return f"{bundle}-v{version}-{manifest[:8]}"
