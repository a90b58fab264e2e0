"""Files and directories that are whole or not there, and closed to others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hub.errors import ProvisionError
from hub.provision.files import PUBLIC, SECRET, locked, make_folder, write_whole


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    """A secret is its owner's alone, whatever the process allows others."""
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "b", {"key": (b"k", SECRET), "cert": (b"c", PUBLIC)})
    finally:
        os.umask(before)
    assert [mode(tmp_path / "a" / "b" / name) for name in ("", "key", "cert")] == [0o700, 0o600, 0o644]
    assert mode(tmp_path / "a") == 0o700


def test_a_directory_that_is_there_is_kept_or_replaced_as_a_whole(tmp_path: Path) -> None:
    """Nothing of the old is left beside the new, and nothing else is left over."""
    make_folder(tmp_path / "a", {"old": (b"1", SECRET)})
    with pytest.raises(ProvisionError, match="was made by somebody else meanwhile"):
        make_folder(tmp_path / "a", {"new": (b"2", SECRET)})
    assert (tmp_path / "a" / "old").read_bytes() == b"1"
    make_folder(tmp_path / "a", {"new": (b"2", SECRET)}, replace=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


def test_what_is_interrupted_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, or Ctrl-C, in the middle: no half of a file, no half of a directory."""
    write_whole(tmp_path / "file", b"old", SECRET)
    make_folder(tmp_path / "folder", {"file": (b"old", SECRET)})
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fail(_: int, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises((ProvisionError, KeyboardInterrupt)):
            write_whole(tmp_path / "file", b"new", SECRET)
        with pytest.raises((ProvisionError, KeyboardInterrupt)):
            make_folder(tmp_path / "folder", {"file": (b"new", SECRET)}, replace=True)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert found == {"file", "folder", "folder/file"}
    assert {(tmp_path / name).read_bytes() for name in ("file", "folder/file")} == {b"old"}


def test_errors_are_one_line_with_the_path(tmp_path: Path) -> None:
    """Also where nothing can be locked."""
    with pytest.raises(ProvisionError, match=r"none: No such file"), locked(tmp_path / "none"):
        pass
