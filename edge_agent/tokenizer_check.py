"""May this tokenizer.json be handed to the `tokenizers` library? Its shape, and patterns that could run for ever.

Only the outer shape is looked at: the parts that there are, how many tokens, and every regular expression in the
parts that split and rewrite text. A pattern that repeats what already repeats (`(a+)+`) or a choice (`(a|a)*`), has
many choices one after another, refers back or calls itself takes exponential time on some texts, and none of the
tokenizers that models come with needs one. What is left takes at most polynomial time, which the limits of a
question's length are for. How much the parts can make a text grow is `tokenizer_growth.py`'s.

Does not know what the parts mean; the library checks that, and what it panics at is refused too (`tokenizer.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from edge_agent.errors import BundleError
from edge_agent.tokenizer_growth import growth_refusal

MAX_ADDED_TOKENS: Final = 100_000
MAX_TOKEN_CHARS: Final = 4096
MAX_PARTS_BYTES: Final = 4 * 1024**2  # a normalizer may carry a table of characters: of T5, 320 KB
MAX_DEPTH: Final = 32
MAX_PATTERNS: Final = 256
MAX_PATTERN_CHARS: Final = 4096
MAX_REPEATS: Final = 1000
MAX_EXACT: Final = 16
MAX_IN_A_ROW: Final = 4  # repetitions, each of which doubles as the next one's beginning; GPT-4o has two
MAX_WAYS: Final = 1024  # GPT-4o: 16

_NESTING: Final = re.compile(rb'"[^"]*"|[\[{]|[\]}]')
_PARTS: Final = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_ENDLESS: Final = 2**31
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
# After a parenthesis: a group, one that looks around, is atomic, named or has options; and options without a group. Not
# comments and `x`, which change what is read, nor conditions, calls and absence.
_OPENING: Final = re.compile(r"(?![?*])|\?(?:[:=!>]|<[=!]|<[A-Za-z_]\w*>|[ims]*(?:-[ims]+)?[:)])")
_COUNTED: Final = re.compile(r"\{(\d*)(?:,(\d*))?\}")


class _Model(msgspec.Struct, frozen=True):
    vocab: msgspec.Raw
    type: Literal["BPE", "Unigram", "WordLevel", "WordPiece"] | None = None  # old files do not say


class _AddedToken(msgspec.Struct, frozen=True):
    id: int
    content: str


class _TokenizerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: _Model
    version: str | None = None
    truncation: dict[str, Any] | None = None
    padding: dict[str, Any] | None = None
    added_tokens: tuple[_AddedToken, ...] = ()
    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")
    post_processor: msgspec.Raw = msgspec.Raw(b"null")
    decoder: msgspec.Raw = msgspec.Raw(b"null")


def check_tokenizer(path: Path) -> None:
    """Raises BundleError with what is refused. The size of the file is bounded by `bundle_paths.py`."""
    try:
        said = msgspec.json.decode(path.read_bytes(), type=_TokenizerFile)
    except RecursionError:
        raise _refused(path, "it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused(path, str(error)) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(said.added_tokens) > MAX_ADDED_TOKENS or any(
        len(token.content) > MAX_TOKEN_CHARS or not 0 <= token.id < 2**31 for token in said.added_tokens
    ):
        raise _refused(
            path, f"more than {MAX_ADDED_TOKENS} added tokens, or one of more than {MAX_TOKEN_CHARS} characters"
        )
    patterns = 0
    for name in _PARTS:
        part = bytes(getattr(said, name))
        if len(part) > MAX_PARTS_BYTES:
            raise _refused(path, f"{name} has {len(part)} bytes, at most {MAX_PARTS_BYTES} are taken")
        if _depth(part) > MAX_DEPTH:
            raise _refused(path, f"{name} is nested more than {MAX_DEPTH} deep")
        read = msgspec.json.decode(part)
        if (why := growth_refusal(name, read)) is not None:
            raise _refused(path, f"{name} {why}")
        for pattern in _patterns(read):
            patterns += 1
            why = pattern_refusal(pattern)
            if patterns > MAX_PATTERNS:
                why = f"is one of more than {MAX_PATTERNS}"
            if why is not None:
                raise _refused(path, f"pattern {pattern[:60]!r} of {name} {why}")


def pattern_refusal(pattern: str) -> str | None:
    r"""Why a regular expression could take exponential time, or is written so that this cannot be seen; None otherwise.

    >>> pattern_refusal(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)")
    >>> pattern_refusal("(a+)+$")
    'repeats what repeats already'
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        return f"has more than {MAX_PATTERN_CHARS} characters"
    if any(found[1] in "QcCM" for found in _ESCAPE.finditer(pattern)):
        return "quotes, or names a control character: what comes after could be read in two ways"
    groups, position = [_Group()], 0
    while position < len(pattern):
        char, position = pattern[position], position + 1
        inside = _Group()
        if char == "\\":
            if pattern[position : position + 1] in set("123456789gk"):
                return "refers back to what it found, or calls itself"
            position += 1
        elif char == "[":
            position = _end_of_class(pattern, position)
        elif char == "(":
            opening = _OPENING.match(pattern, position)
            if opening is None:
                return "refers back to what it found, calls itself, or has a group of an unknown kind"
            position = opening.end()
            if not opening[0].endswith(")"):  # that would be options from here on
                groups.append(_Group())
            continue
        elif char == ")" and len(groups) > 1:
            inside = groups.pop()
        elif char == "|":
            groups[-1].alternative()
            continue
        before = position
        count, exact, position = _repeat(pattern, before)
        if count > MAX_REPEATS and count != _ENDLESS:
            return f"counts to {count}, at most {MAX_REPEATS} are taken"
        optional = count == 1 and not exact and position > before
        if (why := groups[-1].take(inside, repeats=count > 1, exact=exact, optional=optional)) is not None:
            return why
    return None


class _Group:
    """What is in a group: how many ways there are to match it, as far as a bounded number of them is chosen from, and
    how many repetitions without a bound come one after another in one of its alternatives.
    """

    def __init__(self) -> None:
        self._ways, self._repeats = 1, 0  # of the alternative that is being read
        self._done_ways = self._most_repeats = 0

    def alternative(self) -> None:
        """Another one begins."""
        self._done_ways, self._most_repeats = self.ways, self.repeats
        self._ways, self._repeats = 1, 0

    @property
    def ways(self) -> int:
        return self._done_ways + self._ways

    @property
    def repeats(self) -> int:
        return max(self._most_repeats, self._repeats)

    def take(self, inside: _Group, *, repeats: bool, exact: bool, optional: bool) -> str | None:
        """One more thing in a row, a group with `inside` or one character. Returns why it is not taken."""
        if repeats and inside.repeats:  # but not an exact number of times: `(\\d{3})*` has one way to match
            return "repeats what repeats already"
        if repeats and inside.ways > 1:
            return "repeats a choice"
        self._repeats += inside.repeats + (repeats and not exact)
        self._ways *= inside.ways + optional
        if self._repeats > MAX_IN_A_ROW or self._ways > MAX_WAYS:
            return f"has more than {MAX_IN_A_ROW} repetitions in a row, or more than {MAX_WAYS} choices"
        return None


def _repeat(pattern: str, position: int) -> tuple[int, bool, int]:
    """How often at most what stands before `position` is repeated, whether never less, and where that is said to its
    end. Large exact counts are taken for others: nested, they make a program of any size.
    """
    count, exact = 1, False
    while position < len(pattern):
        char = pattern[position]
        counted = _COUNTED.match(pattern, position) if char == "{" else None
        if char in "*+":
            exact, count, position = False, (_ENDLESS if count == 1 or char == "*" else count), position + 1
        elif char == "?":
            position += 1
        elif counted is not None:
            least, most = counted[1], counted[2]
            this = int(least or 0) if most is None else (int(most) if most else _ENDLESS)
            exact = most is None and count == 1 and this <= MAX_EXACT
            count, position = (this if count == 1 else _ENDLESS), counted.end()
        else:
            break
    return count, exact, position


def _end_of_class(pattern: str, position: int) -> int:
    """Just after the `]` that ends a class; classes may hold classes."""
    depth = 1
    first = position + (pattern[position : position + 1] == "^")
    while position < len(pattern) and depth:
        char = pattern[position]
        if char == "\\":
            position += 1
        elif char == "[":
            depth += 1
        elif char == "]" and position != first:
            depth -= 1
        position += 1
    return position


def _patterns(part: Any) -> Iterator[str]:
    """Every regular expression: the library writes them as `{"Regex": ...}`."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "Regex" and isinstance(value, str):
                yield value
            else:
                yield from _patterns(value)
    elif isinstance(part, list):
        for value in part:
            yield from _patterns(value)


def _depth(payload: bytes) -> int:
    depth = deepest = 0
    # Without escapes a text needs no memory for each of its characters to be skipped.
    for found in _NESTING.finditer(payload.replace(rb"\\", b"").replace(rb"\"", b"")):
        if found[0] in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
        elif found[0] in (b"}", b"]"):
            depth -= 1
    return deepest


def _refused(path: Path, why: str) -> BundleError:
    return BundleError(f"{path}: not a readable tokenizer: {why}")
