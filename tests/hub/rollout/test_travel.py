"""Who would get what, and how many bytes of it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hub.rollout.contents import read_contents
from hub.rollout.travel import trips, trips_document
from hub.rollout.waves import Seen
from tests.hub.rollout.made import make_bundle
from tests.hub.rollout.scene import order, served


def test_only_what_is_not_there_travels(tmp_path: Path) -> None:
    """A node with the version before takes the rest, one with an unknown bundle everything, one that has it nothing."""
    old = read_contents(make_bundle(tmp_path / "v1"))
    new = read_contents(make_bundle(tmp_path / "v2", version=2, more=b"new"))
    wanted = order(bundle=new.bundle, version=2, to=("all", "late"))
    seen = {
        "before": Seen(is_there=True, bundles=(served(old.bundle, 1),)),
        "other": Seen(is_there=True, bundles=(served("unknown", 1),)),
        "has": Seen(is_there=True, bundles=(served(new.bundle, 2),)),
        "away": Seen(is_there=False, bundles=(served(old.bundle, 1),)),
        "stubborn": Seen(is_there=True, deploys=False),
    }
    found = {trip.node: trip for trip in trips(wanted, new, seen, [old])}
    rest = sum(size for sha256, size in new.blobs.items() if sha256 not in old.blobs)
    assert 0 < rest < 1000
    travels = {name: trip.bytes for name, trip in found.items()}
    whole = new.size_bytes
    assert travels == {"before": rest, "other": whole, "has": 0, "away": rest, "stubborn": whole, "late": whole}
    assert found["has"].wave is None
    assert "takes no bundles" in found["stubborn"].why
    assert found["late"].why == found["away"].why == "is not there: gets it when it comes"
    waves = [trip.wave for trip in trips(wanted, new, seen, [old]) if trip.wave is not None]
    assert waves == sorted(waves)
    document = trips_document(wanted, new, list(found.values()))
    assert (document["travels_bytes"], document["signed"]) == (sum(travels.values()), True)
    assert document["waves"] == max(waves) + 1
    msgspec.json.encode(document)


def test_nobody(tmp_path: Path) -> None:
    """No target is no trip."""
    new = read_contents(make_bundle(tmp_path / "v2"))
    assert trips(order(to=("profile:none",)), new, {"a": Seen(is_there=True, profile="orin")}, []) == []
    assert trips_document(order(), new, [])["waves"] == 0
