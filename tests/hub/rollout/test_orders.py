"""Where orders lie: each name once, one rollout of a model at a time, one hub that carries out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub import wire
from hub.errors import RolloutError
from hub.rollout.order import NodeProgress, Progress
from hub.rollout.orders import Orders
from tests.hub.rollout.scene import order


def test_what_was_ordered_is_found_again(tmp_path: Path) -> None:
    """The oldest first, with how far each is; at its beginning where no hub has written of it."""
    orders = Orders(tmp_path / "site")
    assert orders.all() == []
    orders.begin(order(name="b", at_s=1.0), replace=False)
    orders.write_progress("b", Progress(status="done", nodes={"n": NodeProgress(wave=0, stage="serving")}))
    orders.begin(order(name="a", at_s=2.0), replace=False)
    assert [(each.name, progress.status) for each, progress in Orders(tmp_path / "site").all()] == [
        ("b", "done"),
        ("a", "waiting"),
    ]


def test_a_name_is_used_once(tmp_path: Path) -> None:
    """Also where the first one is over."""
    orders = Orders(tmp_path)
    orders.begin(order(), replace=False)
    orders.write_progress("r1", Progress(status="done"))
    with pytest.raises(RolloutError, match="another --name"):
        orders.begin(order(), replace=True)


def test_one_rollout_of_a_model_at_a_time(tmp_path: Path) -> None:
    """A second is refused or stops the first; another model's is neither."""
    orders = Orders(tmp_path)
    orders.begin(order(), replace=False)
    orders.begin(order(name="other", replaces="other"), replace=False)
    with pytest.raises(RolloutError, match="'r1' of smol is not over"):
        orders.begin(order(name="r2"), replace=False)
    assert orders.names() == ["other", "r1"]
    orders.begin(order(name="r2"), replace=True)
    assert (orders.stop_of("r1"), orders.stop_of("other")) == ("replaced by r2", None)


def test_stopping(tmp_path: Path) -> None:
    """The first reason counts; what has ended cannot be stopped, nor what is not there."""
    orders = Orders(tmp_path)
    orders.begin(order(), replace=False)
    orders.stop("r1", "by hand")
    orders.stop("r1", "again")
    assert orders.stop_of("r1") == "by hand"
    orders.write_progress("r1", Progress(status="done"))
    with pytest.raises(RolloutError, match="is done"):
        orders.stop("r1", "late")
    for name in ("r9", "../r1", ""):
        with pytest.raises(RolloutError, match="there is no rollout"):
            orders.stop(name, "x")


def test_bundles_in_use_stay(tmp_path: Path) -> None:
    """As long as a rollout brings one."""
    orders = Orders(tmp_path)
    orders.begin(order(), replace=False)
    with pytest.raises(RolloutError, match="is bringing smol-orin-1-v2"):
        orders.refuse_in_use("smol-orin-1-v2")
    orders.refuse_in_use("smol-orin-1-v1")
    orders.write_progress("r1", Progress(status="done"))
    with pytest.raises(RolloutError, match="to nodes that come late"):
        orders.refuse_in_use("smol-orin-1-v2")
    orders.begin(order(name="r2", at_s=2.0, bundle="smol-orin-2", version=3), replace=False)
    orders.refuse_in_use("smol-orin-1-v2")
    orders.write_progress("r1", Progress(status="stopped"))
    orders.refuse_in_use("smol-orin-1-v2")


def test_what_is_left_of_a_removed_order_is_not_believed(tmp_path: Path) -> None:
    """A damaged order is to be removed, and its name comes again with the next deployment."""
    orders = Orders(tmp_path)
    orders.begin(order(), replace=False)
    orders.stop("r1", "by hand")
    orders.write_progress("r1", Progress(status="done"))
    (tmp_path / "rollouts" / "r1.json").unlink()
    orders.begin(order(), replace=False)
    assert (orders.progress("r1"), orders.stop_of("r1")) == (Progress(), None)


def test_only_one_carries_out(tmp_path: Path) -> None:
    """Until it ends: then the other may."""
    first = Orders(tmp_path).only_one()
    assert first is not None
    assert Orders(tmp_path).only_one() is None
    first.close()
    again = Orders(tmp_path).only_one()
    assert again is not None
    again.close()


def test_damaged_files_are_said(tmp_path: Path) -> None:
    """With name and what to do; an order of a later version is not half understood."""
    orders = Orders(tmp_path)
    orders.begin(order(), replace=False)
    (tmp_path / "rollouts" / "r1.json").write_text('{"name": "r1", "more": 1}')
    with pytest.raises(RolloutError, match=r"r1\.json is damaged"):
        orders.order("r1")


@pytest.mark.parametrize("folder", ["rollouts", "progress"])
def test_a_damaged_rollout_stands_in_nobodys_way(tmp_path: Path, folder: str) -> None:
    """The others are found and more can be ordered; its name stays taken, and no bundle goes that it may bring."""
    orders = Orders(tmp_path)
    for name, model in (("r1", "smol"), ("other", "other")):
        orders.begin(order(name=name, replaces=model), replace=False)
        orders.write_progress(name, Progress(status="done"))
    path = tmp_path / folder / "r1.json"
    path.write_bytes(path.read_bytes()[:20])
    orders.begin(order(name="r2"), replace=False)
    assert [each.name for each, _ in orders.all()] == ["other", "r2"]
    (why,) = orders.damaged().values()
    assert "r1.json is damaged" in why
    with pytest.raises(RolloutError, match="another --name"):
        orders.begin(order(name="r1"), replace=False)
    with pytest.raises(RolloutError, match="is damaged"):
        orders.refuse_in_use("smol-orin-1-v9")


@pytest.mark.parametrize(
    "changes",
    [
        {"silent_s": float("inf")},
        {"silent_s": float("nan")},
        {"trial": wire.Trial(seconds=float("nan"))},
        {"replaces": "m" * 257},
        {"replaces": ""},
        {"replaces": "\udcff"},
    ],
)
def test_what_could_not_be_read_again_is_not_ordered(tmp_path: Path, changes: dict[str, object]) -> None:
    """It would stand in the way of every other rollout."""
    orders = Orders(tmp_path)
    orders.begin(order(name="r0", replaces="other"), replace=False)
    with pytest.raises(RolloutError, match="'r1' cannot be ordered"):
        orders.begin(order(**changes), replace=True)
    assert [each.name for each, _ in orders.all()] == ["r0"]
    assert orders.stop_of("r0") is None
