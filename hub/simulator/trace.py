"""When do questions come, and how long are they and their answers? From a CSV file, or drawn.

Knows nothing of fleets. Arrival times are shares of the mean gap, so that any rate can be had from one trace.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hub.errors import SimulationError

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
GENERATED: Final = ("conversation", "short")
DEFAULT_QUESTIONS: Final = 20_000  # of a generated trace
BYTES_PER_TOKEN: Final = 4  # of a prompt: English, roughly
# Azure's conversation trace of 2023: shares and the tokens that so many questions have at most.
_SHARES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_PROMPT_TOKENS: Final = (3, 207, 423, 1020, 1638, 2734, 4142, 14_050)
_ANSWER_TOKENS: Final = (10, 54, 78, 129, 302, 424, 601, 1000)


class Trace(NamedTuple):
    """Questions in order of their arrival. `gaps` have mean 1."""

    gaps: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    answer_tokens: NDArray[np.int64]

    def of(self, questions: int) -> Trace:
        """As many questions, the trace told again from its beginning where it is too short."""
        return Trace(
            np.resize(self.gaps, questions),
            np.resize(self.prompt_tokens, questions),
            np.resize(self.answer_tokens, questions),
        )


def open_trace(name: str, seed: int) -> Trace:
    """The trace in the CSV file `name`, or what `GENERATED` names. Raises SimulationError."""
    if name in GENERATED:
        return generated(name, np.random.default_rng(seed))
    return read_trace(Path(name))


def read_trace(path: Path) -> Trace:
    """A CSV file with the columns of Azure's LLM inference traces. Raises SimulationError, with the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SimulationError(f"{path} cannot be read as a trace: {error}; {_what_else()}") from None
    header = [cell.strip() for cell in lines[0].split(",")] if lines else []
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise SimulationError(f"{path} has no column {missing[0]}: a trace needs {', '.join(COLUMNS)}")
    places = [header.index(name) for name in COLUMNS]
    rows = [_row(path, number, line, places) for number, line in enumerate(lines[1:], 2) if line.strip()]
    if len(rows) < 2:
        raise SimulationError(f"{path} has {len(rows)} questions, at least 2 are needed")
    rows.sort(key=lambda row: row[0])
    times = np.array([row[0] for row in rows], "datetime64[ns]").astype(np.int64) / 1e9
    gaps = np.diff(times, prepend=times[0])
    if gaps.mean() <= 0:
        raise SimulationError(f"{path}: all questions come at the same time, so no rate can be had from them")
    return Trace(gaps / gaps.mean(), np.array([row[1] for row in rows]), np.array([row[2] for row in rows]))


def generated(kind: str, draw: np.random.Generator, questions: int = DEFAULT_QUESTIONS) -> Trace:
    """`conversation`: the percentiles of Azure's trace, prompts and answers independent, arrivals in bursts (gamma
    gaps with a variation of 2). `short`: 20 to 60 prompt and 4 to 24 answer tokens, Poisson.
    """
    if kind == "short":
        lengths = draw.integers(20, 61, questions), draw.integers(4, 25, questions)
        return Trace(draw.exponential(1.0, questions), *lengths)
    shape = 0.25
    return Trace(
        draw.gamma(shape, 1 / shape, questions),
        _by_shares(draw, _PROMPT_TOKENS, questions),
        _by_shares(draw, _ANSWER_TOKENS, questions),
    )


def _by_shares(draw: np.random.Generator, tokens: tuple[int, ...], questions: int) -> NDArray[np.int64]:
    """Lengths whose logarithm is linear between the given percentiles."""
    logs = np.interp(draw.random(questions), _SHARES, np.log(tokens))
    return np.rint(np.exp(logs)).astype(np.int64)


def _row(path: Path, number: int, line: str, places: list[int]) -> tuple[np.datetime64, int, int]:
    cells = line.split(",")
    try:
        at, prompt, answer = (cells[place].strip() for place in places)
        row = np.datetime64(at.replace(" ", "T").removesuffix("Z"), "ns"), int(prompt), int(answer)
    except (IndexError, ValueError):
        raise SimulationError(f"{path}, line {number}: no time and two numbers of tokens: {line[:80]!r}") from None
    if np.isnat(row[0]) or not (0 < row[1] < 10**7 and 0 < row[2] < 10**7):
        raise SimulationError(f"{path}, line {number}: tokens must be 1 or more, and the time a time: {line[:80]!r}")
    return row


def _what_else() -> str:
    return f"give a CSV file with {', '.join(COLUMNS)}, or one of {', '.join(GENERATED)}"
