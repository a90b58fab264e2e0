"""Contexts of TLS from files: what is checked, and what a refusal says."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.errors import IdentityError
from hub.provision.authority import Authority, Revoked
from hub.provision.subject import Subject
from hub.tls import Tls, refusal

NOW = dt.datetime.now(dt.timezone.utc)
LONG_AGO = NOW - dt.timedelta(days=90)


class Files:
    """An authority, and what it issued, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.authority = Authority.new("tests", LONG_AGO)
        (folder / "ca.pem").write_bytes(self.authority.cert)

    def issue(self, role: str, name: str, *hosts: str, now: dt.datetime = NOW) -> Tls:
        issued = self.authority.issue(Subject(role, name), hosts, now, 1)  # type: ignore[arg-type]
        files = [self.folder / f"{role}-{name}.{kind}" for kind in ("cert", "key")]
        for path, data in zip(files, (issued.cert, issued.key), strict=True):
            path.write_bytes(data)
        self.serial = issued.serial
        return Tls(self.folder / "ca.pem", *files)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "one")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> tuple[object, object]:
    """What came of a handshake for the client, with a byte from the server, and for the server: None or an error."""
    near, far = socket.socketpair()
    told: list[object] = []

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as secured:
                secured.sendall(b"!")
        except OSError as error:
            told.append(error)
        else:
            told.append(None)
        finally:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    mine: object = None
    near.settimeout(10)
    try:
        with client.wrap_socket(near, server_hostname=host) as secured:
            secured.recv(1)
    except OSError as error:
        mine = error
    near.close()
    thread.join(10)
    return mine, told[0]


def test_who_belongs_to_the_fleet_is_let_in(files: Files) -> None:
    """A node and a hub trust each other, by TLS 1.2 or newer."""
    server, client = files.issue("hub", "h", "localhost").server_context(), files.issue("node", "n").client_context()
    assert shake_hands(server, client) == (None, None)
    assert client.minimum_version == server.minimum_version == ssl.TLSVersion.TLSv1_2
    assert client.check_hostname


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_does_not_is_told_why(files: Files, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Another authority, another host, times that are over, a revoked certificate, none: each in plain words."""
    hub = files.issue("hub", "h", "localhost")
    stolen = files.issue("node", "stolen")
    crl = tmp_path / "crl.pem"
    crl.write_bytes(files.authority.crl([Revoked(files.serial, NOW, "key_compromise")], 1, NOW))

    def why(server: Tls, client: Tls, host: str = "localhost") -> str:
        context = client.client_context()
        context.minimum_version = context.maximum_version = version
        mine, _ = shake_hands(server.server_context(crl), context, host)
        assert isinstance(mine, Exception)
        return refusal(mine) or f"no refusal: {mine!r}"

    node = files.issue("node", "n")
    other = Files(tmp_path / "other")
    assert "is it of the fleet whose authority --ca is?" in why(hub, other.issue("node", "n"))
    assert "certificate is not valid for 'elsewhere'" in why(hub, node, "elsewhere")
    assert "clock right?" in why(files.issue("hub", "old", "localhost", now=LONG_AGO), node)
    assert why(hub, files.issue("node", "late", now=LONG_AGO)) == "it refuses our certificate: certificate expired"
    assert why(hub, stolen) == "it refuses our certificate: certificate revoked"
    assert "it refuses our certificate: " in why(hub, Tls(files.folder / "ca.pem"))
    assert "unsuitable certificate purpose" in why(node, files.issue("node", "m"))


def test_what_says_nothing_of_trust_is_no_refusal() -> None:
    """A network that breaks, or a peer that dies, may be better the next time."""
    for error in (ConnectionResetError("reset"), TimeoutError("slow"), ssl.SSLEOFError(8, "EOF occurred")):
        assert refusal(error) is None


def test_files_that_cannot_be_used(files: Files, tmp_path: Path) -> None:
    """Each is refused in one line with its name, before any connection."""
    good, other = files.issue("node", "n"), files.issue("node", "m")
    protected = tmp_path / "protected.key"
    protected.write_bytes(files.authority.key(b"secret"))
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN NOTHING-----")
    missing = tmp_path / "missing.pem"
    cases: list[tuple[Callable[[], Tls], str]] = [
        (lambda: Tls(missing), "missing.pem cannot be read: No such file"),
        (lambda: Tls(good.ca, missing, good.key), "missing.pem cannot be read"),
        (lambda: Tls(good.ca, good.cert, missing), "missing.pem cannot be read"),
        (lambda: Tls(garbage), "holds no certificate"),
        (lambda: Tls(good.ca, good.cert, other.key), "is not the key of"),
        (lambda: Tls(good.ca, good.cert, protected), "protected by a passphrase"),
        (lambda: Tls(good.ca, garbage, good.key), "cannot be used: the one holds no certificate in PEM"),
    ]
    for make, words in cases:
        with pytest.raises(IdentityError, match=words) as caught:
            make().client_context()
        assert "\n" not in str(caught.value)
    with pytest.raises(IdentityError, match="a server needs"):
        Tls().server_context()
    with pytest.raises(ValueError, match="give both or none"):
        Tls(good.ca, good.cert)
