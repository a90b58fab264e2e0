"""Turns a question into token ids, and token ids back into text as they come.

The `tokenizers` library does the splitting, `template.py` the chat template. Knows nothing of models: what ids
mean to one is the bundle's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.bundle import Bundle
from edge_agent.errors import BundleError, RequestError, RuntimeUnavailable
from hub import wire

if TYPE_CHECKING:
    from edge_agent.template import ChatTemplate

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>\Z")


class Tokenizer:
    """The tokenizer of a bundle, with its chat template if it has one."""

    def __init__(
        self,
        path: Path,
        *,
        chat_template: ChatTemplate | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
    ) -> None:
        """Read `path` (a `tokenizer.json`). Raises BundleError, or RuntimeUnavailable without `tokenizers`."""
        self._backend = read_tokenizer(path)
        self._backend.no_truncation()  # a file may carry the settings of its training
        self._backend.no_padding()
        self._template = chat_template
        self._bos_token, self._eos_token = bos_token, eos_token
        self._bos_id = None if bos_token is None else self._backend.token_to_id(bos_token)
        added = self._backend.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        # Ids are below this, unless the vocabulary has gaps; to list it for certainty takes as long as to read it.
        self.size: int = max(self._backend.get_vocab_size(), 1 + max(added, default=-1))

    def encode_question(self, question: wire.Question) -> list[int]:
        """The prompt's token ids: `text` as it is, `question` and `messages` through the chat template.

        Raises RequestError if the template refuses, if several messages meet a model without a template, or if
        nothing is left of the text.
        """
        if question.text is not None:
            ids = self.encode(question.text)
        else:
            messages = question.messages or (wire.ChatMessage(role="user", content=question.question or ""),)
            ids = self._encode_messages(messages)
        if not ids:
            raise RequestError("invalid", "the question holds no tokens: send some text")
        return ids

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with the tokens that this model wants around it, and never two at its beginning."""
        with panics_refused():
            ids: list[int] = self._backend.encode(text).ids
        if len(ids) > 1 and ids[0] == self._bos_id == ids[1]:
            return ids[1:]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def decode_cut(self, ids: Sequence[int]) -> str:
        """Like `decode`, but without a last character of which `ids` hold only some bytes: as a stream ends there."""
        text = self.decode(ids)
        if not text.endswith(REPLACEMENT):
            return text
        stream = self.stream()
        return "".join([*map(stream.push, ids), stream.finish(cut=True)])

    def stream(self) -> TextStream:
        """A decoder of one answer, token by token."""
        return TextStream(self)

    def is_silent(self, token_id: int) -> bool:
        """Whether `decode` leaves this token out: special, or unknown."""
        return token_id in self._special_ids or self._backend.id_to_token(token_id) is None

    def is_byte(self, token_id: int) -> bool:
        """Whether this token is a byte that only makes sense with its neighbours (`<0xE2>`)."""
        return _BYTE_TOKEN.match(self._backend.id_to_token(token_id)) is not None

    def _encode_messages(self, messages: Sequence[wire.ChatMessage]) -> list[int]:
        if self._template is None:
            if len(messages) > 1:
                raise RequestError("unsupported", "this model has no chat template: send one question, or text")
            return self.encode(messages[0].content)
        prompt = self._template.render(
            [{"role": message.role, "content": message.content} for message in messages],
            bos_token=self._bos_token,
            eos_token=self._eos_token,
        )
        # The template writes all special tokens itself.
        with panics_refused():
            ids: list[int] = self._backend.encode(prompt, add_special_tokens=False).ids
        return ids


def read_tokenizer(path: Path) -> Any:
    """The `tokenizers.Tokenizer` in `path`. Raises BundleError, or RuntimeUnavailable without `tokenizers`."""
    try:
        import tokenizers
    except ImportError as error:
        raise RuntimeUnavailable(f"tokenizers cannot be imported ({error}): install edgefleet[agent]") from None
    try:
        with panics_refused():
            return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{path}: not a readable tokenizer: {' '.join(str(error).split())[:300]}") from None


@contextmanager
def panics_refused() -> Iterator[None]:
    """Raises RequestError for a panic of the library, which no `except Exception` sees."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which has no module to import it from
            raise
        raise RequestError("internal", f"the tokenizer failed: {' '.join(str(error).split())[:300]}") from None


class TextStream:
    """Text of a growing sequence of ids, in pieces that are whole characters.

    The pieces and `finish` joined equal `Tokenizer.decode` of all ids. A piece is the difference of two decodings
    of a short window, because decoders look at neighbours: a character may span tokens, a leading space may be
    dropped. What may still change is held back: the last character while it is U+FFFD (an unfinished one, or a
    wrong one: the next byte tells), and runs of byte tokens until they end.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []  # the tokens of the last whole piece as context, then what is new
        self._context = 0  # how many of them are context
        self._given = 0  # characters of the window's text that were given out

    def push(self, token_id: int) -> str:
        """The text that `token_id` settles, often one token's, sometimes none."""
        if self._tokenizer.is_silent(token_id):
            return ""
        self._window.append(token_id)
        if self._tokenizer.is_byte(token_id):
            return ""
        text = self._tokenizer.decode(self._window)
        whole = not text.endswith(REPLACEMENT)
        piece = text[self._given :] if whole else text[self._given : -1]
        self._given += len(piece)
        if whole:  # what was new becomes the context of what comes
            self._window = self._window[self._context :]
            self._context = len(self._window)
            self._given = len(self._tokenizer.decode(self._window))
        return piece

    def finish(self, *, cut: bool = False) -> str:
        """What was held back; where the answer was `cut` by its limit, without the character that it cut in two."""
        held = self._tokenizer.decode(self._window)[self._given :]
        return held.rstrip(REPLACEMENT) if cut else held


def open_tokenizer(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle, its template tried on a question.

    Raises BundleError, or RuntimeUnavailable where `tokenizers` or `jinja2` is not installed.
    """
    info = bundle.manifest.tokenizer
    template = None if info.chat_template is None else _open_template(bundle.file(info.chat_template))
    tokenizer = Tokenizer(
        bundle.file(info.path), chat_template=template, bos_token=info.bos_token, eos_token=info.eos_token
    )
    try:
        tokenizer.encode_question(wire.Question(question="Is this a question?"))
    except RequestError as error:
        raise BundleError(f"{bundle.path}: its tokenizer takes no question: {error}") from None
    return tokenizer


def _open_template(path: Path) -> ChatTemplate:
    try:
        from edge_agent.template import ChatTemplate
    except ImportError as error:
        raise RuntimeUnavailable(f"jinja2 cannot be imported ({error}): install edgefleet[agent]") from None
    try:
        return ChatTemplate(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: not a readable chat template: {error}") from None
