"""The fleet as a table: one row per node and bundle, so that a thousand nodes are priced in a few array steps.

Holds the nodes by name and keeps the rows equal to them; a row is a function of its node. Knows nothing of how
the terms are learned or which row is chosen.
"""

from __future__ import annotations

from collections.abc import ItemsView, ValuesView
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hub.delay import Flow, Line, fit_prompt_size, seed_prompt_size
from hub.fleet import NEVER, Node, Standing, waiting
from hub.recent import Recent

_ROW: Final = np.dtype(
    [
        ("used", np.bool_),
        ("standing", np.int8),
        ("task", np.int32),
        ("model", np.int32),
        ("bundle", np.int32),
        ("network_ms", np.float64),  # NaN where not measured yet
        ("fixed_ms", np.float64),
        ("prefill_ms", np.float64),
        ("decode_ms", np.float64),
        ("context", np.float64),
        ("prompt_offset", np.float64),
        ("prompt_slope", np.float64),
        ("rest_ms", np.float64),
        ("busy", np.float64),
        ("end_s", np.float64),
        ("end_by_s", np.float64),
        ("said_end_s", np.float64),
        ("measured_s", np.float64),  # when the network was measured last
        ("log_bias", np.float64),
        ("log_variance", np.float64),
        ("in_flight", np.int64),  # questions that this hub has sent to the node
        ("parallel", np.float64),
        ("flow_since_s", np.float64),
        ("flow_at_s", np.float64),
        ("flow_answers", np.float64),
        ("flow_compute_ms", np.float64),
    ]
)
_USUAL_STEP: Final = 0.01  # of the way to each new delay
_NO_FLOW: Final = Flow(since_s=0.0, at_s=0.0)
_WRITE_LATER: Final = 16  # changed nodes whose rows are written when the table is read: most change several times
_EMPTY: Final = (
    False,
    int(Standing.GONE),
    -1,
    -1,
    -1,
    *(0.0,) * 11,
    NEVER,
    NEVER,
    0.0,
    0.0,
    0,
    1.0,
    0.0,
    0.0,
    0.0,
    0.0,
)


class Fleet:
    """All nodes; put and forget them here, and the table follows."""

    def __init__(self, max_bundles: int = 4096) -> None:
        self._nodes: dict[str, Node] = {}
        self._prompt_sizes: Recent[str, Line] = Recent(max_bundles)
        self._table: NDArray[Any] = np.full(16, np.array(_EMPTY, dtype=_ROW))
        self._rows: dict[str, list[int]] = {}
        self._free: list[int] = list(range(15, -1, -1))
        self._words: dict[str, int] = {}
        self._labels: dict[int, tuple[str, str]] = {}
        self._rank: NDArray[np.int64] | None = None
        self._changed: set[str] = set()
        self.usual_ms: float | None = None  # delay of an answer; None before the first

    # --- nodes ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._nodes)

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
        self._changed.add(node.name)
        if len(self._changed) > _WRITE_LATER:
            self._write_changed()

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
    def table(self) -> NDArray[Any]:
        """The rows, structured; those not `used` are free. To be read only, and not kept."""
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
        tail = (
            *(queue.rest_ms, queue.busy, queue.end_s, queue.end_by_s, queue.said_end_s),
            *(node.network_at_s, node.spread.mean, node.spread.variance, len(node.load), node.parallel),
            *(flow.since_s, flow.at_s, flow.answers, flow.compute_ms),
        )
        for row, bundle, cost in zip(self._rows[node.name], node.bundles, node.costs, strict=True):
            size = self.prompt_size(bundle.bundle)
            self._table[row] = (
                True,
                int(node.standing),
                self._intern(bundle.task),
                self._intern(bundle.model),
                self._intern(bundle.bundle),
                network_ms,
                cost.fixed_ms,
                cost.prefill_ms_per_token,
                cost.decode_ms_per_token,
                bundle.context,
                size.offset,
                size.slope,
                *tail,
            )

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
            self._table = np.concatenate([self._table, np.full(size, np.array(_EMPTY, dtype=_ROW))])
            self._free = list(range(2 * size - 1, size - 1, -1))
        row = self._free.pop()
        self._labels[row] = (name, bundle)
        self._rank = None
        return row

    def _drop_rows(self, name: str) -> None:
        for row in self._rows.pop(name, ()):
            self._table[row] = _EMPTY
            self._free.append(row)
            del self._labels[row]
            self._rank = None
