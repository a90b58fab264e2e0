"""Guesses the next tokens of an answer from what has been said already, and how likely the guess is to come true.

Prompt-lookup decoding (Saxena, 2023): answers repeat their prompt and themselves, so the tokens behind the last
occurrence of the last few are a guess. One run of the graph checks all of it, and yields the tokens that it confirms
and one more (Leviathan et al., Fast Inference from Transformers via Speculative Decoding, 2023). Whether guesses come
true is counted in steps that check nothing, too: so checking can end where it does not pay, and begin again where it
would.
Knows nothing of graphs or of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MOST_TOKENS: Final = 16  # of a guess
MATCHED: Final = (3, 2)  # how many tokens in a row must have occurred before, the longest first
_KEEP: Final = 0.9  # of what is counted, for each new token
_PRIOR: Final = (1.0, 1.0)  # tokens of guesses that came true, and that did not, before any was seen


class Guesser:
    """The guesses of one answer. `ids` are prompt and answer so far; it must be told of every token.

    >>> guesser = Guesser([7, 1, 2, 3, 9, 8])
    >>> for token in (1, 2, 3): guesser.said(token)
    >>> guesser.guess()[:2]
    [9, 8]
    """

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._ends: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in MATCHED)
        self._behind: list[int | None] = [None] * len(MATCHED)  # where the last tokens ended before
        self._true, self._false = _PRIOR
        for token in prompt_ids:
            self._append(token)

    def said(self, token_id: int) -> None:
        """The answer goes on with this token: a guess at it came true or not, whether it was checked or not."""
        start = self._start()
        if start is not None:
            right = self._ids[start] == token_id
            self._true = _KEEP * self._true + right
            self._false = _KEEP * self._false + (not right)
        self._append(token_id)

    def guess(self) -> list[int]:
        """What may come next, at most MOST_TOKENS; empty where nothing like it was said."""
        start = self._start()
        return [] if start is None else self._ids[start : start + MOST_TOKENS]

    @property
    def luck(self) -> float:
        """How likely the next guessed token comes true, 0 to 1."""
        return self._true / (self._true + self._false)

    def _start(self) -> int | None:
        return next((end for end in self._behind if end is not None), None)

    def _append(self, token_id: int) -> None:
        self._ids.append(token_id)
        end = len(self._ids)
        for number, (matched, ends) in enumerate(zip(MATCHED, self._ends, strict=True)):
            if end >= matched:
                key = tuple(self._ids[end - matched :])
                self._behind[number] = ends.get(key)
                ends[key] = end
