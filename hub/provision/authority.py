"""What does a certificate of a fleet say, and who signs it? X.509 by RFC 5280, keys of ECDSA P-256.

Takes and returns values: `now` is the time of day, and only keys and serial numbers are drawn here. Knows nothing of
files.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hub.errors import ProvisionError
from hub.provision.subject import Subject, is_host

AUTHORITY_DAYS: Final = 3650 * 2
_MOST_PASSPHRASE_BYTES: Final = 1023  # what OpenSSL takes
BACKDATED: Final = dt.timedelta(days=1)  # for clocks that are behind


class Issued(msgspec.Struct, frozen=True):
    """A certificate and its key, in PEM, and what its authority writes down of it."""

    cert: bytes
    key: bytes
    serial: int
    not_after: dt.datetime


class Revoked(msgspec.Struct, frozen=True):
    """A certificate that counts no more."""

    serial: int
    at: dt.datetime
    reason: str


class Authority:
    """The authority of one fleet: its certificate and its key."""

    def __init__(self, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._cert = cert
        self._key = key

    @classmethod
    def new(cls, fleet: str, now: dt.datetime) -> Authority:
        """One that signs itself; it may sign identities, and no other authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        plain = fleet.encode("ascii", "replace").decode()  # a common name has 64 bytes, and a directory's any
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgefleet {plain}"[:64])])
        builder = _builder(name, name, key.public_key(), now - BACKDATED, now + dt.timedelta(days=AUTHORITY_DAYS))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        builder = builder.add_extension(_key_id(key.public_key()), critical=False)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, cert: bytes, key: bytes, passphrase: bytes | None) -> Authority:
        """From PEM. Raises ProvisionError where the passphrase is wrong, or key and certificate are no pair."""
        try:
            loaded = serialization.load_pem_private_key(key, passphrase)
            certificate = x509.load_pem_x509_certificate(cert)
        except TypeError:
            wrong = "needs a passphrase" if passphrase is None else "has no passphrase, but one was given"
            raise ProvisionError(f"the key of the authority {wrong}: see --passphrase-file") from None
        except ValueError:
            raise ProvisionError("the key of the authority cannot be read: is the passphrase right?") from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != certificate.public_key():
            raise ProvisionError(
                "the authority's key and certificate do not belong together: restore both from a backup"
            )
        return cls(certificate, loaded)

    @property
    def cert(self) -> bytes:
        """Its certificate in PEM, which everybody may know."""
        return self._cert.public_bytes(serialization.Encoding.PEM)

    def key(self, passphrase: bytes | None) -> bytes:
        """Its key in PEM, under the passphrase where there is one. Raises ProvisionError where that is too long."""
        if passphrase is not None and len(passphrase) > _MOST_PASSPHRASE_BYTES:
            raise ProvisionError(f"a passphrase has at most {_MOST_PASSPHRASE_BYTES} bytes, this has {len(passphrase)}")
        protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)

    def issue(self, subject: Subject, hosts: Sequence[str], now: dt.datetime, days: int) -> Issued:
        """A new key and its certificate. A hub, or a broker, serves at `hosts`: names or addresses.

        Raises ProvisionError where that is longer than the authority itself lasts.
        """
        until = now + dt.timedelta(days=days)
        if until > self._cert.not_valid_after_utc:
            raise ProvisionError(f"the authority ends on {self._cert.not_valid_after_utc:%Y-%m-%d}: give fewer --days")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.identity)])
        builder = _builder(name, self._cert.subject, key.public_key(), now - BACKDATED, until)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(_purposes(subject)), critical=False)
        builder = builder.add_extension(_key_id(key.public_key()), critical=False)
        builder = builder.add_extension(self._authority_id(), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        plain = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Issued(cert.public_bytes(serialization.Encoding.PEM), plain, cert.serial_number, until)

    def crl(self, revoked: Iterable[Revoked], number: int, now: dt.datetime) -> bytes:
        """The list of revoked certificates, in PEM.

        The next one is due when the authority ends: a list that lapses earlier would turn the whole fleet away, and
        nobody renews it where nothing changes.
        """
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._cert.subject)
        builder = builder.last_update(now - BACKDATED).next_update(self._cert.not_valid_after_utc)
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        builder = builder.add_extension(self._authority_id(), critical=False)
        for each in revoked:
            one = x509.RevokedCertificateBuilder().serial_number(each.serial).revocation_date(each.at)
            reason = x509.CRLReason(x509.ReasonFlags[each.reason])
            builder = builder.add_revoked_certificate(one.add_extension(reason, critical=False).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _authority_id(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    since: dt.datetime,
    until: dt.datetime,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(since).not_valid_after(until)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _purposes(subject: Subject) -> list[x509.ObjectIdentifier]:
    """A broker only serves, a hub serves bundles besides, and nobody else can pass for either."""
    serves = [ExtendedKeyUsageOID.SERVER_AUTH]
    if subject.role == "broker":
        return serves
    return [ExtendedKeyUsageOID.CLIENT_AUTH, *(serves if subject.role == "hub" else [])]


def _key_id(key: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key)


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not is_host(text):
        raise ProvisionError(f"{text!r} is neither a host name nor an address")
    return x509.DNSName(text)
