"""Who has a certificate that counts."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import ProvisionError
from hub.provision import register
from hub.provision.register import BrokerPlace, Entry, Register
from hub.provision.subject import Subject

NOW = dt.datetime(2026, 11, 26, tzinfo=dt.timezone.utc)
KITCHEN, NODE, TWIN = Subject("device", "kitchen"), Subject("node", "n1", "den"), Subject("hub", "kitchen")


def of(*entries: tuple[Subject, str]) -> Register:
    made = Register()
    for subject, serial in entries:
        made = register.added(made, Entry(subject, serial, NOW))
    return made


def test_renewed_and_revoked() -> None:
    """A renewal leaves one that counts; who is revoked has none, until the next."""
    twice = register.revoked(of((KITCHEN, "1"), (NODE, "2"), (KITCHEN, "3")), KITCHEN, NOW, "superseded", but="3")
    assert [each.reason for each in twice.entries] == ["superseded", None, None]
    assert register.living(twice) == [KITCHEN, NODE]
    gone = register.revoked(twice, KITCHEN, NOW, "key_compromise")
    assert [each.reason for each in gone.entries] == ["superseded", None, "key_compromise"]
    assert register.living(gone) == [NODE]
    assert register.living(register.added(gone, Entry(KITCHEN, "4", NOW))) == [KITCHEN, NODE]
    assert gone.changes == 5


def test_names_that_mean_one_identity() -> None:
    """By name, or with the role before it; more than one is told, and so is none."""
    known = of((KITCHEN, "1"), (TWIN, "2"), (NODE, "3"))
    assert register.named(known, "n1") == register.named(known, "node-n1") == NODE
    assert register.named(known, "hub-kitchen") == TWIN
    assert register.of_role(known, "device", "kitchen") == KITCHEN
    with pytest.raises(ProvisionError, match="device-kitchen, hub-kitchen"):
        register.named(known, "kitchen")
    for look in (lambda: register.named(known, "x"), lambda: register.of_role(known, "hub", "n1")):
        with pytest.raises(ProvisionError, match="no "):
            look()


def test_its_file() -> None:
    """What is written is read; what is no register is refused, unknown keys too."""
    full = msgspec.structs.replace(of((NODE, "a")), broker=BrokerPlace(("h",), 8883, "/etc/m", 10))
    assert register.decode(register.encode(full)) == full
    for data in (b"", b"{", b'{"entries": 1}', b'{"unknown": 1}', b'{"entries": [{"subject": {}}]}'):
        with pytest.raises(ProvisionError, match="restore a backup"):
            register.decode(data)


@given(st.lists(st.tuples(st.sampled_from([KITCHEN, NODE, TWIN]), st.sampled_from(["add", "revoke"])), max_size=12))
def test_who_counts_is_whoever_was_issued_last_and_not_revoked(steps: list[tuple[Subject, str]]) -> None:
    """Whatever happens in whatever order."""
    now, expected = Register(), set()
    for number, (subject, step) in enumerate(steps):
        if step == "add":
            now = register.added(now, Entry(subject, f"{number:x}", NOW))
            expected.add(subject.identity)
        else:
            now = register.revoked(now, subject, NOW, "superseded")
            expected.discard(subject.identity)
    assert [each.identity for each in register.living(now)] == sorted(expected)
    assert register.decode(register.encode(now)) == now
