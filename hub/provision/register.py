"""What has a fleet's authority issued, and what of it counts no more? Pure: a register in, a register out."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hub.errors import ProvisionError
from hub.provision.subject import Role, Subject

Reason = Literal["key_compromise", "superseded", "cessation_of_operation"]  # RFC 5280, 5.3.1
REASONS: Final[tuple[Reason, ...]] = ("key_compromise", "superseded", "cessation_of_operation")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One certificate; `serial` is a number in hexadecimal."""

    subject: Subject
    serial: str
    not_after: dt.datetime
    hosts: tuple[str, ...] = ()
    revoked_at: dt.datetime | None = None
    reason: Reason | None = None


class BrokerPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the fleet's broker is: the hosts of its certificate, its port, and the directory of its files there."""

    hosts: Annotated[tuple[str, ...], Meta(min_length=1)]
    port: Annotated[int, Meta(ge=1, le=65_535)]
    folder: str
    max_connections: Annotated[int, Meta(ge=1)]


class Register(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that was issued, in order, and the broker if there is one. `changes` numbers the lists of what is revoked."""

    entries: tuple[Entry, ...] = ()
    broker: BrokerPlace | None = None
    changes: int = 0


def added(register: Register, entry: Entry) -> Register:
    """With one more certificate."""
    return _changed(register, (*register.entries, entry))


def revoked(
    register: Register, subject: Subject, now: dt.datetime, reason: Reason, *, but: str | None = None
) -> Register:
    """Without the certificates of an identity, but for the one with the serial `but`."""
    entries = tuple(
        msgspec.structs.replace(each, revoked_at=now, reason=reason)
        if each.subject.identity == subject.identity and each.revoked_at is None and each.serial != but
        else each
        for each in register.entries
    )
    return _changed(register, entries)


def living(register: Register) -> list[Subject]:
    """Identities with a certificate that was not revoked, each as it was issued last, by name."""
    found = {each.subject.identity: each.subject for each in register.entries if each.revoked_at is None}
    return [found[identity] for identity in sorted(found)]


def named(register: Register, text: str) -> Subject:
    """The living identity that `text` names: `NAME`, or `ROLE-NAME` where several have that name.

    Raises ProvisionError.
    """
    subjects = living(register)
    exact = [each for each in subjects if each.identity == text]
    by_name = [each for each in subjects if each.name == text]
    if len(exact) + len(by_name) > 1:
        which = ", ".join(sorted(each.identity for each in [*exact, *by_name]))
        raise ProvisionError(f"{text!r} names several identities ({which}): say which with --role")
    if not exact and not by_name:
        known = ", ".join(each.identity for each in subjects) or "none"
        raise ProvisionError(f"no identity {text!r} has a certificate that counts; these have: {known}")
    return (exact or by_name)[0]


def of_role(register: Register, role: Role, name: str) -> Subject:
    """The living identity of this role and name. Raises ProvisionError."""
    for each in living(register):
        if (each.role, each.name) == (role, name):
            return each
    raise ProvisionError(f"no {role} {name!r} has a certificate that counts")


def encode(register: Register) -> bytes:
    """The file of a register."""
    return msgspec.json.format(msgspec.json.encode(register), indent=2) + b"\n"


def decode(data: bytes) -> Register:
    """Raises ProvisionError."""
    try:
        return msgspec.json.decode(data, type=Register)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProvisionError(f"the register of what was issued cannot be read ({error}): restore a backup") from None


def _changed(register: Register, entries: tuple[Entry, ...]) -> Register:
    return msgspec.structs.replace(register, entries=entries, changes=register.changes + 1)
