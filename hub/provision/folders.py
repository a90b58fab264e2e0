"""What lies in the directory that is copied to a machine? Its key, certificates, and a file for its command's --config.

Pure: names and bytes. Knows nothing of certificates beyond their bytes, nor where the directory will be.
"""

from __future__ import annotations

import json
from typing import Final

from hub.provision.authority import Issued
from hub.provision.files import PUBLIC, SECRET
from hub.provision.subject import Subject

DEVICE_RATE: Final = "10/s"  # of one device: more than people and most programs ask, less than a hub routes
DEVICE_IN_FLIGHT: Final = 10  # what its rate lets in at once: one stolen device leaves room for others

CRL: Final = "crl.pem"  # in a hub's directory, which gives bundles to whoever is not in it

_COMMANDS: Final = {
    "device": 'edge-ask "..." --config config.toml',
    "node": "edge-agent serve --config config.toml --bundle BUNDLE",
    "hub": "edge-hub serve --config config.toml",
}


def folder_of(
    subject: Subject, issued: Issued, ca: bytes, broker: str, secret: str | None
) -> dict[str, tuple[bytes, int]]:
    """Each file, and its mode. `broker` is a URL; who has no fixed client id has no `secret`."""
    files = {
        "key.pem": (issued.key, SECRET),
        "cert.pem": (issued.cert, PUBLIC),
        "ca.pem": (ca, PUBLIC),
        "config.toml": (config_of(subject, broker, keyed=secret is not None).encode(), PUBLIC),
    }
    if secret is not None:
        files["session.key"] = (f"{secret}\n".encode(), SECRET)
    return files


def config_of(subject: Subject, broker: str, *, keyed: bool) -> str:
    """What `--config` takes."""
    values: dict[str, str | int] = {"broker": broker, "ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    if keyed:
        values["session-key"] = "session.key"
    if subject.role == "device":
        values["device"] = subject.name
    elif subject.role == "node":
        values |= {"node": subject.name, "device": subject.device or subject.name}
    else:
        values |= {"name": subject.name, "device-rate": DEVICE_RATE, "device-in-flight": DEVICE_IN_FLIGHT, "crl": CRL}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f"# {subject.identity}: {_COMMANDS[subject.role]}", *lines]) + "\n"
