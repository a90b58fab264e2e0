"""Bundles lie whole on disk, for one agent."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.deploy.record import Record
from edge_agent.deploy.shelf import Shelf
from edge_agent.errors import DeployError, InputError
from tests.edge_agent.deploy.lossy_disk import QuickDisk, RecordingDisk, write_tree
from tests.edge_agent.deploy.small_bundles import DictFetcher, Node, desired_of, small

V1, V2 = small(1), small(2)


def test_what_was_saved_outlives_a_power_cut(tmp_path: Path) -> None:
    """Once `save` has returned, no loss of what was not synced takes it back."""
    Shelf(tmp_path / "d", disk=QuickDisk()).close()
    (tmp_path / "d" / "lock").unlink()
    disk = RecordingDisk(tmp_path / "d")
    shelf = Shelf(tmp_path / "d", disk=disk)
    shelf.save(Record(highest={"tiny": 1}))
    shelf.save(Record(highest={"tiny": 2}))
    shelf.close()
    states = list(enumerate(disk.power_cuts(len(disk.ops), random.Random(1))))
    for number, tree in states:
        write_tree(tree, tmp_path / str(number))
        left = Shelf(tmp_path / str(number))
        assert left.record.highest == {"tiny": 2}
        left.close()
    assert states


def test_two_agents_never_share_a_directory(tmp_path: Path) -> None:
    """Another process is turned away while this one has it, and comes in when it has ended."""
    shelf = Shelf(tmp_path / "d")
    script = (
        f"from pathlib import Path; from edge_agent.deploy.shelf import Shelf; Shelf(Path({str(tmp_path / 'd')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "is used by another agent: give each its own --deployments" in done.stderr
    shelf.close()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_place_that_is_none_is_an_error_of_one_line(tmp_path: Path) -> None:
    """A file where the directory should be."""
    (tmp_path / "d").write_text("")
    with pytest.raises(InputError, match=r"deployments cannot be kept in .*: choose another --deployments"):
        Shelf(tmp_path / "d")


def test_files_that_another_bundle_has_are_copied_and_no_links(tmp_path: Path) -> None:
    """Each bundle has inodes of its own, so that damage to one is none to the other."""
    node = Node(tmp_path / "d", DictFetcher(V1, V2))
    node.deploy(desired_of(V1, 1))
    node.deploy(desired_of(V2, 2))
    inodes = [path.stat() for path in node.shelf.bundles.rglob("*") if path.is_file()]
    assert len({one.st_ino for one in inodes}) == len(inodes) == 8
    assert all(one.st_nlink == 1 for one in inodes)
    node.close()


def test_room_is_asked_for_with_figures(tmp_path: Path) -> None:
    """What has come already is not asked for again."""
    shelf = Shelf(tmp_path / "d", margin_bytes=0)
    shelf.part("0" * 64).write_bytes(b"x" * 10)
    assert shelf.still_needed({"0" * 64: 10}) == {"0" * 64: 10}
    with pytest.raises(
        DeployError, match=r"1152921504606846976 bytes and 0 to spare are needed .* are free: make room"
    ):
        shelf.still_needed({"1" * 64: 1 << 60})
    shelf.close()
