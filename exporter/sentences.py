"""On which texts is an encoder calibrated and judged where no file is given?

An encoder writes no text of its own, so some come with this package: plain English sentences, written for it, of
everyday facts, requests and remarks (`sentences.txt`). They stand for no field of use: a verdict on one's own texts
needs `--eval`. Does not know any tokenizer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

_FILE: Final = Path(__file__).with_name("sentences.txt")


class Sentences(msgspec.Struct, frozen=True):
    """Sentences of which none is in both halves, and where they come from."""

    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]
    origin: str


def sentences() -> Sentences:
    """The sentences of this package, in turn to evaluation and to calibration."""
    content = _FILE.read_bytes()
    lines = content.decode("utf-8").splitlines()
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Sentences(
        calibration=tuple(lines[1::2]),
        evaluation=tuple(lines[0::2]),
        origin=f"sentences that come with edgefleet, sha256:{digest}",
    )
