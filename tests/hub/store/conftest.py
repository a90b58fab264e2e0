"""Stores of both kinds that are supported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgresql import PostgreSQL


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store, once of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "fleet.sqlite")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.url
