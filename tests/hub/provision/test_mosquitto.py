"""The broker's configuration; that Mosquitto does as it says is shown by test_acl and the tests of whole fleets."""

from __future__ import annotations

import pytest

from hub.provision.mosquitto import mosquitto_conf
from hub.provision.register import BrokerPlace
from hub.wire import MAX_MESSAGE_BYTES
from tests.secured import SecuredFleet


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
