"""What is kept is read or refused in one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.errors import RolloutError
from hub.rollout.kept import read_kept, told


def test_what_is_there_is_read(tmp_path: Path) -> None:
    """And what is not there is nothing."""
    (tmp_path / "f").write_text("[1, 2]")
    assert read_kept(tmp_path / "f", list[int], "remove it") == [1, 2]
    assert read_kept(tmp_path / "none", list[int], "remove it") is None


@pytest.mark.parametrize("damage", [b"", b"[1", b'["a"]', b"\xff\xfe", b"[" * 5000])
def test_what_is_damaged_is_told_with_the_file(tmp_path: Path, damage: bytes) -> None:
    """In one line."""
    (tmp_path / "f").write_bytes(damage)
    with pytest.raises(RolloutError, match=r"f is damaged .*: remove it") as refused:
        read_kept(tmp_path / "f", list[int], "remove it")
    assert "\n" not in str(refused.value)


def test_what_the_file_system_refuses_is_told(tmp_path: Path) -> None:
    """With the file that it is about."""
    with pytest.raises(RolloutError, match="cannot be read: Is a directory"):
        read_kept(tmp_path, list[int], "remove it")
    with pytest.raises(RolloutError, match="none: No such file"), told(tmp_path):
        (tmp_path / "none").read_bytes()
