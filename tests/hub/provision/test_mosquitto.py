"""The broker's configuration; that Mosquitto does as it says is shown by test_acl and the tests of whole fleets."""

from __future__ import annotations

import socket

import pytest

from hub.provision.mosquitto import mosquitto_conf
from hub.provision.register import BrokerPlace
from hub.wire import MAX_MESSAGE_BYTES
from tests.secured import SecuredFleet, now


def test_nobody_comes_in_but_by_certificate() -> None:
    """The lines that all else rests on, with paths of where it will lie."""
    lines = mosquitto_conf(BrokerPlace(("h",), 8884, "/etc/mosquitto/fleet/", 7)).splitlines()
    for line in (
        "listener 8884", "max_connections 7", "tls_version tlsv1.2", "require_certificate true",
        "use_identity_as_username true", "allow_anonymous false", "acl_file /etc/mosquitto/fleet/acl",
        "crlfile /etc/mosquitto/fleet/crl.pem", f"message_size_limit {MAX_MESSAGE_BYTES}",
    ):  # fmt: skip
        assert line in lines
    assert sum(line.startswith("listener") for line in lines) == 1


@pytest.mark.broker
def test_mosquitto_takes_it(secured: SecuredFleet) -> None:
    """Without a warning of something that it does not know, or will not have."""
    secured.start()
    assert "Error" not in secured.log
    assert "Warning" not in secured.log


@pytest.mark.broker
def test_what_a_reload_brings(secured: SecuredFleet) -> None:
    """On SIGHUP Mosquitto 2.0.11 shows its new certificate, and lets new identities in, without a restart."""
    if not secured.is_running:
        secured.start()
    secured.issue("device", "early")
    secured.reload()
    before = shown(secured)
    place = secured.fleet.register.broker
    assert place is not None
    secured.fleet.set_broker(place, now(), 30)
    secured.reload()
    assert shown(secured) != before


def shown(secured: SecuredFleet) -> object:
    """The serial number of the certificate that the broker shows."""
    tls = secured.at("device-early").tls
    assert tls is not None
    plain = socket.create_connection(("localhost", secured.port), 10)
    with tls.client_context().wrap_socket(plain, server_hostname="localhost") as secure:
        certificate = secure.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]
