"""The ended questions of a window, column by column: what every figure of a report is made from.

A million rows as objects would take a minute; as arrays they take a second. Knows nothing of where rows are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Names(msgspec.Struct, frozen=True):
    """A column of names: `codes` (int32, one per question) index into `names`; no name is ''.

    >>> Names.of(["a", "b", "a"])
    Names(codes=array([0, 1, 0], dtype=int32), names=('a', 'b'))
    """

    codes: npt.NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, column: Sequence[str | None]) -> Names:
        """From one name per question, None being ''."""
        found: dict[str, int] = {}
        codes = np.fromiter((found.setdefault(name or "", len(found)) for name in column), np.int32, len(column))
        return cls(codes, tuple(found))

    def __len__(self) -> int:
        return len(self.codes)

    def are(self, name: str) -> Mask:
        """Which questions have this name."""
        if name not in self.names:
            return np.zeros(len(self.codes), bool)
        return np.asarray(self.codes == self.names.index(name))

    def where(self, mask: Mask | Ints) -> Names:
        """Of some questions only."""
        return Names(self.codes[mask], self.names)


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """Columns that are told, but that no figure is made from: reading them costs a third of the time."""

    id: Names
    hub: Names
    bundle: Names
    task: Names
    question_bytes: Ints
    answer_bytes: Ints
    prompt_tokens: Ints
    cached_tokens: Ints


class History(msgspec.Struct, frozen=True, kw_only=True):
    """One entry per question in every column, in the order of their ends. NaN is what is not known.

    The columns are those of `hub.events.Row`, of which they keep the meaning; `row` is the store's number of the row.
    `details` are there only where they were read.
    """

    row: Ints
    wall_time_s: Floats
    device: Names
    node: Names
    model: Names
    outcome: Names
    second: Names
    second_won: Mask
    local: Mask
    partial: Mask
    attempts: Ints
    duplicates: Ints
    completion_tokens: Ints
    predicted_ms: Floats
    predicted_network_ms: Floats
    predicted_queue_ms: Floats
    predicted_prefill_ms: Floats
    predicted_decode_ms: Floats
    total_ms: Floats
    network_ms: Floats
    queue_ms: Floats
    prefill_ms: Floats
    decode_ms: Floats
    overhead_ms: Floats
    asker_ms: Floats
    asker_first_ms: Floats
    details: Details | None = None

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> History:
        """From all columns by name; with the details, if they are among them."""
        details = Details(**{name: columns[name] for name in DETAILS}) if DETAILS[0] in columns else None
        return cls(**{name: columns[name] for name in COLUMNS}, details=details)

    def columns(self) -> dict[str, Any]:
        """All columns by name."""
        details = {} if self.details is None else msgspec.structs.asdict(self.details)
        return {name: getattr(self, name) for name in COLUMNS} | details

    def __len__(self) -> int:
        return len(self.row)

    def where(self, mask: Mask | Ints) -> History:
        """Some of the questions, by a mask or by their indices."""
        return History.of(
            {
                name: column.where(mask) if isinstance(column, Names) else column[mask]
                for name, column in self.columns().items()
            }
        )


COLUMNS: Final = History.__struct_fields__[:-1]
DETAILS: Final = Details.__struct_fields__
NAMES: Final = ("id", "device", "hub", "node", "bundle", "model", "task", "outcome", "second")
FLAGS: Final = ("second_won", "local", "partial")
COUNTS: Final = (
    *("row", "attempts", "duplicates", "question_bytes", "answer_bytes"),
    *("prompt_tokens", "cached_tokens", "completion_tokens"),
)


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Records that the store does not have, as far as that can be known.

    `answers` are gaps in the nodes' own numbers of their answers; `lost` what hubs counted that they could not write,
    and `why` their words for it, oldest first.
    """

    answers: int = 0
    lost: int = 0
    why: tuple[str, ...] = ()
