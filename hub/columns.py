"""The fleet as a table: one row per node and bundle, so that a thousand nodes are priced in a few array steps.

Holds the nodes by name and keeps the rows equal to them; a row is a function of its node. Knows nothing of how
the terms are learned or which row is chosen.
"""

from __future__ import annotations

from collections.abc import ItemsView, ValuesView
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hub.delay import Flow, Line, fit_prompt_size, seed_prompt_size
from hub.fleet import NEVER, Node, Standing, Waiting, waiting
from hub.recent import Recent
from hub.table import Table
from hub.tail import Tail

_EMPTY: Final[dict[str, bool | int | float]] = {  # what stands in a free row
    "used": False,
    "standing": int(Standing.GONE),
    "task": -1,
    "model": -1,
    "bundle": -1,
    "network_ms": 0.0,  # NaN where not measured yet
    "upload_ms_per_kib": 0.0,
    "fixed_ms": 0.0,
    "prefill_ms": 0.0,
    "decode_ms": 0.0,
    "context": 0.0,
    "prompt_offset": 0.0,
    "prompt_slope": 0.0,
    **msgspec.structs.asdict(Waiting()),
    "measured_s": NEVER,  # when the network was measured last
    "log_bias": 0.0,
    "log_variance": 0.0,
    "spread_weight": 0.0,
    "in_flight": 0,  # questions that this hub has sent to the node
    "parallel": 1.0,
    "flow_since_s": 0.0,
    "flow_at_s": 0.0,
    "flow_answers": 0.0,
    "flow_compute_ms": 0.0,
    "failure_rate": 0.0,  # as it was at `failed_s`: time forgets it
    "failed_s": 0.0,
}
_USUAL_STEP: Final = 0.01  # of the way to each new delay
_NO_FLOW: Final = Flow(since_s=0.0, at_s=0.0)


class Fleet:
    """All nodes; put and forget them here, and the table follows."""

    def __init__(self, max_bundles: int = 4096) -> None:
        self._nodes: dict[str, Node] = {}
        self._prompt_sizes: Recent[str, Line] = Recent(max_bundles)
        self._table = Table(_EMPTY, rows=16)
        self._rows: dict[str, list[int]] = {}
        self._free: list[int] = list(range(15, -1, -1))
        self._words: dict[str, int] = {}
        self._labels: dict[int, tuple[str, str]] = {}
        self._rank: NDArray[np.int64] | None = None
        self._changed: set[str] = set()
        self.tail = Tail()  # of answers beside their expected lengths
        self.usual_ms: float | None = None  # delay of an answer; None before the first

    # --- nodes ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def size(self) -> int:
        """Rows in use: bundles of all nodes."""
        return len(self._labels)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def get(self, name: str) -> Node | None:
        """The node, as it is now."""
        return self._nodes.get(name)

    def items(self) -> ItemsView[str, Node]:
        """Every node by name."""
        return self._nodes.items()

    def values(self) -> ValuesView[Node]:
        """Every node."""
        return self._nodes.values()

    def put(self, node: Node) -> None:
        """Let `node` be what is known of its name from now on."""
        before = self._nodes.get(node.name)
        if before is node:
            return
        self._nodes[node.name] = node
        if before is None or before.bundles != node.bundles:
            self._drop_rows(node.name)
            self._rows[node.name] = [self._new_row(node.name, bundle.bundle) for bundle in node.bundles]
        self._changed.add(node.name)  # most change several times before the table is read

    def forget(self, name: str) -> None:
        """Know nothing of this node any more."""
        del self._nodes[name]
        self._changed.discard(name)
        self._drop_rows(name)

    def took(self, delay_ms: float) -> None:
        """An answer took so long from the hub's receipt of its question."""
        before_ms = delay_ms if self.usual_ms is None else self.usual_ms
        self.usual_ms = before_ms + _USUAL_STEP * (delay_ms - before_ms)

    # --- prompt sizes: a bundle's tokenizer is the same on every node -------------------------------------

    def prompt_size(self, bundle: str) -> Line:
        """Prompt tokens of this bundle by characters of the question."""
        return self._prompt_sizes.get(bundle) or seed_prompt_size()

    def learn_prompt_size(self, bundle: str, chars: int, prompt_tokens: int) -> None:
        """A question of `chars` characters had `prompt_tokens` tokens."""
        line = fit_prompt_size(self.prompt_size(bundle), chars, prompt_tokens)
        self._prompt_sizes.put(bundle, line)
        rows = self._table["bundle"] == self._words.get(bundle, -2)
        self._table["prompt_offset"][rows] = line.offset
        self._table["prompt_slope"][rows] = line.slope

    # --- the table --------------------------------------------------------------------------------------

    @property
    def table(self) -> Table:
        """The rows; those not `used` are free. To be read only, and not kept."""
        self._write_changed()
        return self._table

    def word(self, text: str) -> int:
        """The number that stands for a task, model or bundle in the table; -2 for one that no node has."""
        return self._words.get(text, -2)

    def label(self, row: int) -> tuple[str, str]:
        """The node and bundle of a row."""
        return self._labels[row]

    def rows(self, name: str) -> list[int]:
        """The rows of a node."""
        return self._rows.get(name, [])

    def rank(self) -> NDArray[np.int64]:
        """Each row's place by (node, bundle): how ties are broken."""
        if self._rank is None:
            self._rank = np.full(len(self._table), len(self._table), dtype=np.int64)
            for place, row in enumerate(sorted(self._labels, key=self._labels.__getitem__)):
                self._rank[row] = place
        return self._rank

    # --- inside -----------------------------------------------------------------------------------------

    def _write_changed(self) -> None:
        for name in self._changed:
            self._write(self._nodes[name])
        self._changed.clear()

    def _write(self, node: Node) -> None:
        queue = waiting(node)
        flow = node.flow or _NO_FLOW
        network_ms = float("nan") if node.network_ms is None else node.network_ms
        upload = node.upload.ms_per_kib
        tail = (
            *msgspec.structs.astuple(queue),
            *(node.network_at_s, node.spread.mean, node.spread.variance, node.spread.weight),
            *(len(node.load), node.parallel, flow.since_s, flow.at_s, flow.answers, flow.compute_ms),
            *(node.failing.rate, node.failing.at_s),
        )
        for row, bundle, cost in zip(self._rows[node.name], node.bundles, node.costs, strict=True):
            size = self.prompt_size(bundle.bundle)
            words = (self._intern(bundle.task), self._intern(bundle.model), self._intern(bundle.bundle))
            costs = (cost.fixed_ms, cost.prefill_ms_per_token, cost.decode_ms_per_token)
            sizes = (bundle.context, size.offset, size.slope)
            self._table.write(row, (True, int(node.standing), *words, network_ms, upload, *costs, *sizes, *tail))

    def _intern(self, text: str) -> int:
        number = self._words.get(text)
        if number is None:
            if len(self._words) > 4 * len(self._table) + 1024:
                self._rebuild_words()
            number = self._words[text] = max(self._words.values(), default=-1) + 1
        return number

    def _rebuild_words(self) -> None:
        """Forget the words of nodes long gone, so that changing names cannot fill the memory."""
        served = [bundle for node in self._nodes.values() for bundle in node.bundles]
        current = {word for bundle in served for word in (bundle.task, bundle.model, bundle.bundle)}
        self._words = {word: number for word, number in self._words.items() if word in current}

    def _new_row(self, name: str, bundle: str) -> int:
        if not self._free:
            size = len(self._table)
            self._table.double()
            self._free = list(range(2 * size - 1, size - 1, -1))
        row = self._free.pop()
        self._labels[row] = (name, bundle)
        self._rank = None
        return row

    def _drop_rows(self, name: str) -> None:
        for row in self._rows.pop(name, ()):
            self._table.clear(row)
            self._free.append(row)
            del self._labels[row]
            self._rank = None
