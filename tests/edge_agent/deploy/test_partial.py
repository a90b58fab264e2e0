"""What an answer's status and headers mean for a file that has come in part."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edge_agent.deploy.disk import Disk
from edge_agent.deploy.partial import Blob, Broken, Partial, Wrong

DATA = bytes(range(100))
BLOB = Blob(hashlib.sha256(DATA).hexdigest(), 100)


def partial(path: Path, have: int = 0) -> Partial:
    if have:
        path.write_bytes(DATA[:have])
    one = Partial(BLOB, path, Disk())
    one.open("a")
    return one


def test_a_rest_goes_behind_what_is_there(tmp_path: Path) -> None:
    """The range that was asked for, and no other."""
    one = partial(tmp_path / "p", 40)
    one.answered(206, {"Content-Range": "bytes 40-99/100"})
    one.add(DATA[40:])
    one.ended()
    assert one.is_complete
    assert one.finish("a") == 100
    assert (tmp_path / "p").read_bytes() == DATA


@pytest.mark.parametrize(
    "said",
    ["", "bytes 0-99/100", "bytes 41-99/100", "bytes 40-98/100", "bytes 40-99/101", "bytes 40-99/*", "40-99/100"],
)
def test_any_other_range_is_wrong(tmp_path: Path, said: str) -> None:
    """It would put bytes where they do not belong."""
    with pytest.raises(Wrong):
        partial(tmp_path / "p", 40).answered(206, {"Content-Range": said})


def test_the_whole_takes_the_place_of_a_part(tmp_path: Path) -> None:
    """A server that knows no ranges sends all again."""
    one = partial(tmp_path / "p", 40)
    one.answered(200, {})
    one.add(DATA)
    assert one.finish("a") == 100


def test_a_part_that_is_none_is_dropped_on_416(tmp_path: Path) -> None:
    """The next request begins anew."""
    one = partial(tmp_path / "p", 40)
    with pytest.raises(Broken, match="416"):
        one.answered(416, {})
    assert (one.have, (tmp_path / "p").exists()) == (0, False)


def test_who_alone_gave_other_bytes_is_wrong_and_a_mixture_is_nobodys_fault(tmp_path: Path) -> None:
    """After a mixture, the bytes of two sources are not put together again."""
    one = partial(tmp_path / "p", 40)
    one.add(bytes(60))
    with pytest.raises(Broken, match="beginning anew"):
        one.finish("a")
    one.open("a")
    one.add(DATA[:50])
    one.close()
    one.open("b")
    assert one.have == 0
    one.add(bytes(100))
    with pytest.raises(Wrong, match="other bytes"):
        one.finish("b")
    assert not (tmp_path / "p").exists()


def test_too_much_is_never_written(tmp_path: Path) -> None:
    """One byte more than there should be, and all goes."""
    one = partial(tmp_path / "p")
    one.add(DATA)
    with pytest.raises(Wrong, match="more than 100 bytes"):
        one.add(b"x")
    assert not (tmp_path / "p").exists()
