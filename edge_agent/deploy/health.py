"""Is the new bundle worse? Pure: counts and ratios in, a reason out.

Both questions are asked after every answer of the trial, so chance has many tries: each is answered at a confidence of
99%, and a bundle goes back only for what chance makes of a good one in fewer than one of a hundred looks.

- Failures: the one-sided lower bound of the share that fails (Clopper and Pearson, Biometrika 26, 1934) lies beyond the
  limit. One failure of three says little about a limit of 2%; two of two are enough.
- Delay: the lower bound of the median of actual by predicted compute, which needs no idea of how delays are
  distributed (an order statistic: Hahn and Meeker, Statistical Intervals, 1991, section 5.2), lies beyond the limit.
  Where the old bundle's latest answers took longer than predicted, too, the machine is slow and not the bundle, so its
  median is what the new one is held against; an old bundle that was sooner than predicted condemns nobody.

Knows nothing of clocks, nor of which bundle is which.
"""

from __future__ import annotations

import math
import statistics
from typing import Final

import msgspec

from hub import wire

CONFIDENCE: Final = 0.99
LEAST_ANSWERS: Final = 8  # of the new bundle, before its delay is judged
LEAST_BEFORE: Final = 8  # of the old one, before the new is held against it
MOST_RATIOS: Final = 512  # the latest; a trial of a day has more


class Seen(msgspec.Struct, frozen=True):
    """What was seen of a bundle: questions answered, failed, and the latest ratios of actual by predicted compute."""

    answered: int = 0
    failed: int = 0
    ratios: tuple[float, ...] = ()

    def after(self, failed: bool, predicted_ms: float, actual_ms: float) -> Seen:
        """With one more question; one without a prediction says nothing of delays."""
        if failed:
            return msgspec.structs.replace(self, failed=self.failed + 1)
        ratios = self.ratios
        if 0 < predicted_ms < math.inf and 0 <= actual_ms < math.inf:
            ratios = (*ratios[1 - MOST_RATIOS :], actual_ms / predicted_ms)
        return Seen(self.answered + 1, self.failed, ratios)


def worse(new: Seen, old: Seen, limits: wire.Trial) -> str | None:
    """Why the new bundle is worse than its trial allows; None while nothing shows it."""
    asked = new.answered + new.failed
    if too_many(new.failed, asked, limits.max_failure):
        return (
            f"{new.failed} of {asked} questions failed, at most {limits.max_failure:.1%} may "
            f"(at a confidence of {CONFIDENCE:.0%})"
        )
    low = _median_low(new.ratios) if len(new.ratios) >= LEAST_ANSWERS else 0.0
    if low / _usual(old) - 1 > limits.max_slower:
        beside = "" if _usual(old) == 1 else f" where the bundle before took {_usual(old) - 1:.0%} longer"
        return (
            f"answers take {statistics.median(new.ratios) - 1:.0%} longer than predicted{beside}, at most "
            f"{limits.max_slower:.0%} is allowed ({len(new.ratios)} answers, at a confidence of {CONFIDENCE:.0%})"
        )
    return None


def unproven(new: Seen, old: Seen, limits: wire.Trial) -> str | None:
    """Why the new bundle may not stay when its trial is over; None if it may.

    By then what was seen counts as it is: a hub that has learned of a failure asks elsewhere, so there may never be
    enough of them to be sure. An old bundle that fails as often is no better.
    """
    asked, asked_before = new.answered + new.failed, old.answered + old.failed
    share_before = old.failed / asked_before if asked_before else 0.0
    if new.failed <= max(limits.max_failure, share_before) * asked:
        return None
    return f"{new.failed} of {asked} questions failed until the trial was over, at most {limits.max_failure:.1%} may"


def slower(new: Seen, old: Seen) -> float | None:
    """By what share answers take longer than predicted, less what the machine does; None before the first."""
    return statistics.median(new.ratios) / _usual(old) - 1 if new.ratios else None


def too_many(failed: int, asked: int, limit: float) -> bool:
    """Whether so many failures are more than chance makes of a share of `limit`.

    >>> too_many(1, 3, 0.02), too_many(2, 2, 0.02), too_many(1, 1000, 0.02)
    (False, True, False)
    """
    beyond = failed > limit * asked  # else it is not, and there is nothing to add up
    return beyond and _tail(failed, asked, limit) < 1 - CONFIDENCE


def _tail(failed: int, asked: int, share: float) -> float:
    """The chance of `failed` or more among `asked` where each fails with a chance of `share`."""
    if share <= 0:
        return 0.0 if failed else 1.0
    if share >= 1:
        return 1.0
    total = 0.0
    for count in range(failed, asked + 1):
        term = math.exp(
            math.lgamma(asked + 1)
            - math.lgamma(count + 1)
            - math.lgamma(asked - count + 1)
            + count * math.log(share)
            + (asked - count) * math.log1p(-share)
        )
        total += term
        if count > share * asked and term < 1e-9 * total:  # beyond the mean they only become less
            break
    return total


def _median_low(ratios: tuple[float, ...]) -> float:
    """The lower bound of the median: the largest k-th least with a chance below 1 - CONFIDENCE to lie above it."""
    count = len(ratios)
    below, rank = 0.0, 0  # the chance that at most `rank` values lie below the median
    while rank < count:
        below += math.exp(
            math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1) - count * math.log(2)
        )
        if below >= 1 - CONFIDENCE:
            break
        rank += 1
    return sorted(ratios)[rank - 1] if rank else 0.0


def _usual(old: Seen) -> float:
    """How much longer than predicted the old bundle takes, and never less than that."""
    return max(1.0, statistics.median(old.ratios)) if len(old.ratios) >= LEAST_BEFORE else 1.0
