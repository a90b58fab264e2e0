"""What a certificate of a fleet says; that others accept it is shown by tests of TLS and of the broker."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from cryptography.x509.oid import NameOID

from hub.errors import ProvisionError
from hub.provision.authority import BACKDATED, Authority, Revoked
from hub.provision.subject import Role, Subject

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.timezone.utc)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new("home", NOW)


def issued(authority: Authority, role: Role, *hosts: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.issue(Subject(role, "a"), hosts, NOW, 10).cert)


@pytest.mark.parametrize(
    ("role", "purposes"),
    [
        ("device", [Purpose.CLIENT_AUTH]),
        ("node", [Purpose.CLIENT_AUTH]),
        ("hub", [Purpose.CLIENT_AUTH, Purpose.SERVER_AUTH]),
        ("broker", [Purpose.SERVER_AUTH]),
    ],
)
def test_an_identity_is_its_name_and_what_it_may_be_used_for(
    authority: Authority, role: Role, purposes: list[x509.ObjectIdentifier]
) -> None:
    """Nobody but hub and broker passes for a server, and no identity signs others."""
    cert = issued(authority, role)
    assert cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == f"{role}-a"
    assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == purposes
    constraints = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = cert.extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)
    assert isinstance(key := cert.public_key(), ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.cert))


def test_times_are_of_the_clock_that_was_given(authority: Authority) -> None:
    """It counts from a little earlier, for clocks that are behind, and never longer than its authority."""
    cert = issued(authority, "device")
    assert (cert.not_valid_before_utc, cert.not_valid_after_utc) == (NOW - BACKDATED, NOW + dt.timedelta(days=10))
    with pytest.raises(ProvisionError, match="give fewer --days"):
        authority.issue(Subject("device", "a"), (), NOW, 7301)


def test_hosts_are_names_and_addresses(authority: Authority) -> None:
    """Each in its own form; what is neither is refused."""
    names = issued(authority, "hub", "h.example", "10.0.0.1", "::1").extensions
    found = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["h.example"]
    assert [str(each) for each in found.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    with pytest.raises(ProvisionError, match="neither a host name nor an address"):
        issued(authority, "hub", "büro.example")


def test_a_list_of_what_is_revoked(authority: Authority) -> None:
    """It names serial, time and reason, is signed, and lasts as long as the authority."""
    crl = x509.load_pem_x509_crl(authority.crl([Revoked(7, NOW, "key_compromise")], 3, NOW))
    (entry,) = crl
    assert entry.serial_number == 7
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    certificate = x509.load_pem_x509_certificate(authority.cert)
    assert crl.next_update_utc == certificate.not_valid_after_utc
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert crl.is_signature_valid(key)


def test_a_key_under_a_passphrase(authority: Authority) -> None:
    """It comes back with the passphrase alone, and says what is wrong otherwise."""
    protected = authority.key(b"right")
    assert Authority.load(authority.cert, protected, b"right").cert == authority.cert
    assert b"ENCRYPTED" in protected
    for key, passphrase, words in (
        (protected, None, "needs a passphrase"),
        (protected, b"wrong", "is the passphrase right"),
        (authority.key(None), b"any", "has no passphrase"),
        (Authority.new("other", NOW).key(None), None, "do not belong together"),
    ):
        with pytest.raises(ProvisionError, match=words):
            Authority.load(authority.cert, key, passphrase)


@pytest.mark.parametrize("fleet", ["é" * 100, "x" * 300, "f\udcffleet", ""])
def test_a_fleet_may_be_called_anything(fleet: str) -> None:
    """Its directory's name is cut and written in ASCII, as a common name must be."""
    (name,) = x509.load_pem_x509_certificate(Authority.new(fleet, NOW).cert).subject
    assert str(name.value).startswith("edgefleet ")
