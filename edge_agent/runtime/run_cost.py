"""What do runs of one token and of several cost, as they go?

Seeded with what was measured before, then learned from every run. Pure: it is told how long things took.
"""

from __future__ import annotations

from typing import Final

from edge_agent.runtime.step_cost import StepCost

_KEEP: Final = 0.9  # of a running mean, for each new value


class RunCost:
    """Milliseconds of a step, and of a run of several tokens, which goes through other kernels: a line of its own."""

    def __init__(self, seed: StepCost) -> None:
        self._step_ms = seed.decode_ms_per_token
        self._fixed_ms, self._ms_per_token = seed.fixed_ms, seed.prefill_ms_per_token
        self._slower = 1.0  # than that line, of late

    @property
    def now(self) -> StepCost:
        """What an answer costs by all that was seen: the cost it was seeded with, as much slower as of late."""
        return StepCost(
            fixed_ms=self._fixed_ms * self._slower,
            prefill_ms_per_token=self._ms_per_token * self._slower,
            decode_ms_per_token=self._step_ms,
        )

    def stepped(self, took_ms: float) -> None:
        """A run of one token took so long."""
        self._step_ms = _mean(self._step_ms, took_ms)

    def probed(self, took_ms: float) -> None:
        """A run of one token, the only one in a while, took so long: it says as much of runs of several.

        >>> cost = RunCost(StepCost(fixed_ms=8.0, prefill_ms_per_token=2.0, decode_ms_per_token=10.0))
        >>> cost.probed(30.0); cost.now
        StepCost(fixed_ms=16.0, prefill_ms_per_token=4.0, decode_ms_per_token=20.0)
        """
        step_ms = (self._step_ms + took_ms) / 2
        if self._step_ms > 0:
            self._slower *= step_ms / self._step_ms
        self._step_ms = step_ms

    def ran(self, took_ms: float, tokens: int) -> None:
        """A run of `tokens`, at least two, took so long."""
        if (line_ms := self._fixed_ms + self._ms_per_token * tokens) > 0:
            self._slower = _mean(self._slower, took_ms / line_ms)

    def tokens_within(self, limit_ms: float) -> int:
        """How many tokens one run takes in that time; at least one.

        >>> RunCost(StepCost(fixed_ms=8.0, prefill_ms_per_token=2.0, decode_ms_per_token=10.0)).tokens_within(100.0)
        46
        """
        left_ms = limit_ms / self._slower - self._fixed_ms
        return max(1, int(left_ms / max(self._ms_per_token, 1e-6)))

    def worth_checking(self, luck: float, guessed: int) -> int:
        """How many tokens of a guess yield the most tokens a millisecond; 0 where a step does.

        `luck` is the chance that the next guessed token comes true.

        >>> cost = RunCost(StepCost(fixed_ms=8.0, prefill_ms_per_token=2.0, decode_ms_per_token=10.0))
        >>> cost.worth_checking(0.9, 16), cost.worth_checking(0.1, 16)
        (7, 0)
        """
        best, best_rate = 0, 1 / max(self._step_ms, 1e-6)
        tokens = chance = 1.0
        for count in range(1, guessed + 1):
            chance *= luck
            tokens += chance
            run_ms = (self._fixed_ms + self._ms_per_token * (count + 1)) * self._slower
            if (rate := tokens / max(run_ms, 1e-6)) > best_rate:
                best, best_rate = count, rate
        return best


def _mean(known: float, value: float) -> float:
    return _KEEP * known + (1 - _KEEP) * value
