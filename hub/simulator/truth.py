"""What nobody in the fleet can know: how long each question takes at each node, and when each is really free.

Arrays over nodes, so that an oracle can price all of them at once. Knows nothing of messages.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from hub.simulator.fleet_file import Kind
from hub.simulator.trace import BYTES_PER_TOKEN, Trace

Nodes = NDArray[np.float64]  # a number for each


class Truth:
    """True costs, round trips and queues; `luck` is what a service time is multiplied by, question by question."""

    def __init__(self, kinds: list[Kind], round_trips_ms: Nodes, trace: Trace, luck: NDArray[np.float64]) -> None:
        self.fixed_ms = np.array([kind.fixed_ms for kind in kinds], np.float64)
        self.prefill_ms = np.array([kind.prefill_ms_per_token for kind in kinds], np.float64)
        self.decode_ms = np.array([kind.decode_ms_per_token for kind in kinds], np.float64)
        widths = np.array([kind.upload_mbit_s or np.inf for kind in kinds])
        self._upload_ms = BYTES_PER_TOKEN * 8 / 1000 / widths  # of a token of the prompt
        self._jitter = np.array([kind.jitter for kind in kinds])
        self.round_trip_ms = round_trips_ms.copy()  # as it is now
        self.slower = np.ones(len(kinds))
        self.up = np.ones(len(kinds), np.bool_)
        self._trace, self._luck = trace, luck
        self._slots = [[0.0] * kind.parallel for kind in kinds]
        self._free_s = np.zeros(len(kinds))

    def mean_service_ms(self) -> Nodes:
        """Of the questions of the trace, undisturbed."""
        prompt, answer = float(self._trace.prompt_tokens.mean()), float(self._trace.answer_tokens.mean())
        undisturbed: Nodes = self.fixed_ms + self.prefill_ms * prompt + self.decode_ms * answer
        return undisturbed * np.exp(self._jitter**2 / 2)

    def upload_of_ms(self, question: int, node: int) -> float:
        """How much later than a ping the question arrives."""
        return float(self._upload_ms[node] * self._trace.prompt_tokens[question])

    def prefill_of_ms(self, question: int, node: int) -> float:
        """The fixed part and the prompt's."""
        return float(self.fixed_ms[node] + self.prefill_ms[node] * self._trace.prompt_tokens[question]) * (
            self._luck_at(question, node)
        )

    def compute_of_ms(self, question: int, node: int) -> float:
        """All of it, at the usual speed."""
        decode_ms = float(self.decode_ms[node] * self._trace.answer_tokens[question])
        return self.prefill_of_ms(question, node) + decode_ms * self._luck_at(question, node)

    def delays_ms(self, question: int, now: float) -> Nodes:
        """Of a question that the hub sends now, at every node; infinite at those that are down."""
        prompt, answer = self._trace.prompt_tokens[question], self._trace.answer_tokens[question]
        compute = self.fixed_ms + self.prefill_ms * prompt + self.decode_ms * answer
        compute *= np.exp(self._jitter * self._luck[question]) * self.slower
        wait = np.maximum(self._free_s - now, 0.0) * 1000
        arrival = self.round_trip_ms / 2 + self._upload_ms * prompt
        delays: Nodes = arrival + self.round_trip_ms / 2 + np.maximum(wait - arrival, 0.0) + compute
        return np.where(self.up, delays, np.inf)

    def sent(self, question: int, node: int, now: float) -> None:
        """A question is on its way to a node."""
        arrived_s = now + (float(self.round_trip_ms[node]) / 2 + self.upload_of_ms(question, node)) / 1000
        slots = self._slots[node]
        began_s = max(arrived_s, slots[0])
        heapq.heapreplace(slots, began_s + self.compute_of_ms(question, node) * float(self.slower[node]) / 1000)
        self._free_s[node] = slots[0]

    def _luck_at(self, question: int, node: int) -> float:
        return float(np.exp(self._jitter[node] * self._luck[question]))
