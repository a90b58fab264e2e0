"""Older stores become today's, newer ones are refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from hub.errors import StoreError
from hub.report.filter import Filter
from hub.store.database import Database
from hub.store.migrate import VERSION_TABLE, VERSIONS
from hub.store.reading import read_history, read_question
from hub.store.records import Records
from tests.hub.rows import record
from tests.hub.store.kept import keep, rows_of

OLD_STORE = """
CREATE TABLE edgefleet_schema (version INTEGER NOT NULL);
INSERT INTO edgefleet_schema VALUES (1);
CREATE TABLE questions ({serial}, wall_time_s FLOAT NOT NULL, device VARCHAR(64) NOT NULL,
  id VARCHAR(128) NOT NULL, hub VARCHAR(64) NOT NULL, outcome VARCHAR(16) NOT NULL, node VARCHAR(64),
  bundle VARCHAR(256), model VARCHAR(256), task TEXT NOT NULL, attempts INTEGER NOT NULL, duplicates INTEGER NOT NULL,
  question_bytes INTEGER NOT NULL, prompt_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL,
  completion_tokens BIGINT NOT NULL, predicted_ms FLOAT, total_ms FLOAT NOT NULL, network_ms FLOAT NOT NULL,
  queue_ms FLOAT NOT NULL, prefill_ms FLOAT NOT NULL, decode_ms FLOAT NOT NULL, decisions TEXT NOT NULL,
  PRIMARY KEY (seq));
CREATE INDEX ix_questions_wall_time_s ON questions (wall_time_s);
CREATE INDEX ix_questions_id ON questions (id);
INSERT INTO questions (wall_time_s, device, id, hub, outcome, node, bundle, model, task, attempts, duplicates,
  question_bytes, prompt_tokens, cached_tokens, completion_tokens, predicted_ms, total_ms, network_ms, queue_ms,
  prefill_ms, decode_ms, decisions)
VALUES (1000.0, 'kitchen', 'old', 'hub', 'answered', 'a', 'b', 'm', 't', 1, 0, 20, 37, 0, 8,
  110.0, 100.0, 10.0, 5.0, 45.0, 40.0,
  '[{{"device":"kitchen","id":"old","attempt":1,"chosen":null,"candidates":[],"rejected":[{{"node":"b","reason":"gone"}}]}}]'),
  (1001.0, 'kitchen', 'own', 'hub', 'answered', 'a', 'b', 'm', 't', 0, 0, 20, 37, 0, 8,
  NULL, 100.0, 10.0, 5.0, 45.0, 40.0, '[]');
"""
SECOND = """
ALTER TABLE questions ADD COLUMN hedged BOOLEAN NOT NULL DEFAULT {false};
UPDATE questions SET hedged = {true} WHERE id = 'old';
UPDATE edgefleet_schema SET version = 2;
"""


def make_old(store: str, version: int) -> None:
    """A store as it was written before alembic."""
    database = Database(store, writing=True)
    words = {"serial": "seq INTEGER NOT NULL", "false": "0", "true": "1"}
    if not database.is_sqlite:
        words = {"serial": "seq BIGSERIAL NOT NULL", "false": "false", "true": "true"}
    with database.engine.begin() as connection:
        for script in (OLD_STORE, SECOND)[:version]:
            for statement in script.format(**words).split(";\n"):
                if statement.strip():
                    connection.exec_driver_sql(statement)
    database.engine.dispose()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("first", ["writing", "reading"])
def test_older_stores_become_todays(store: str, version: int, first: str) -> None:
    """Their rows stay, with all that they told, and new ones follow."""
    make_old(store, version)
    if first == "reading":
        assert len(read_history(store, Filter())[0]) == 2
    keep(store, record(id="new", second="silence"), at=2000.0)
    rows = rows_of(store)
    assert [(row.id, row.second) for row in rows] == [
        ("old", "hedge" * (version == 2)),
        ("own", ""),
        ("new", "silence"),
    ]
    assert [len(row.decisions) for row in rows] == [1, 0, 0]
    assert rows[0].decisions[0].rejected[0].reason == "gone"
    assert read_history(store, Filter())[0].local.tolist() == [False, True, False]


def test_a_migration_is_all_or_nothing(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in the middle leaves the store as it was, and it can be tried again."""
    make_old(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr("alembic.command.upgrade", _fail_halfway)
        with pytest.raises(StoreError, match="cannot open the record store"):
            Records(store, "hub")
    keep(store, record(id="new"), at=2000.0)
    assert [row.id for row in rows_of(store)] == ["old", "own", "new"]


def _fail_halfway(config: object, _: str) -> None:
    connection = config.attributes["connection"]  # type: ignore[attr-defined]
    connection.exec_driver_sql("ALTER TABLE questions ADD COLUMN hedged BOOLEAN")
    connection.exec_driver_sql("SELECT * FROM nowhere")


def test_every_version_is_named() -> None:
    """In order, up to today's."""
    config = Config()
    config.set_main_option("script_location", "hub.store:migrations")
    steps = ScriptDirectory.from_config(config).walk_revisions()
    assert tuple(reversed([step.revision for step in steps])) == VERSIONS


def test_newer_versions_are_refused(store: str) -> None:
    """Neither reading nor writing touches a store of a version that is not known."""
    keep(store, record(id="1"))
    database = Database(store, writing=True)
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    database.engine.dispose()
    for use in (
        lambda: Records(store, "hub"),
        lambda: read_history(store, Filter()),
        lambda: read_question(store, "1"),
    ):
        with pytest.raises(StoreError, match="version 9999, this edgefleet knows 0003"):
            use()


def test_newer_versions_of_before_are_refused(tmp_path: Path) -> None:
    """By the number that they had then."""
    store = str(tmp_path / "fleet.sqlite")
    make_old(store, 1)
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE edgefleet_schema SET version = 7")
    for use in (lambda: Records(store, "hub"), lambda: read_history(store, Filter())):
        with pytest.raises(StoreError, match="version 0007, this edgefleet knows 0003"):
            use()


def test_an_older_program_refuses_todays(tmp_path: Path) -> None:
    """It looks for its own table, which says a version that it does not know."""
    store = str(tmp_path / "fleet.sqlite")
    keep(store)
    with sqlite3.connect(store) as connection:
        assert connection.execute("SELECT version FROM edgefleet_schema").fetchall() == [(3,)]


def test_an_older_store_that_cannot_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads it is told why that takes a change, and what to do."""
    store = str(tmp_path / "fleet.sqlite")
    make_old(store, 2)

    def refuse(*_: object) -> None:
        raise sa.exc.OperationalError("BEGIN", {}, sqlite3.OperationalError("attempt to write a readonly database"))

    monkeypatch.setattr("hub.store.migrate._wait_for_others", refuse)
    with pytest.raises(StoreError, match=r"readonly database \(an older version .* read a copy"):
        read_history(store, Filter())
