"""What `--store` may say."""

from __future__ import annotations

import pytest

from hub.errors import StoreError
from hub.store.database import Database


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
