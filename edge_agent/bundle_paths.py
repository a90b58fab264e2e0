"""What may a bundle be made of: which paths, and how many bytes at most behind each?

Pure: looks at text and numbers only. A path is made of plain characters, so that no two of them can be one file
anywhere (upper and lower case, composed letters, short names, trailing dots) and none means something to a shell, a
terminal or a version control system.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "model.sig"
MAX_MANIFEST_BYTES: Final = 4 * 1024**2
MAX_SIGNATURE_BYTES: Final = 4 * 1024**2  # 10,000 files take 3.2 MB
MAX_TOTAL_BYTES: Final = 256 * 1024**3
MAX_FILES: Final = 10_000
MAX_DEPTH: Final = 16  # directories below the bundle
MAX_PATH_CHARS: Final = 240

_GB: Final = 1024**3
_MB: Final = 1024**2
# The first pattern that a path matches says how large its file may be. Nothing else may be in a bundle.
_KINDS: Final = tuple(
    (re.compile(pattern + r"\Z"), most)
    for pattern, most in (
        (re.escape(MANIFEST_NAME), MAX_MANIFEST_BYTES),
        (re.escape(SIGNATURE_NAME), MAX_SIGNATURE_BYTES),
        (r"report\.json", 16 * _MB),
        (r"report\.html", 64 * _MB),
        (r"model/.*\.onnx", 256 * _MB),  # weights of more than 1 KB lie beside the graph
        (r"model/.*", 128 * _GB),
        (r"tokenizer/tokenizer\.json", 64 * _MB),  # the largest known, of 262,144 tokens, has 33 MB
        (r"tokenizer/.*\.jinja", _MB),
        (r"tokenizer/.*", 16 * _MB),
        (r"engines/.*", 128 * _GB),
    )
)
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\:]")  # control characters, backslashes, drives and streams
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?<!\.)\Z")


def path_refusal(path: str) -> str | None:
    """Why no file of a bundle may be called so; None if one may.

    >>> path_refusal("model/decoder.onnx")
    >>> path_refusal("../secret")
    'leaves the bundle'
    """
    if not path or _FORBIDDEN.search(path):
        return "is empty or holds a control character, a backslash or a colon"
    if path.startswith("/"):
        return "is absolute: paths are relative to the bundle"
    parts = path.split("/")
    if ".." in parts:
        return "leaves the bundle"
    if "" in parts or "." in parts:
        return "is not normalized"
    if len(path) > MAX_PATH_CHARS or len(parts) > MAX_DEPTH + 1:
        return f"has more than {MAX_PATH_CHARS} characters, or lies more than {MAX_DEPTH} directories deep"
    for part in parts:
        if not _PART.match(part):
            return "holds more than plain letters, digits, '.', '_', '-' and '+', or begins or ends with one of '.-+'"
    return None


def size_refusal(path: str, size_bytes: int) -> str | None:
    """Why a file of this size may not lie at `path`; None if it may.

    >>> size_refusal("run.sh", 1)
    'has no place in a bundle: it holds model/, tokenizer/, engines/, report.json and report.html'
    """
    most = next((most for pattern, most in _KINDS if pattern.match(path)), None)
    if most is None:
        return "has no place in a bundle: it holds model/, tokenizer/, engines/, report.json and report.html"
    return None if size_bytes <= most else f"is larger than {most} bytes, the most for a file of its kind"


def collision(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths that are one where upper and lower case are the same; None if there are none.

    >>> collision(["model/A", "model/b", "Model/a"])
    ('model/A', 'Model/a')
    """
    seen: dict[str, str] = {}
    for path in paths:
        if (other := seen.setdefault(path.lower(), path)) != path:
            return other, path
    return None
