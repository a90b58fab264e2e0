"""Is the new bundle worse? Pure: counts and ratios in, a reason out.

Both questions are asked after every answer of the trial, so chance has many tries: each is answered at a confidence of
99%, and a bundle goes back only for what chance makes of a good one in fewer than one of a hundred looks.

- Failures: the one-sided lower bound of the share that fails (Clopper and Pearson, Biometrika 26, 1934) lies beyond the
  limit. One failure of three says little about a limit of 2%; two of two are enough.
- Delay: the lower bound of the median of actual by predicted compute, which needs no idea of how delays are
  distributed (an order statistic: Hahn and Meeker, Statistical Intervals, 1991, section 5.2), lies beyond the limit.
  Where the old bundle's latest answers took longer than predicted, too, the machine is slow and not the bundle, so its
  median is what the new one is held against; an old bundle that was sooner than predicted condemns nobody.
- Beside others an answer takes longer, and that is taken off first. Each of n others makes it longer by at most its
  whole time (processor sharing); how far batches spare that, the old bundle's answers tell. The new one is granted half
  of what was spared, because it may gain less by a batch and still be the quicker one. That says least where most was
  taken off, so answers that were computed alone are judged by themselves, too.

Knows nothing of clocks, nor of which bundle is which.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

import msgspec

from hub import wire

CONFIDENCE: Final = 0.99
LEAST_ANSWERS: Final = 8  # of the new bundle, before its delay is judged
LEAST_BEFORE: Final = 8  # of the old one, before the new is held against it
ALONE: Final = 0.05  # others computed meanwhile, on average: that is nobody
BESIDE: Final = 0.5  # and this is somebody, who tells what one costs
MOST_RATIOS: Final = 512  # the latest; a trial of a day has more


class Ratio(msgspec.Struct, frozen=True):
    """Actual by predicted compute of an answer, and how many others were computed meanwhile, on average."""

    ratio: float
    beside: float = 0.0


class Seen(msgspec.Struct, frozen=True):
    """What was seen of a bundle: questions answered, failed, and how long the latest took."""

    answered: int = 0
    failed: int = 0
    ratios: tuple[Ratio, ...] = ()

    def after(self, failed: bool, predicted_ms: float, actual_ms: float, beside: float) -> Seen:
        """With one more question; one without a prediction says nothing of delays."""
        if failed:
            return msgspec.structs.replace(self, failed=self.failed + 1)
        ratios = self.ratios
        if 0 < predicted_ms < math.inf and 0 <= actual_ms < math.inf:
            ratios = (*ratios[1 - MOST_RATIOS :], Ratio(actual_ms / predicted_ms, beside))
        return Seen(self.answered + 1, self.failed, ratios)


def worse(new: Seen, old: Seen, limits: wire.Trial) -> str | None:
    """Why the new bundle is worse than its trial allows; None while nothing shows it."""
    asked = new.answered + new.failed
    if too_many(new.failed, asked, limits.max_failure):
        return (
            f"{new.failed} of {asked} questions failed, at most {limits.max_failure:.1%} may "
            f"(at a confidence of {CONFIDENCE:.0%})"
        )
    return next(filter(None, (_too_slow(ratios, old, limits) for ratios in (_alone(new), new.ratios))), None)


def _too_slow(new: Sequence[Ratio], old: Seen, limits: wire.Trial) -> str | None:
    ratios, usual = _held(new, old), _usual(old)
    if len(ratios) < LEAST_ANSWERS or _median_low(ratios) / usual - 1 <= limits.max_slower:
        return None
    before = "" if usual == 1 else f" where the bundle before took {usual - 1:.0%} longer"
    beside = statistics.median(one.beside for one in new)
    less = f", less what {beside:.1f} others beside them need" if beside > ALONE else ""
    return (
        f"answers take {statistics.median(ratios) - 1:.0%} longer than predicted{before}{less}, at most "
        f"{limits.max_slower:.0%} is allowed ({len(ratios)} answers, at a confidence of {CONFIDENCE:.0%})"
    )


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
    """By what share answers take longer than predicted, less what the machine does; None before the first.

    Of those that were computed alone, where there are enough of them.
    """
    alone = _alone(new)
    ratios = alone if len(alone) >= LEAST_ANSWERS else new.ratios
    return statistics.median(_held(ratios, old)) / _usual(old) - 1 if ratios else None


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


def _alone(seen: Seen) -> list[Ratio]:
    return [one for one in seen.ratios if one.beside <= ALONE]


def _held(new: Sequence[Ratio], old: Seen) -> list[float]:
    """The ratios of the new bundle as if it had been alone, by the most that others may have cost it."""
    return _as_if_alone(new, (1 + _longer_by_one(old)) / 2)


def _usual(old: Seen) -> float:
    """How much longer than predicted the old bundle takes when it is alone, and never less than that."""
    if len(old.ratios) < LEAST_BEFORE:
        return 1.0
    return max(1.0, statistics.median(_as_if_alone(old.ratios, _longer_by_one(old))))


def _longer_by_one(old: Seen) -> float:
    """The share by which one other makes an answer longer: 1 where nothing says less."""
    alone = [one.ratio for one in _alone(old)]
    usual = statistics.median(alone) if len(alone) >= LEAST_BEFORE else 1.0
    costs = [(one.ratio / usual - 1) / one.beside for one in old.ratios if one.beside >= BESIDE] if usual > 0 else []
    return min(max(statistics.median(costs), 0.0), 1.0) if len(costs) >= LEAST_BEFORE else 1.0


def _as_if_alone(ratios: Sequence[Ratio], longer_by_one: float) -> list[float]:
    return [one.ratio / (1 + longer_by_one * one.beside) for one in ratios]


def _median_low(ratios: Sequence[float]) -> float:
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
