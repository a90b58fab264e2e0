"""How is a file replaced, so that a reader sees all of the old or all of the new, whenever the power goes?

Knows nothing of what is in it. Raises OSError.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

PUBLIC: Final = 0o644


def write_whole(path: Path, payload: bytes, mode: int = PUBLIC) -> None:
    """Put `payload` at `path`, and have it on the disk."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # 0600 from the start
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have on the disk what a file holds, or what was made, renamed or removed in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
