"""What happens to a node's deployment, and what is to be done about it: the events and effects of its plan.

Events are past tense, effects are commands. Values only; what follows from what is in `plan.py`. Outcomes of work name
the epoch that it was done for, so that what comes after a newer Desired is recognised as late.
"""

from __future__ import annotations

import msgspec

from hub import wire


class Facts(msgspec.Struct, frozen=True):
    """What a manifest says of itself."""

    bundle: str
    version: int
    model: str
    downgrade_from: int | None = None


class Fixed(msgspec.Struct, frozen=True):
    """A bundle that this node was started with."""

    model: str
    bundle: str
    version: int
    manifest: str


# --- events ---------------------------------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True):
    """The process has begun, and opens its bundles next."""


class CouldNotOpen(msgspec.Struct, frozen=True):
    """What should serve in the place of `replaces` cannot be opened at the start."""

    replaces: str
    why: str


class Resumed(msgspec.Struct, frozen=True):
    """The bundles are open and questions are taken."""


class Closed(msgspec.Struct, frozen=True):
    """The process ends in good order; or else it still can write that it does not."""

    in_order: bool = True


class DesiredReceived(msgspec.Struct, frozen=True):
    """The hub's Desired came, for the first time or again."""

    desired: wire.Desired


class QuietChanged(msgspec.Struct, frozen=True):
    """Quiet hours began or ended."""

    is_quiet: bool


class Progressed(msgspec.Struct, frozen=True):
    """So much of the fetching is done."""

    epoch: int
    fetched_bytes: int
    progress: float


class Described(msgspec.Struct, frozen=True):
    """The manifest is here."""

    epoch: int
    facts: Facts


class Fetched(msgspec.Struct, frozen=True):
    """All files are here, in the bundle's folder."""

    epoch: int


class Checked(msgspec.Struct, frozen=True):
    """The bundle is what its maker signed, and there is memory for it."""

    epoch: int
    facts: Facts


class Warmed(msgspec.Struct, frozen=True):
    """The bundle is open beside the old one, and gave the answers that were recorded."""

    epoch: int


class Failed(msgspec.Struct, frozen=True):
    """Work for this epoch did not succeed; `may_later` where only the network was at fault."""

    epoch: int
    why: str
    may_later: bool = False


class Compared(msgspec.Struct, frozen=True):
    """The bundle on trial answered its samples again; `why` is None where they were right. `ratios` are actual by
    predicted compute of questions of the node's own, as the bundle before predicts it at the same time.
    """

    epoch: int
    why: str | None = None
    ratios: tuple[float, ...] = ()


class QuestionEnded(msgspec.Struct, frozen=True):
    """An answer of this bundle was computed, beside so many others on average, or failed by the bundle's fault."""

    bundle: str
    failed: bool
    predicted_ms: float
    actual_ms: float
    beside: float = 0.0


class TimePassed(msgspec.Struct, frozen=True):
    """Look at the clock."""


Event = (
    Started
    | CouldNotOpen
    | Resumed
    | Closed
    | DesiredReceived
    | QuietChanged
    | Progressed
    | Described
    | Fetched
    | Checked
    | Warmed
    | Failed
    | Compared
    | QuestionEnded
    | TimePassed
)


# --- effects --------------------------------------------------------------------------------------------


class Describe(msgspec.Struct, frozen=True):
    """Fetch the manifest of what will lie in `folder`: Described follows, or Failed."""

    desired: wire.Desired
    folder: str


class Fetch(msgspec.Struct, frozen=True):
    """Fetch and assemble the rest into `folder`: Progressed and Fetched follow, or Failed."""

    desired: wire.Desired
    folder: str


class StopWork(msgspec.Struct, frozen=True):
    """Whatever is fetched, checked or warmed now is not wanted any more."""


class Check(msgspec.Struct, frozen=True):
    """Open and verify the bundle in `folder`, and see whether there is memory for it: Checked follows, or Failed."""

    epoch: int
    folder: str


class Warm(msgspec.Struct, frozen=True):
    """Open an answerer for the checked bundle and let it answer its samples: Warmed follows, or Failed."""

    epoch: int
    folder: str


class Compare(msgspec.Struct, frozen=True):
    """Let the bundle on trial answer its samples again, and time it beside the one `before`: Compared follows."""

    epoch: int
    bundle: str
    before: str | None = None


class Switch(msgspec.Struct, frozen=True):
    """New questions for `replaces` go to `bundle`; what served before stays open."""

    bundle: str
    replaces: str


class Settle(msgspec.Struct, frozen=True):
    """The trial of `bundle` is over: close what served `replaces` before it."""

    bundle: str
    replaces: str


class GoBack(msgspec.Struct, frozen=True):
    """New questions go to what is in `folder` again, None for what the node was started with; close `bundle`."""

    bundle: str
    replaces: str
    folder: str | None


class Release(msgspec.Struct, frozen=True):
    """Close `bundle`, which was warmed and is not switched to."""

    bundle: str


class Tidy(msgspec.Struct, frozen=True):
    """Remove all folders but these, and what was fetched and is of no use any more."""

    keep: frozenset[str]


Effect = Describe | Fetch | StopWork | Check | Warm | Compare | Switch | Settle | GoBack | Release | Tidy
