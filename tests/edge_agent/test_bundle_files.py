"""Reading a stranger's directory, and replacing one in one step; what is refused is in test_bundle and end_to_end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent import bundle_files
from edge_agent.bundle_files import describe, exchange, listing, put_in_place, read_whole
from edge_agent.errors import BundleError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "b" / "model").mkdir(parents=True)
    (tmp_path / "b" / "model" / "w.data").write_bytes(b"12345")
    (tmp_path / "b" / "report.json").write_bytes(b"{}")
    return tmp_path / "b"


def test_a_listing_has_every_file_with_its_size(root: Path) -> None:
    """Sorted, so that two walks give the same."""
    assert list(listing(root).items()) == [("model/w.data", 5), ("report.json", 2)]


def test_too_many_files_are_not_all_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a million files costs no more than the bound."""
    monkeypatch.setattr(bundle_files, "MAX_FILES", 1)
    with pytest.raises(BundleError, match="more than 1 files"):
        listing(root)


def test_the_whole_has_a_bound(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many files of the largest size are no bundle."""
    monkeypatch.setattr(bundle_files, "MAX_TOTAL_BYTES", 6)
    with pytest.raises(BundleError, match="7 bytes in all"):
        listing(root)


def test_a_name_that_is_no_text_is_refused(root: Path) -> None:
    """In words that can be printed."""
    (root / "model" / os.fsdecode(b"\xff")).write_bytes(b"")
    with pytest.raises(BundleError, match="holds more than plain letters") as refusal:
        listing(root)
    assert str(refusal.value).isprintable()


def test_a_file_is_described_and_read(root: Path) -> None:
    """Size and hash; and the bytes, where they are few enough."""
    assert describe(root, "report.json").sha256.startswith("44136fa3")
    assert read_whole(root, "report.json", 2) == b"{}"
    with pytest.raises(BundleError, match="larger than 1 bytes"):
        read_whole(root, "report.json", 1)


def test_what_is_put_in_place_is_whole(root: Path, tmp_path: Path) -> None:
    """With the files that come with it."""
    put_in_place(root, tmp_path / "out", {"manifest.json": b"m"})
    assert sorted(listing(tmp_path / "out")) == ["manifest.json", "model/w.data", "report.json"]
    assert not root.exists()


def test_two_directories_change_places(root: Path, tmp_path: Path) -> None:
    """In one step: there is no moment without either."""
    (tmp_path / "other").mkdir()
    exchange(tmp_path / "other", root)
    assert list(root.iterdir()) == []
    assert (tmp_path / "other" / "report.json").exists()


def test_an_exchange_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """With the directory and why."""
    with pytest.raises(BundleError, match="gone cannot be replaced in one step: No such file"):
        exchange(tmp_path / "none", tmp_path / "gone")
