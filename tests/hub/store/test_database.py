"""What `--store` may say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hub.errors import StoreError
from hub.report.filter import Filter
from hub.store.database import Database, uri_for_reading
from hub.store.reading import read_history
from tests.hub.rows import record
from tests.hub.store.kept import keep


@pytest.mark.parametrize("writing", [True, False])
def test_password_is_not_shown(writing: bool) -> None:
    """A store's URL may hold a password: no message and no name does."""
    with pytest.raises(StoreError) as caught:
        Database("nosuchdb://me:secret@host/x", writing=writing)
    assert "secret" not in str(caught.value)
    assert "secret" not in Database("postgresql://me:secret@host/x", writing=writing).shown


def test_a_driver_that_is_not_installed() -> None:
    """The message says what to install."""
    with pytest.raises(StoreError, match="no store: No module named 'MySQLdb'"):
        Database("mysql://host/x", writing=True)


def test_a_store_in_a_folder_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read as it stands, though it is a WAL file; one that a hub has open is not taken for a still one."""
    store = tmp_path / "a ?b" / "fleet.sqlite"
    store.parent.mkdir()
    keep(str(store), record(id="1"))
    assert "immutable" not in uri_for_reading(str(store))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK or Path(path) != store.parent)
    assert "immutable" in uri_for_reading(str(store))
    store.chmod(0o444)
    store.parent.chmod(0o555)
    assert len(read_history(str(store), Filter())[0]) == 1
    assert [path.name for path in store.parent.iterdir()] == ["fleet.sqlite"]
    store.parent.chmod(0o755)
    Path(f"{store}-wal").touch()
    assert "immutable" not in uri_for_reading(str(store))
