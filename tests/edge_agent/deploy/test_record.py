"""The record says which folders are needed, and forbids what it does not know."""

from __future__ import annotations

import msgspec
import pytest

from edge_agent.deploy.record import Placed, Record, Slot, folder_name
from tests.edge_agent.deploy.small_bundles import desired_of, small

OLD = Placed(bundle="a", version=1, manifest="0" * 64, model="m", folder="a-v1-00000000", rollout="r")
NEW = Placed(bundle="b", version=2, manifest="1" * 64, model="m", folder="b-v2-11111111", rollout="r")


def test_a_record_comes_back_as_it_went() -> None:
    """With a Desired, which is a message of the wire, inside."""
    record = Record(desired=desired_of(small(1), 4), slots={"m": Slot(trial=NEW, current=OLD)}, highest={"m": 1})
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record
    assert (record.epoch, Record().epoch) == (4, -1)


def test_what_is_on_trial_serves_and_all_that_may_serve_again_is_kept() -> None:
    """The trial before the current, nobody for a fixed bundle."""
    slot = Slot(trial=NEW, current=OLD)
    assert (slot.serving, Slot(current=OLD).serving, Slot().serving) == (NEW, OLD, None)
    assert Record(slots={"m": slot, "n": Slot(previous=OLD)}).kept() == {OLD.folder, NEW.folder}


@pytest.mark.parametrize("folder", ["", ".", "..", "../x", "a/b", ".hidden", "a\n", "/etc"])
def test_a_folder_is_a_plain_name(folder: str) -> None:
    """A record that names anything else is none."""
    said = msgspec.json.encode(msgspec.structs.replace(OLD, folder=folder))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(said, type=Placed)


@pytest.mark.parametrize("bundle", ["", "..", "a/b", "a b", "-a", "ä", "x" * 201, "a\n"])
def test_a_bundle_of_another_name_has_no_folder(bundle: str) -> None:
    """The id comes from the network."""
    assert folder_name(bundle, 1, "0" * 64) is None
