"""Ends an answer before the first of some texts, and gives out what cannot be the beginning of one.

Knows nothing of tokens: pieces of text in, pieces of text out.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Looks for `stops` in an answer that comes in pieces.

    >>> stop = StopText(["END"])
    >>> [stop.push(piece) for piece in ("one ", "two E", "N", "D three")], stop.found
    (['one ', 'two ', '', ''], True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """What can be given out now: all of it that no stop begins in. Nothing behind a stop."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back: the answer has ended without it becoming a stop."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`.

    >>> _overlap("two E", "END"), _overlap("two", "END")
    (1, 0)
    """
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
