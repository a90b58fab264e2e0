"""Files of bundles over HTTP: whole or in part, to whom they are meant for, and nothing else."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from hub import http_server
from hub.errors import ListenError
from hub.http_server import LOOPBACK, Address, HttpServer
from hub.rollout.blob_server import blob_server
from hub.rollout.catalog import Catalog
from tests.conftest import eventually
from tests.hub.rollout.certificates import Authority
from tests.hub.rollout.made import FILES, make_bundle

WEIGHTS = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
ETAG = f'"{SHA256}"'


def started(server: HttpServer) -> None:
    server.start()
    eventually(lambda: server._server.started)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    Catalog(folder / "store").add(make_bundle(folder / "v1", **{"more.data": WEIGHTS}))
    (folder / "store" / "blobs" / "plain").write_text("not a hash")
    return folder / "store"


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[httpx.Client]:
    server = blob_server(root, LOOPBACK, None)
    started(server)
    with httpx.Client(base_url=f"http://{server.address}") as client:
        yield client
    server.stop()


def test_the_whole_file(client: httpx.Client) -> None:
    """With its hash as its tag, for ever; of HEAD only the head."""
    got = client.get(f"/blobs/{SHA256}")
    assert (got.status_code, got.content) == (200, WEIGHTS)
    assert got.headers["etag"] == ETAG
    assert got.headers["accept-ranges"] == "bytes"
    assert "immutable" in got.headers["cache-control"]
    assert got.headers["content-type"] == "application/octet-stream"
    head = client.head(f"/blobs/{SHA256}")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(WEIGHTS)), b"")
    assert client.get(f"/blobs/{SHA256}", headers={"If-None-Match": ETAG}).status_code == 304


@pytest.mark.parametrize(
    ("given", "first", "end"),
    [("bytes=0-0", 0, 1), ("bytes=1000-1999", 1000, 2000), ("bytes=255999-", 255_999, 256_000),
     ("bytes=-10", 255_990, 256_000), ("bytes=100-99999999", 100, 256_000)],
)  # fmt: skip
def test_a_range(client: httpx.Client, given: str, first: int, end: int) -> None:
    """206, and where it is of the whole: so a download that broke goes on."""
    got = client.get(f"/blobs/{SHA256}", headers={"Range": given, "If-Range": ETAG})
    assert (got.status_code, got.content) == (206, WEIGHTS[first:end])
    assert got.headers["content-range"] == f"bytes {first}-{end - 1}/{len(WEIGHTS)}"
    assert got.headers["etag"] == ETAG


def test_ranges_that_are_none(client: httpx.Client) -> None:
    """Beyond the end is 416 with the size; with the tag of another file the whole comes."""
    beyond = client.get(f"/blobs/{SHA256}", headers={"Range": "bytes=256000-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */256000")
    other = client.get(f"/blobs/{SHA256}", headers={"Range": "bytes=1-2", "If-Range": '"other"'})
    assert (other.status_code, len(other.content)) == (200, len(WEIGHTS))


@pytest.mark.parametrize(
    "path",
    ["/", "/blobs", "/blobs/", "/blobs/plain", f"/blobs/{SHA256.upper()}", f"/blobs/{'0' * 64}", "/metrics", "/bundles",
     "/blobs/../catalog.lock", "/blobs/%2e%2e%2fcatalog.lock", f"/blobs/{SHA256}/", f"/blobs/{SHA256}%00",
     f"/blobs/{SHA256}%0a"],
)  # fmt: skip
def test_nothing_else(client: httpx.Client, path: str) -> None:
    """No other file, no list, no way out of the directory."""
    assert client.get(path, follow_redirects=False).status_code in (307, 400, 404)
    assert client.get(path, follow_redirects=True).status_code in (200, 400, 404)
    if client.get(path, follow_redirects=True).status_code == 200:
        assert path == f"/blobs/{SHA256}/"


def test_only_reading(client: httpx.Client) -> None:
    """Nothing can be put there."""
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, f"/blobs/{SHA256}").status_code == 405


def test_a_page_of_another_site_cannot_ask(client: httpx.Client) -> None:
    """Through a name of its own that it lets point here."""
    assert client.get(f"/blobs/{SHA256}", headers={"Host": "evil.example"}).status_code == 400


def test_open_to_nobody(root: Path, tmp_path: Path) -> None:
    """Without TLS, or with a TLS that lets anybody in, only this machine can be listened to."""
    with pytest.raises(ListenError, match="give a certificate"):
        blob_server(root, Address("0.0.0.0", 0), None)
    with pytest.raises(ListenError, match="asks for no client certificate"):
        blob_server(root, LOOPBACK, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_certificates_of_the_fleet(root: Path, tmp_path: Path) -> None:
    """A node's is let in; none, a stranger's and a revoked one are not, nor is plain HTTP."""
    fleet, strangers = Authority(tmp_path / "fleet"), Authority(tmp_path / "strangers")
    for name in ("hub", "node"):
        fleet.issue(name)
    stolen = fleet.issue("stolen")
    strangers.issue("node")
    server = blob_server(root, LOOPBACK, fleet.server("hub", fleet.revoked(stolen)))
    started(server)
    try:
        url = f"https://{server.address}/blobs/{SHA256}"
        assert httpx.get(url, verify=fleet.client("node")).content == WEIGHTS
        mixed = strangers.client("node")
        mixed.load_verify_locations(str(fleet.ca))
        for context in (fleet.client(None), fleet.client("stolen"), mixed):
            with pytest.raises(httpx.TransportError):
                httpx.get(url, verify=context)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"))
        assert httpx.get(url, verify=fleet.client("node"), headers={"Range": "bytes=0-4"}).content == WEIGHTS[:5]
    finally:
        server.stop()


def test_revoked_while_it_runs(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next connection is turned away, without a restart; a list that cannot be read lets nobody back in."""
    fleet = Authority(tmp_path / "fleet")
    fleet.issue("hub")
    stolen = fleet.issue("stolen")
    fleet.issue("node")
    revoked = fleet.revoked()
    server = blob_server(root, LOOPBACK, fleet.server("hub", revoked), revoked)
    started(server)
    try:
        url = f"https://{server.address}/blobs/{SHA256}"
        assert httpx.get(url, verify=fleet.client("stolen")).content == WEIGHTS
        plain = socket.create_connection((server.address.host, server.address.port), timeout=10)
        with fleet.client("stolen").wrap_socket(plain, server_hostname="127.0.0.1") as early:
            early.sendall(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert early.recv(1)
            assert early.session is None or not early.session.has_ticket  # with one it would come back
        fleet.revoked(stolen)
        for _ in range(2):
            with pytest.raises(httpx.TransportError):
                httpx.get(url, verify=fleet.client("stolen"))
            assert httpx.get(url, verify=fleet.client("node")).content == WEIGHTS
            revoked.write_text("no list")
        assert "cannot be read" in caplog.text
        revoked.unlink()
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=fleet.client("stolen"))
    finally:
        server.stop()


def test_who_shakes_no_hand_is_closed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that never comes to TLS would be held for a minute, and so could be all."""
    monkeypatch.setattr(http_server, "_HEAD_S", 0.2)
    fleet = Authority(tmp_path / "fleet")
    fleet.issue("hub")
    server = blob_server(root, LOOPBACK, fleet.server("hub"))
    started(server)
    try:
        with socket.create_connection((server.address.host, server.address.port), timeout=10) as silent:
            assert silent.recv(1) == b""
    finally:
        server.stop()


def test_a_small_file_is_whole(client: httpx.Client) -> None:
    """As it lies in the bundle."""
    payload = FILES["tokenizer/tokenizer.json"]
    assert client.get(f"/blobs/{hashlib.sha256(payload).hexdigest()}").content == payload
