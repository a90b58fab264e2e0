"""A file is replaced as a whole, or stays as it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hub.whole_file import sync, write_whole


def test_written_whole(tmp_path: Path) -> None:
    """It is replaced, never opened for writing: who reads meanwhile sees the old or the new; nothing else is left."""
    path = tmp_path / "f"
    write_whole(path, b"one")
    with path.open("rb") as before:
        write_whole(path, b"two", 0o600)
        assert before.read() == b"one"
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_the_folder_is_synced_after_the_file_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after that loses nothing: first the bytes, then the name."""
    synced: list[tuple[bool, bool]] = []
    real = os.fsync

    def note(handle: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "f").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", note)
    write_whole(tmp_path / "f", b"one")
    assert synced == [(False, False), (True, True)]


def test_what_cannot_be_written_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing beside it."""
    write_whole(tmp_path / "f", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "f", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
    with pytest.raises(OSError, match="No space"):
        sync(tmp_path)
