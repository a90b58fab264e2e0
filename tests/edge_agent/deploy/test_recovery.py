"""A node starts with a whole bundle, whatever became of its record."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge_agent.deploy.record import Placed, Record, Slot, folder_name
from edge_agent.deploy.shelf import Shelf
from edge_agent.errors import InputError
from tests.edge_agent.deploy.small_bundles import DictFetcher, Node, Small, desired_of, small

V1, V2, V3 = (small(version) for version in (1, 2, 3))


def shelf_of(root: Path, *bundles: Small) -> Path:
    """A directory with these bundles in it, and no record."""
    for one in bundles:
        name = folder_name(one.id, one.manifest.version, one.sha256)
        assert name is not None
        one.write(root / "bundles" / name)
    return root


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\x00" * 300, b'{"schema": 1, "more": 2}', b'{"schema": 0}', b"[" * 9999]
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


def test_a_record_of_a_newer_edgefleet_is_left_alone(tmp_path: Path) -> None:
    """An agent that was downgraded must not forget which versions and epochs there were: it does not start."""
    root = shelf_of(tmp_path / "d", V1)
    (root / "record.json").write_bytes(b'{"schema": 2, "epochs": []}')
    with pytest.raises(InputError, match="has schema 2, this edgefleet reads 1"):
        Shelf(root)
    assert (root / "record.json").read_bytes() == b'{"schema": 2, "epochs": []}'
    with pytest.raises(InputError, match="schema 2"):  # not the lock of the one before
        Shelf(root)


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
    slots = {"tiny": Slot(current=gone, previous=here)}
    shelf.save(Record(desired=desired_of(V2, 1), phase="serving", slots=slots, highest={"tiny": 2}))
    shelf.close()
    node = Node(root, DictFetcher())
    assert node.host.serving == {"tiny": V1.id}
    assert (node.phase, node.why) == ("undone", "the folder of the bundle that served is gone")
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
