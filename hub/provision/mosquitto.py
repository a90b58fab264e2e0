"""What is the configuration of a fleet's broker? Mosquitto 2, with nobody let in but by certificate. Pure text."""

from __future__ import annotations

from typing import Final

from hub.provision.register import BrokerPlace
from hub.wire import MAX_MESSAGE_BYTES

CONF: Final = "mosquitto.conf"
ACL: Final = "acl"
CA: Final = "ca.pem"
CRL: Final = "crl.pem"
CERT: Final = "cert.pem"
KEY: Final = "key.pem"
DATA: Final = "data"
_MOST_HEADER_BYTES: Final = 64 * 1024  # of a packet, besides what it carries: topic and properties

_CONF: Final = """\
# Written by edge-hub provision; changes here are lost.

listener {port}
max_connections {max_connections}

# Who comes in shows a certificate of the fleet, and is its common name from then on.
tls_version tlsv1.2
cafile {folder}/{ca}
certfile {folder}/{cert}
keyfile {folder}/{key}
crlfile {folder}/{crl}
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {folder}/{acl}

# What one client may burden others with.
max_packet_size {max_packet_bytes}
message_size_limit {max_message_bytes}
max_inflight_messages 20
max_queued_messages 1000
max_queued_bytes {max_queued_bytes}
max_keepalive 60
persistent_client_expiration 1d

persistence true
persistence_location {folder}/{data}/
autosave_interval 60

log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
connection_messages true
log_timestamp_format %Y-%m-%dT%H:%M:%S
"""


def mosquitto_conf(place: BrokerPlace) -> str:
    """The file that `mosquitto -c` takes."""
    return _CONF.format(
        port=place.port,
        max_connections=place.max_connections,
        folder=place.folder.rstrip("/"),
        ca=CA,
        cert=CERT,
        key=KEY,
        crl=CRL,
        acl=ACL,
        data=DATA,
        max_packet_bytes=MAX_MESSAGE_BYTES + _MOST_HEADER_BYTES,
        max_message_bytes=MAX_MESSAGE_BYTES,
        max_queued_bytes=64 * MAX_MESSAGE_BYTES,
    )
