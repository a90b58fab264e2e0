"""Each operation does what it says, on a real disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.deploy.disk import Disk


def test_a_file_is_made_written_and_gone_on_with(tmp_path: Path) -> None:
    """Only a new one is created, only one that is there is appended to, and all bytes are written."""
    disk, path = Disk(), tmp_path / "file"
    handle = disk.create(path)
    disk.write(handle, b"a" * 100_000)
    disk.sync(handle)
    disk.close(handle)
    with pytest.raises(FileExistsError):
        disk.create(path)
    handle = disk.append(path)
    disk.write(handle, b"b")
    disk.close(handle)
    assert path.read_bytes() == b"a" * 100_000 + b"b"
    with pytest.raises(FileNotFoundError):
        disk.append(tmp_path / "none")


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Neither to make a file nor to write to it."""
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    for name in ("link", "dangling"):
        with pytest.raises(OSError, match=r"links|exists"):
            os.close(Disk().append(tmp_path / name))
        with pytest.raises(FileExistsError):
            Disk().create(tmp_path / name)
    assert not (tmp_path / "none").exists()


def test_names_are_given_and_taken(tmp_path: Path) -> None:
    """Renames replace, links add, and directories come and go."""
    disk = Disk()
    disk.mkdir(tmp_path / "d")
    (tmp_path / "d/a").write_text("new")
    (tmp_path / "d/b").write_text("old")
    disk.rename(tmp_path / "d/a", tmp_path / "d/b")
    disk.link(tmp_path / "d/b", tmp_path / "c")
    disk.unlink(tmp_path / "d/b")
    disk.sync_directory(tmp_path / "d")
    disk.rmdir(tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert (tmp_path / "c").read_text() == "new"


def test_blocks_are_shared_or_it_is_said(tmp_path: Path) -> None:
    """Where the file system can, the copy is whole and the original keeps its bytes when the copy is written to."""
    disk = Disk()
    (tmp_path / "a").write_bytes(b"x" * 8192)
    source, handle = os.open(tmp_path / "a", os.O_RDONLY), disk.create(tmp_path / "b")
    shares = disk.clone(handle, source)
    os.close(source)
    disk.close(handle)
    assert (tmp_path / "b").read_bytes() == (b"x" * 8192 if shares else b"")
    (tmp_path / "b").write_bytes(b"y")
    assert (tmp_path / "a").read_bytes() == b"x" * 8192
