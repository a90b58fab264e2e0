"""How the terms of the delay are learned: network, compute per (node, bundle), prompt and answer lengths.

Small frozen estimates, each with a function that returns the better one. Knows nothing of topics, of which node
is which, or of clocks: whoever calls says how much time has passed.

The two-parameter fits are recursive least squares with exponential forgetting, kept in information form (the
decayed sums of the normal equations) with a weak pull towards an anchor: at first the seed, then a slow mean of the
fits. That pull is what plain forgetting lacks: when every prompt has the same length, the direction that the data do
not excite stays where it was instead of drifting (covariance wind-up; Åström and Wittenmark, Adaptive Control,
2nd ed., section 11.5). It is scaled so that equal *relative* changes of both parameters cost the same, so a
throttled node is priced as slower in all.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

import msgspec

from hub import wire
from hub.recent import Recent

NETWORK_TAU_S: Final = 10.0
FLOW_TAU_S: Final = 60.0
EXPECTED_TOKENS: Final = 64.0  # before any answer was seen: a paragraph

_NORMAL: Final = NormalDist()
_PULL: Final = 0.005  # weight of the anchor against one observation of typical size
_ANCHOR_STEP: Final = 0.05  # of the way from the anchor to each new fit
_KEEP_COST: Final = 0.7  # of an observation's weight after the next one: five answers outweigh the past 5 to 1
_KEEP_PROMPT: Final = 0.97
_KEEP_SPREAD: Final = 0.95
_SPREAD_PRIOR: Final = 4.0  # answers that lay off by a factor of e ** _SPREAD_PRIOR_LOG, before any was seen
_SPREAD_PRIOR_LOG: Final = 0.5
_MOST_LOG: Final = 3.0  # of one answer: twenty times as long is as bad as a hundred times
_TYPICAL_TOKENS: Final = 64.0
_TYPICAL_CHARS: Final = 200.0
_LENGTH_MEMORY: Final = 20  # answers that a mean length reaches back
_TASK_PRIOR: Final = 4  # answers of EXPECTED_TOKENS
_DEVICE_PRIOR: Final = 1  # answer of the task's mean
_SANE_TOKENS: Final = 10_000_000
_SANE_MS: Final = 1e8  # a day and more: such a report says nothing of a node's speed


def peak_ewma(estimate_ms: float | None, sample_ms: float, elapsed_s: float) -> float:
    """The network estimate after a sample: up at once, down with a time constant of 10 s.

    Peak-EWMA of Finagle (`com.twitter.finagle.loadbalancer.PeakEwma`).

    >>> peak_ewma(None, 5.0, 0.0), peak_ewma(5.0, 60.0, 1.0)
    (5.0, 60.0)
    >>> round(peak_ewma(60.0, 5.0, 10.0), 2)
    25.23
    """
    if estimate_ms is None or sample_ms >= estimate_ms:
        return sample_ms
    keep = math.exp(-max(elapsed_s, 0.0) / NETWORK_TAU_S)
    return estimate_ms * keep + sample_ms * (1.0 - keep)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted `y = offset + slope * x`, neither negative, and the decayed sums that it came from."""

    anchor_offset: float
    anchor_slope: float
    typical_x: float
    keep: float
    offset: float
    slope: float
    n: float = 0.0
    x: float = 0.0
    xx: float = 0.0
    y: float = 0.0
    xy: float = 0.0

    @classmethod
    def seeded(cls, offset: float, slope: float, *, typical_x: float, keep: float) -> Line:
        """A line that has seen nothing yet."""
        return cls(anchor_offset=offset, anchor_slope=slope, typical_x=typical_x, keep=keep, offset=offset, slope=slope)

    def at(self, x: float) -> float:
        """The predicted y."""
        return self.offset + self.slope * x


def fit_line(line: Line, x: float, y: float) -> Line:
    """The line after one more observation.

    Errors are taken as relative to size, so one long prompt does not outshout many short ones.

    >>> line = Line.seeded(2.0, 1.0, typical_x=64.0, keep=0.7)
    >>> for x in (20, 300, 40, 100, 60, 200): line = fit_line(line, x, 10 + 3 * x)
    >>> round(line.offset, 1), round(line.slope, 2)
    (5.4, 3.03)
    """
    weight = 1.0 / (1.0 + x / line.typical_x) ** 2
    keep = line.keep
    n = keep * line.n + weight
    sx = keep * line.x + weight * x
    sxx = keep * line.xx + weight * x * x
    sy = keep * line.y + weight * y
    sxy = keep * line.xy + weight * x * y
    typical_y = max(line.anchor_offset + line.anchor_slope * line.typical_x, 1e-3)
    pull_offset = _PULL * (typical_y / max(line.anchor_offset, 0.1 * typical_y)) ** 2
    pull_slope = _PULL * (typical_y / max(line.anchor_slope, 0.1 * typical_y / line.typical_x)) ** 2
    a, b, d = n + pull_offset, sx, sxx + pull_slope
    p, q = sy + pull_offset * line.anchor_offset, sxy + pull_slope * line.anchor_slope
    determinant = a * d - b * b  # positive: the pull makes the matrix definite
    offset, slope = (p * d - q * b) / determinant, (q * a - p * b) / determinant
    if offset < 0.0:
        offset, slope = 0.0, max(q / d, 0.0)
    elif slope < 0.0:
        offset, slope = max(p / a, 0.0), 0.0
    return msgspec.structs.replace(
        line,
        anchor_offset=line.anchor_offset + _ANCHOR_STEP * (offset - line.anchor_offset),
        anchor_slope=line.anchor_slope + _ANCHOR_STEP * (slope - line.anchor_slope),
        offset=offset,
        slope=slope,
        n=n,
        x=sx,
        xx=sxx,
        y=sy,
        xy=sxy,
    )


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer costs on one node with one bundle: `prefill.at(tokens) + decode_ms * tokens`."""

    seed: tuple[float, float, float]  # fixed_ms, prefill and decode ms per token, as the bundle says
    prefill: Line
    decode_ms_per_token: float
    decode_weight: float

    @property
    def fixed_ms(self) -> float:
        """What every answer costs."""
        return self.prefill.offset

    @property
    def prefill_ms_per_token(self) -> float:
        """What each computed prompt token adds."""
        return self.prefill.slope


def seed_cost(bundle: wire.ServedBundle) -> Cost:
    """The cost as the node announces it, nothing learned yet."""
    seed = (bundle.fixed_ms, bundle.prefill_ms_per_token, bundle.decode_ms_per_token)
    return Cost(
        seed=seed,
        prefill=Line.seeded(seed[0], seed[1], typical_x=_TYPICAL_TOKENS, keep=_KEEP_COST),
        decode_ms_per_token=seed[2],
        decode_weight=_PULL,
    )


def fit_cost(cost: Cost, tokens: wire.Tokens, timing: wire.Timing) -> Cost:
    """The cost after an answer. All compute that is not decoding counts as fixed and prefill.

    A report that cannot be true (more cached than prompt tokens, a day of compute) teaches nothing.
    """
    computed = tokens.prompt - tokens.cached
    before_decode_ms = max(timing.compute - timing.decode, timing.prefill)
    if not 0 <= computed <= _SANE_TOKENS or tokens.completion > _SANE_TOKENS:
        return cost
    if before_decode_ms > _SANE_MS or timing.decode > _SANE_MS:
        return cost
    prefill = fit_line(cost.prefill, float(computed), before_decode_ms)
    if tokens.completion == 0:
        return msgspec.structs.replace(cost, prefill=prefill)
    # per-token times, an answer of few tokens counting for less: scalar least squares with forgetting
    weight = tokens.completion / (tokens.completion + 8.0)
    total = _KEEP_COST * cost.decode_weight + weight
    decode = cost.decode_ms_per_token
    decode += (timing.decode / tokens.completion - decode) * weight / total
    return msgspec.structs.replace(cost, prefill=prefill, decode_ms_per_token=decode, decode_weight=total)


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has answered lately, for whichever hub: sums that decay with FLOW_TAU_S."""

    since_s: float
    at_s: float
    answers: float = 0.0
    compute_ms: float = 0.0


def fit_flow(flow: Flow, compute_ms: float, now: float) -> Flow:
    """The flow after one more answer."""
    keep = math.exp(-max(now - flow.at_s, 0.0) / FLOW_TAU_S)
    return msgspec.structs.replace(
        flow,
        at_s=now,
        answers=keep * flow.answers + 1.0,
        compute_ms=keep * flow.compute_ms + min(compute_ms, _SANE_MS),
    )


def use_of(flow: Flow, parallel: int, now: float) -> tuple[float, float]:
    """Answers a millisecond, and the share of its time that a node was at them, of the last minute or since the first.

    >>> [round(use, 3) for use in use_of(Flow(since_s=0.0, at_s=600.0, answers=60.0, compute_ms=30_000.0), 1, 600.0)]
    [0.001, 0.5]
    """
    keep = math.exp(-max(now - flow.at_s, 0.0) / FLOW_TAU_S)
    seen_s = max(now - flow.since_s, 0.0)
    window_ms = 1000 * FLOW_TAU_S * max(1.0 - math.exp(-seen_s / FLOW_TAU_S), 1.0 / FLOW_TAU_S)
    return keep * flow.answers / window_ms, keep * flow.compute_ms / window_ms / parallel


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How far actual delays lie from predicted ones on one node: decayed moments of `ln(actual / predicted)`."""

    weight: float = _SPREAD_PRIOR
    mean: float = 0.0
    variance: float = _SPREAD_PRIOR_LOG**2


def fit_spread(spread: Spread, predicted_ms: float, actual_ms: float) -> Spread:
    """The spread after one more answer: exponentially weighted mean and variance (West, 1979).

    >>> spread = Spread()
    >>> for actual in (190, 210, 195, 205) * 20: spread = fit_spread(spread, 100, actual)
    >>> round(math.exp(spread.mean), 1), round(math.sqrt(spread.variance), 1)
    (2.0, 0.1)
    """
    off = math.log((max(actual_ms, 0.0) + 1.0) / (max(predicted_ms, 0.0) + 1.0))
    off = min(max(off, -_MOST_LOG), _MOST_LOG)
    weight = _KEEP_SPREAD * spread.weight + 1.0
    step = off - spread.mean
    mean = spread.mean + step / weight
    variance = (1.0 - 1.0 / weight) * (spread.variance + step * step / weight)
    return Spread(weight=weight, mean=mean, variance=variance)


def beyond_ms(spread: Spread, predicted_ms: float, at_least_ms: float) -> float:
    """What an answer would have taken, by this spread, that had not come after `at_least_ms`: a censored observation.

    By its expected logarithm, the step of Buckley and James (1979). Taken as if it had come just then, the answers that
    are cut off would make a busy node look punctual.

    >>> [round(beyond_ms(Spread(), 99, at_least)) for at_least in (99, 199, 999)]
    [148, 250, 1104]
    """
    off = math.log((max(at_least_ms, 0.0) + 1.0) / (max(predicted_ms, 0.0) + 1.0))
    deviation = math.sqrt(spread.variance)
    if deviation <= 0.0:
        return at_least_ms
    place = (off - spread.mean) / deviation
    left = _NORMAL.cdf(-place)
    further = _NORMAL.pdf(place) / left if left > 1e-12 else place
    return (max(predicted_ms, 0.0) + 1.0) * math.exp(spread.mean + deviation * further) - 1.0


def seed_prompt_size() -> Line:
    """Prompt tokens from characters before any was seen: a short chat template, four characters a token."""
    return Line.seeded(16.0, 0.25, typical_x=_TYPICAL_CHARS, keep=_KEEP_PROMPT)


def fit_prompt_size(line: Line, chars: int, prompt_tokens: int) -> Line:
    """The estimate after the tokenizer's count became known; a count that cannot be true teaches nothing."""
    if not 0 < prompt_tokens <= 4 * chars + 100_000:
        return line
    return fit_line(line, float(chars), float(prompt_tokens))


class Lengths:
    """Expected answer tokens per (device, task): a mean that starts at the task's, which starts at a paragraph.

    The start counts as answers that were seen (`_DEVICE_PRIOR`, `_TASK_PRIOR`), so that one device's first short
    answer does not make another's long one look short. Beside it stands how often the device's answers are as long as
    they may be: a limit cuts some devices' answers, and is never reached by others'.
    """

    def __init__(self, max_devices: int) -> None:
        self._devices: Recent[tuple[str, str], tuple[float, int]] = Recent(max_devices)
        self._tasks: Recent[str, tuple[float, int]] = Recent(64)
        self._full: Recent[tuple[str, str], tuple[float, int]] = Recent(max_devices)

    def expected(self, device: str, task: str, max_tokens: int | None) -> float:
        """Answer tokens to expect, at most `max_tokens`."""
        known = self._devices.get((device, task)) or self._tasks.get(task) or (EXPECTED_TOKENS, 0)
        if max_tokens is None:
            return known[0]
        full, _ = self._full.get((device, task)) or (0.0, 0)
        return full * max_tokens + (1.0 - full) * min(known[0], float(max_tokens))

    def learn(self, device: str, task: str, completion_tokens: int, max_tokens: int | None = None) -> None:
        """One answer had this many tokens, of as many that it might have had."""
        if completion_tokens > _SANE_TOKENS:
            return
        of_task = self._tasks.get(task) or (EXPECTED_TOKENS, _TASK_PRIOR)
        of_device = self._devices.get((device, task)) or (of_task[0], _DEVICE_PRIOR)
        self._tasks.put(task, _mean_after(of_task, completion_tokens))
        self._devices.put((device, task), _mean_after(of_device, completion_tokens))
        if max_tokens is not None:
            of_full = self._full.get((device, task)) or (0.0, _DEVICE_PRIOR)
            self._full.put((device, task), _mean_after(of_full, float(completion_tokens >= max_tokens)))


def _mean_after(mean: tuple[float, int], value: float) -> tuple[float, int]:
    count = min(mean[1] + 1, _LENGTH_MEMORY)
    return mean[0] + (value - mean[0]) / count, count
