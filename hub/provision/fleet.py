"""The story of a fleet's identities: make the authority, issue, renew, revoke, and tell the broker each time.

A fleet is a directory that nobody but its owner can enter. The register is written before what it tells of, so that no
certificate is ever out that it does not know; whatever is interrupted can be said again.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from hub.broker_url import read_secret
from hub.errors import IdentityError, ProvisionError
from hub.provision import mosquitto, register
from hub.provision.acl import acl_file
from hub.provision.authority import Authority, Revoked
from hub.provision.files import PUBLIC, SECRET, locked, make_folder, write_whole
from hub.provision.folders import CRL, folder_of
from hub.provision.register import BrokerPlace, Entry, Reason, Register
from hub.provision.subject import Role, Subject
from hub.wire import is_name

_CA_KEY: Final = "ca.key.pem"
_CA: Final = "ca.pem"
_SECRET: Final = "session.key"  # noqa: S105 (the name of its file)
_REGISTER: Final = "register.json"
BROKER_NAME: Final = "broker"
DEFAULT_BROKER: Final = "mqtts://localhost:8883"


def init(folder: Path, passphrase: bytes | None, now: dt.datetime) -> None:
    """Make the authority. One that is there is never touched; an interrupted call leaves nothing in its place.

    Raises ProvisionError.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProvisionError(f"{folder} is there already, and nothing in it was changed: give another --fleet DIR")
    if folder.resolve() == Path.cwd():  # which is replaced whole, under whoever stands in it
        raise ProvisionError(f"{folder} is the directory that you are in: give another --fleet DIR")
    authority = Authority.new(folder.resolve().name, now)
    files = {
        _CA_KEY: (authority.key(passphrase), SECRET),
        _CA: (authority.cert, PUBLIC),
        CRL: (authority.crl((), 0, now), PUBLIC),
        _SECRET: (f"{secrets.token_hex(32)}\n".encode(), SECRET),
        _REGISTER: (register.encode(Register()), SECRET),
    }
    make_folder(folder, files)


def is_protected(folder: Path) -> bool:
    """Whether the authority's key needs a passphrase."""
    key = folder / _CA_KEY
    return key.exists() and b"ENCRYPTED" in key.read_bytes()


class Fleet:
    """The fleet in `folder`. Raises ProvisionError, from every method."""

    def __init__(self, folder: Path, passphrase: bytes | None) -> None:
        self.folder = folder
        if not (folder / _CA_KEY).exists():
            raise ProvisionError(
                f"there is no authority in {folder}: `edge-hub provision init --fleet {folder}` makes one"
            )
        self._authority = Authority.load(self._read(_CA), self._read(_CA_KEY), passphrase)

    @property
    def register(self) -> Register:
        """What was issued so far."""
        return register.decode(self._read(_REGISTER))

    def issue(
        self,
        subject: Subject,
        now: dt.datetime,
        *,
        days: int,
        hosts: Sequence[str] = (),
        broker: str | None = None,
        keep_old: bool = False,
    ) -> Path:
        """A certificate for `subject`, in a directory to copy to its machine; what it had before is revoked.

        `broker` is where it connects, by default the broker that was provisioned.
        """
        _refuse_names(subject)
        with locked(self.folder):
            self._refuse_taken_device(subject)
            issued = self._authority.issue(subject, hosts, now, days)
            entry = Entry(subject, f"{issued.serial:x}", issued.not_after, tuple(hosts))
            changed = register.added(self.register, entry)
            if not keep_old:
                changed = register.revoked(changed, subject, now, "superseded", but=entry.serial)
            self._keep(changed)
            folder = self.folder / "issued" / subject.identity
            files = folder_of(
                subject, issued, self._authority.cert, broker or self._broker_url(), self._secret(subject)
            )
            make_folder(folder, files, replace=True)
            self._tell(changed, now)
        return folder

    def revoke(self, name: str, role: Role | None, reason: Reason, now: dt.datetime) -> Subject:
        """Nobody is let in as `name` any more, until that is issued again; returns who it was."""
        with locked(self.folder):
            before = self.register
            subject = register.named(before, name) if role is None else register.of_role(before, role, name)
            changed = register.revoked(before, subject, now, reason)
            self._keep(changed)
            self._tell(changed, now)
        return subject

    def set_broker(self, place: BrokerPlace, now: dt.datetime, days: int) -> Path:
        """A directory with all that Mosquitto needs, and its data; a new certificate each time."""
        subject = Subject("broker", BROKER_NAME)
        if not (place.folder.startswith("/") and place.folder.isprintable()):  # each is the rest of a line in its conf
            raise ProvisionError(
                f"the broker's files cannot lie in {place.folder!r}: give a --path that is absolute and printable"
            )
        with locked(self.folder):
            issued = self._authority.issue(subject, place.hosts, now, days)
            entry = Entry(subject, f"{issued.serial:x}", issued.not_after, place.hosts)
            changed = register.revoked(
                register.added(self.register, entry), subject, now, "superseded", but=entry.serial
            )
            changed = msgspec.structs.replace(changed, broker=place)
            self._keep(changed)
            folder = self.broker_folder
            (folder / mosquitto.DATA).mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            write_whole(folder / mosquitto.KEY, issued.key, SECRET)
            write_whole(folder / mosquitto.CERT, issued.cert, PUBLIC)
            write_whole(folder / mosquitto.CA, self._authority.cert, PUBLIC)
            self._tell(changed, now)
        return folder

    @property
    def broker_folder(self) -> Path:
        """Where the broker's files are written."""
        return self.folder / BROKER_NAME

    # --- inside -----------------------------------------------------------------------------------------

    def _tell(self, changed: Register, now: dt.datetime) -> None:
        """Write the list of what is revoked, and the broker's rules."""
        gone = [
            Revoked(int(each.serial, 16), each.revoked_at, each.reason or "unspecified")
            for each in changed.entries
            if each.revoked_at is not None
        ]
        crl = self._authority.crl(gone, changed.changes, now)
        write_whole(self.folder / CRL, crl, PUBLIC)
        for subject in register.living(changed):
            if subject.role == "hub" and (folder := self.folder / "issued" / subject.identity).is_dir():
                write_whole(folder / CRL, crl, PUBLIC)
        if changed.broker is None or not self.broker_folder.is_dir():
            return
        write_whole(self.broker_folder / mosquitto.CRL, crl, PUBLIC)
        write_whole(self.broker_folder / mosquitto.ACL, acl_file(register.living(changed)).encode(), SECRET)
        write_whole(self.broker_folder / mosquitto.CONF, mosquitto.mosquitto_conf(changed.broker).encode(), PUBLIC)

    def _keep(self, changed: Register) -> None:
        write_whole(self.folder / _REGISTER, register.encode(changed), SECRET)

    def _broker_url(self) -> str:
        place = self.register.broker
        if place is None:
            return DEFAULT_BROKER
        host = f"[{place.hosts[0]}]" if ":" in place.hosts[0] else place.hosts[0]
        return f"mqtts://{host}:{place.port}"

    def _secret(self, subject: Subject) -> str | None:
        """A node's own, all hubs' one, for they inherit each other's sessions; devices have no fixed client id."""
        if subject.role == "hub":
            try:
                return read_secret(self.folder / _SECRET)
            except IdentityError as error:
                raise ProvisionError(f"{error}; restore a backup") from None
        return secrets.token_hex(32) if subject.role == "node" else None

    def _refuse_taken_device(self, subject: Subject) -> None:
        """Two identities that ask under one name would read each other's answers."""
        for each in register.living(self.register):
            if each.asks_as == subject.asks_as and each.identity != subject.identity:
                raise ProvisionError(
                    f"{each.identity} asks as device {each.asks_as!r} already, and both would read the same answers: "
                    "revoke it first, or take another name"
                )

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise ProvisionError(f"{self.folder / name} cannot be read: {error.strerror}") from None


def reload(pid: int) -> None:
    """Let a Mosquitto read its files again. Raises ProvisionError."""
    try:
        os.kill(pid, signal.SIGHUP)
    except (OSError, OverflowError) as error:
        raise ProvisionError(f"process {pid} cannot be told to reload: {getattr(error, 'strerror', error)}") from None


def _refuse_names(subject: Subject) -> None:
    for name in (subject.name, subject.device or subject.name):
        if not is_name(name):
            raise ProvisionError(f"{name!r} cannot name a {subject.role}: use 1 to 64 letters, digits, '.', '_' or '-'")
    if len(subject.identity) > 64:  # RFC 5280, ub-common-name
        raise ProvisionError(f"{subject.identity!r} is too long for a certificate: at most 64 characters with its role")
