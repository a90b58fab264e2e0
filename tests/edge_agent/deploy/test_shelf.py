"""Bundles lie whole on disk, for one agent, and what cannot be read is left aside."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.deploy.record import Placed, Record, Slot, folder_name
from edge_agent.deploy.shelf import Shelf
from edge_agent.errors import DeployError, InputError
from tests.edge_agent.deploy.lossy_disk import QuickDisk, RecordingDisk, write_tree
from tests.edge_agent.deploy.small_bundles import DictFetcher, Node, Small, desired_of, small

V1, V2, V3 = (small(version) for version in (1, 2, 3))


def shelf_of(root: Path, *bundles: Small) -> Path:
    """A directory with these bundles in it, and no record."""
    for one in bundles:
        name = folder_name(one.id, one.manifest.version, one.sha256)
        assert name is not None
        one.write(root / "bundles" / name)
    return root


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


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\x00" * 300, b'{"schema": 1, "more": 2}', b'{"schema": 2}', b"[" * 9999]
)
def test_a_record_that_cannot_be_read_is_moved_aside(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The bundle that was confirmed once serves; what is newer comes again through a Desired."""
    root = shelf_of(tmp_path / "d", V1, V2)
    (root / "record.json").write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        node = Node(root, DictFetcher(V2))
    assert "record.json cannot be read" in caplog.text
    assert (root / "record.json.unreadable").read_bytes() == damage
    assert node.host.serving == {"tiny": V1.id}
    node.deploy(desired_of(V2, 5))
    assert (node.phase, node.host.serving) == ("serving", {"tiny": V2.id})
    node.close()


def test_without_a_record_a_fixed_bundle_goes_before(tmp_path: Path) -> None:
    """What lies on the shelf was perhaps never confirmed; the fixed bundle is what the node was started with."""
    root = shelf_of(tmp_path / "d", V2, V3)
    node = Node(root, DictFetcher(), fixed=[V1.write(tmp_path / "fixed")])
    assert node.host.serving == {"tiny": V1.id}
    node.close()


def test_a_stray_folder_is_no_bundle(tmp_path: Path) -> None:
    """What has another name than the agent gives is not served, nor does it stop the start."""
    V1.write(tmp_path / "d/bundles/my copy")
    (tmp_path / "d/bundles/empty").mkdir()
    (tmp_path / "d/bundles/.old-x/model").mkdir(parents=True)
    (tmp_path / "d/bundles/.old-x/link").symlink_to(tmp_path)
    shelf = Shelf(tmp_path / "d")
    assert shelf.record == Record()
    assert sorted(path.name for path in shelf.bundles.iterdir()) == ["empty", "my copy"]
    assert tmp_path.exists()
    shelf.close()


def test_a_folder_that_somebody_removed_serves_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one before it does; without that the fixed one, or nothing."""
    root = shelf_of(tmp_path / "d", V1)
    name = folder_name(V1.id, 1, V1.sha256)
    assert name is not None
    here = Placed(bundle=V1.id, version=1, manifest=V1.sha256, model="tiny", folder=name, rollout="r1")
    gone = Placed(bundle=V2.id, version=2, manifest=V2.sha256, model="tiny", folder="gone-v2-0", rollout="r2")
    shelf = Shelf(root)
    shelf.save(Record(slots={"tiny": Slot(current=gone, previous=here)}, highest={"tiny": 2}))
    shelf.close()
    node = Node(root, DictFetcher())
    assert node.host.serving == {"tiny": V1.id}
    assert "gone-v2-0 is gone" in caplog.text
    node.close()


def test_a_record_names_no_folder_outside(tmp_path: Path) -> None:
    """Somebody wrote a path into it: it is not read."""
    placed = Placed(bundle="b", version=1, manifest="0" * 64, model="m", folder="../../x", rollout="r")
    shelf = Shelf(tmp_path / "d")
    shelf.save(Record(slots={"m": Slot(current=placed)}))
    shelf.close()
    shelf = Shelf(tmp_path / "d")
    assert shelf.record.slots == {}
    shelf.close()


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
