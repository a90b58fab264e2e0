"""The story of a fleet's identities, on real directories."""

from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509

from hub import whole_file
from hub.broker_url import read_secret
from hub.errors import ProvisionError
from hub.provision import fleet as module
from hub.provision.fleet import Fleet, init, is_protected, reload
from hub.provision.register import BrokerPlace
from hub.provision.subject import Subject

NOW = dt.datetime(2026, 11, 26, tzinfo=dt.timezone.utc)
KITCHEN = Subject("device", "kitchen")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    init(tmp_path / "fleet", None, NOW)
    return Fleet(tmp_path / "fleet", None)


def serials(path: Path) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl(path.read_bytes())}


def serial(folder: Path) -> int:
    return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes()).serial_number


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    """Again, or where anything else is, it is refused and nothing is touched."""
    folder = tmp_path / "fleet"
    init(folder, b"passphrase", NOW)
    assert is_protected(folder)
    before = everything(folder)
    with pytest.raises(ProvisionError, match="there already"):
        init(folder, None, NOW)
    assert everything(folder) == before
    (tmp_path / "other").write_text("mine")
    with pytest.raises(ProvisionError, match="there already"):
        init(tmp_path / "other", None, NOW)
    for path in [folder, *folder.rglob("*")]:
        is_secret = path.name not in ("ca.pem", "crl.pem")
        assert stat.S_IMODE(path.stat().st_mode) & (0o077 if is_secret else 0o022) == 0


def test_an_authority_is_not_made_under_ones_feet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory that one is in cannot be put in place whole: that is said, and nothing is left."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (Path(), tmp_path / "here"):
        with pytest.raises(ProvisionError, match="is the directory that you are in: give another --fleet DIR"):
            init(folder, None, NOW)
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_an_interrupted_start_can_be_said_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is there after it, and the next call makes a whole authority."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(whole_file, "sync", stop)
        with pytest.raises(KeyboardInterrupt):
            init(tmp_path / "fleet", None, NOW)
    assert list(tmp_path.iterdir()) == []
    init(tmp_path / "fleet", None, NOW)
    Fleet(tmp_path / "fleet", None)


def test_a_fleet_that_is_not_there(tmp_path: Path) -> None:
    """Says how to make one."""
    with pytest.raises(ProvisionError, match="provision init"):
        Fleet(tmp_path, None)


def test_issued_again_it_is_renewed(fleet: Fleet) -> None:
    """The directory has the new certificate, the old one is revoked, unless it is to be kept."""
    first = serial(fleet.issue(KITCHEN, NOW, days=10))
    second = serial(fleet.issue(KITCHEN, NOW, days=10))
    crl = fleet.folder / "crl.pem"
    assert serials(crl) == {first}
    third = serial(fleet.issue(KITCHEN, NOW, days=10, keep_old=True))
    assert serials(crl) == {first}
    assert fleet.revoke("kitchen", None, "key_compromise", NOW) == KITCHEN
    assert serials(crl) == {first, second, third}
    with pytest.raises(ProvisionError, match="no identity"):
        fleet.revoke("kitchen", None, "key_compromise", NOW)


def test_secrets_are_of_each_node_and_of_all_hubs(fleet: Fleet) -> None:
    """Hubs inherit each other's sessions, so they say the same; nobody else does, and a renewed node has a new one."""
    subjects = [Subject("hub", "a"), Subject("hub", "b"), Subject("node", "a"), Subject("node", "b")]
    of = [read_secret(fleet.issue(subject, NOW, days=1) / "session.key") for subject in subjects]
    assert of[0] == of[1]
    assert len(set(of)) == 3
    assert read_secret(fleet.issue(subjects[2], NOW, days=1) / "session.key") != of[2]
    assert not (fleet.issue(KITCHEN, NOW, days=1) / "session.key").exists()


def test_the_broker_hears_of_every_change(fleet: Fleet) -> None:
    """Rules and list are those of now, and who connects is told where."""
    folder = fleet.set_broker(BrokerPlace(("b.example", "10.0.0.1"), 8884, "/etc/mosquitto/fleet", 100), NOW, 10)
    assert "user " not in (folder / "acl").read_text()
    issued = fleet.issue(KITCHEN, NOW, days=1)
    assert 'broker = "mqtts://b.example:8884"' in (issued / "config.toml").read_text()
    assert "user device-kitchen" in (folder / "acl").read_text()
    assert "listener 8884" in (folder / "mosquitto.conf").read_text()
    hub = fleet.issue(Subject("hub", "h"), NOW, days=1)
    assert 'crl = "crl.pem"' in (hub / "config.toml").read_text()
    revoked = serial(issued)
    fleet.revoke("kitchen", "device", "cessation_of_operation", NOW)
    assert "device-kitchen" not in (folder / "acl").read_text()
    assert serials(folder / "crl.pem") == serials(hub / "crl.pem") == {revoked}
    (folder / "data" / "mosquitto.db").write_text("kept")
    before = serial(folder)
    fleet.set_broker(BrokerPlace(("other",), 8883, "/etc", 1), NOW, 10)
    assert serials(folder / "crl.pem") == {revoked, before}
    assert (folder / "data" / "mosquitto.db").read_text() == "kept"


def test_what_is_interrupted_is_known_to_the_register(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate whose directory was never finished is revoked by the next one."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "make_folder", stop)
        with pytest.raises(KeyboardInterrupt):
            fleet.issue(KITCHEN, NOW, days=1)
    (lost,) = fleet.register.entries
    fleet.issue(KITCHEN, NOW, days=1)
    assert serials(fleet.folder / "crl.pem") == {int(lost.serial, 16)}


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "+", "#", "x" * 65, "-x", "ü"])
def test_names_that_are_none(fleet: Fleet, name: str) -> None:
    """They would be topics or paths of others; nothing is issued."""
    for subject in (Subject("device", name), Subject("node", "n", name) if name else Subject("node", name)):
        with pytest.raises(ProvisionError, match="cannot name"):
            fleet.issue(subject, NOW, days=1)
    assert fleet.register.entries == ()


def test_names_that_are_too_long_or_taken(fleet: Fleet) -> None:
    """A common name has 64 characters, and two identities that ask as one device would read each other's answers."""
    with pytest.raises(ProvisionError, match="too long"):
        fleet.issue(Subject("device", "x" * 60), NOW, days=1)
    fleet.issue(Subject("node", "n", "kitchen"), NOW, days=1)
    for subject in (KITCHEN, Subject("node", "kitchen"), Subject("node", "m", "kitchen")):
        with pytest.raises(ProvisionError, match="node-n asks as device 'kitchen' already"):
            fleet.issue(subject, NOW, days=1)
    fleet.issue(Subject("hub", "kitchen"), NOW, days=1)
    with pytest.raises(ProvisionError, match="hub-kitchen asks as device"):
        fleet.issue(Subject("device", "page-kitchen"), NOW, days=1)


def test_a_process_that_is_not_there_cannot_reload() -> None:
    """One line."""
    with pytest.raises(ProvisionError, match="No such process"):
        reload(2**22 + 1)
