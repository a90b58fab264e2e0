"""How is what a hub keeps of rollouts read, and what does the file system refuse? One line for each.

Knows nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from hub.errors import RolloutError

T = TypeVar("T")


def read_kept(path: Path, kind: type[T], advice: str) -> T | None:
    """The value in a file; None where there is none. Raises RolloutError, with `advice` for a damaged one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RolloutError(f"{path} cannot be read: {error.strerror or error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RolloutError(f"{path} is damaged ({error}): {advice}") from None


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Raise RolloutError for what the file system refuses."""
    try:
        yield
    except OSError as error:
        raise RolloutError(f"{error.filename or path}: {error.strerror or error}") from None
