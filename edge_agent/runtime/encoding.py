"""Turns texts, and pairs of texts, into rows of token ids for an encoder, and knows where in the text each token lies.

The `tokenizers` library does the splitting. What is longer than the model takes is cut, and the row says so; a pair's
second text is cut into overlapping windows instead. Knows nothing of models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.errors import RequestError
from edge_agent.tokenizer import panics_refused, read_tokenizer

MOST_WINDOWS: Final = 64  # in which one text is read


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids of one run. `offsets` are characters of the text that a token comes from, `texts` says of which text
    (0 or 1, None for special tokens), `words` which word of it; `is_cut` that the text goes on behind the last token.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    texts: tuple[int | None, ...]
    words: tuple[int | None, ...]
    is_cut: bool


class TextEncoder:
    """The tokenizer of an encoder bundle. One thread at a time."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        """Read `path` (a `tokenizer.json`). Raises BundleError, or RuntimeUnavailable without `tokenizers`."""
        self._backend = read_tokenizer(path)
        self._backend.no_padding()  # a file may carry the settings of its training
        self.max_tokens = max_tokens

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @panics_refused()
    def count(self, text: str, context: str | None = None) -> int:
        """How many tokens a text is, or a question and its context, before anything is cut."""
        self._backend.no_truncation()
        return len(self._backend.encode(text, context).ids)

    @panics_refused()
    def encode(self, text: str) -> Row:
        """The tokens of `text`, at most `max_tokens`. Raises RequestError if nothing is left of it."""
        self._backend.enable_truncation(self.max_tokens)
        row = _row(self._backend.encode(text))
        if 0 not in row.texts:
            raise RequestError("invalid", "the text holds no tokens: send some words")
        return row

    @panics_refused()
    def encode_pair(self, first: str, second: str) -> list[Row]:
        """`first` with each window of `second`; windows overlap by a quarter of a row. Raises RequestError."""
        special = self._backend.num_special_tokens_to_add(True)
        self._backend.no_truncation()
        room = self.max_tokens - special - len(self._backend.encode(first, add_special_tokens=False).ids)
        if room < self.max_tokens // 4:
            raise RequestError(
                "too_large", f"the question leaves {max(room, 0)} of {self.max_tokens} tokens to the text: shorten it"
            )
        stride = min(self.max_tokens // 4, room // 2)
        text_tokens = len(self._backend.encode(second, add_special_tokens=False).ids)
        if text_tokens > (most := MOST_WINDOWS * (room - stride)):
            raise RequestError("too_large", f"the text has {text_tokens} tokens, at most {most} are read: shorten it")
        self._backend.enable_truncation(self.max_tokens, stride=stride, strategy="only_second")
        encoding = self._backend.encode(first, second)
        rows = [_row(one) for one in (encoding, *encoding.overflowing)]
        if any(0 not in row.texts or 1 not in row.texts for row in rows):
            raise RequestError("invalid", "the question or the text holds no tokens: send some words of both")
        return rows


def _row(encoding: Any) -> Row:
    return Row(
        ids=tuple(encoding.ids),
        types=tuple(encoding.type_ids),
        offsets=tuple(encoding.offsets),
        texts=tuple(encoding.sequence_ids),
        words=tuple(encoding.word_ids),
        is_cut=bool(encoding.overflowing),
    )
