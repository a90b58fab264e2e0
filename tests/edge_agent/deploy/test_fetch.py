"""A file comes whole from servers that break, lie and dawdle, or it does not come and it is said why."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import random
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.deploy.fetch import Fetcher, Stop, Stopped
from edge_agent.deploy.partial import Blob
from edge_agent.errors import DeployError, FetchBroken
from hub.tls import Tls
from tests.edge_agent.deploy import blob_server as moods
from tests.edge_agent.deploy.blob_server import BlobServer, Silent

DATA = random.Random(1).randbytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
BLOB = Blob(SHA, len(DATA))


@pytest.fixture
def server() -> Iterator[BlobServer]:
    one = BlobServer(DATA)
    yield one
    one.close()


@pytest.fixture
def other() -> Iterator[BlobServer]:
    one = BlobServer(DATA)
    yield one
    one.close()


def fetcher(**options: Any) -> Fetcher:
    return Fetcher(None, **{"pause": lambda tries, draw: 0.0, "timeout_s": 5.0, "chance": random.Random(2), **options})


def fetched(part: Path, *sources: str, blob: Blob = BLOB, **options: Any) -> int:
    """The bytes that came over the network."""
    came: list[int] = []
    assert fetcher(**options).fetch(blob, sources, part, came.append, Stop()) == len(part.read_bytes())
    assert hashlib.sha256(part.read_bytes()).hexdigest() == blob.sha256
    return sum(came)


def test_a_file_comes(tmp_path: Path, server: BlobServer) -> None:
    """In one request, whole."""
    assert fetched(tmp_path / "part", server.url) == len(DATA)
    assert server.ranges == [None]


@pytest.mark.parametrize("seed", range(5))
def test_breaks_at_any_byte_cost_nothing_twice(tmp_path: Path, server: BlobServer, seed: int) -> None:
    """Ten breaks: each request begins where the one before ended, and each byte travels once."""
    server.moods = [moods.breaks_off(random.Random(seed + index)) for index in range(10)]
    assert fetched(tmp_path / "part", server.url) == len(DATA)
    assert len(server.ranges) > 5


def test_a_restart_goes_on_where_the_process_ended(tmp_path: Path, server: BlobServer) -> None:
    """What is there is hashed again, and only the rest travels; if all is there, nothing."""
    (tmp_path / "part").write_bytes(DATA[:200_000])
    assert fetched(tmp_path / "part", server.url) == 100_000
    assert server.ranges == ["bytes=200000-"]
    assert fetched(tmp_path / "part", server.url) == 0


@pytest.mark.parametrize("left", [bytes(100), DATA[:50_000] + bytes(9), DATA + b"more", bytes(len(DATA))])
def test_what_a_power_cut_left_is_not_trusted(tmp_path: Path, server: BlobServer, left: bytes) -> None:
    """A part with other bytes is thrown away, and no source is blamed for it."""
    (tmp_path / "part").write_bytes(left)
    fetched(tmp_path / "part", server.url)
    assert server.ranges[-1] is None


def test_a_server_without_ranges_begins_anew(tmp_path: Path, server: BlobServer) -> None:
    """It takes longer, and comes."""
    server.moods = [moods.breaks_off(random.Random(3))]
    server.always = moods.knows_no_ranges
    fetched(tmp_path / "part", server.url)


@pytest.mark.parametrize("status", [416, 500, 503, 404, 403])
def test_an_error_of_the_server_is_tried_again(tmp_path: Path, server: BlobServer, status: int) -> None:
    """Also where it says that the range is none, which throws away what was there."""
    (tmp_path / "part").write_bytes(DATA[:1000])
    server.moods = [moods.says(status)]
    came = fetched(tmp_path / "part", server.url)
    assert came == len(DATA) - (0 if status == 416 else 1000)


def test_tries_are_bounded(tmp_path: Path, server: BlobServer) -> None:
    """The reason is told, and what has come stays for another time."""
    (tmp_path / "part").write_bytes(DATA[:1000])
    server.always = moods.says(503)
    with pytest.raises(FetchBroken, match="HTTP 503"):
        fetched(tmp_path / "part", server.url, most_tries=3)
    assert len(server.ranges) == 3
    assert (tmp_path / "part").stat().st_size == 1000


def test_nobody_listens(tmp_path: Path, server: BlobServer) -> None:
    """A refused connection is the network's fault."""
    server.close()
    with pytest.raises(FetchBroken, match="Connection refused"):
        fetched(tmp_path / "part", server.url, most_tries=2)


def test_pauses_grow_with_tries_in_vain(tmp_path: Path, server: BlobServer) -> None:
    """And begin anew when bytes came."""
    asked: list[int] = []
    server.moods = [moods.says(500), moods.says(500), moods.breaks_off(random.Random(1)), moods.says(500)]
    fetched(tmp_path / "part", server.url, pause=lambda tries, draw: asked.append(tries) or 0.0)
    assert asked == [1, 2, 0, 1]


@pytest.mark.parametrize(
    ("mood", "why"),
    [
        (moods.says(302, Location="https://elsewhere.example/"), r"sends elsewhere \(HTTP 302\)"),
        (moods.says(308, Location="/blobs/x"), r"sends elsewhere \(HTTP 308\)"),
        (moods.other_bytes, "gives other bytes"),
        (moods.gives(DATA + b"x"), "300001 bytes are promised, 300000 are expected"),
        (moods.gives(DATA[:-1]), "299999 bytes are promised, 300000 are expected"),
        (moods.endless, "sends more than 300000 bytes"),
    ],
)
def test_a_liar_is_not_asked_again_and_another_source_is(
    tmp_path: Path, server: BlobServer, other: BlobServer, mood: Any, why: str
) -> None:
    """Alone it ends the fetching with the reason; beside an honest source the file comes."""
    server.always = mood
    with pytest.raises(DeployError, match=why) as refused:
        fetched(tmp_path / "part", server.url)
    assert not isinstance(refused.value, FetchBroken)
    assert len(server.ranges) == 1
    assert fetched(tmp_path / "part", server.url, other.url) >= len(DATA)
    assert len(server.ranges) == 2


def test_another_range_than_was_asked_for_is_a_lie(tmp_path: Path, server: BlobServer, other: BlobServer) -> None:
    """Its bytes are not put behind those that are there."""
    (tmp_path / "part").write_bytes(DATA[:1000])
    server.always = moods.another_range
    assert fetched(tmp_path / "part", server.url, other.url) == len(DATA) - 1000


def test_a_liar_in_the_middle_does_not_spoil_the_file(tmp_path: Path, server: BlobServer, other: BlobServer) -> None:
    """One began honestly and broke off, the other gave rubbish: nobody knows whose it was, so each begins anew."""
    server.moods = [moods.breaks_off(random.Random(1)), moods.breaks_off(random.Random(1))]
    other.always = moods.other_bytes
    fetched(tmp_path / "part", server.url, other.url)
    assert len(other.ranges) <= 2


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("http://192.0.2.1", "plain http is spoken to this machine only"),
        ("http://hub.example", "plain http is spoken to this machine only"),
        ("https://127.0.0.1:1", "https needs certificates"),
        ("ftp://127.0.0.1", "only https is spoken"),
        ("file:///etc/passwd", "is no address"),
        ("http://a:b@127.0.0.1", "is no address"),
        ("http://127.0.0.1:99999", "Port out of range"),
        ("http://127.0.0.1/?x=", "is no address"),
        ("", "is no address"),
        ("http://127.0.0.1/a b", "is no address"),
        ("http://127.0.0.1/a\r\nX-Y: z", "is no address"),
        ("http://\u00fc", "is no address"),
    ],
)
def test_an_address_that_must_not_be_asked_is_not(tmp_path: Path, source: str, why: str) -> None:
    """Desired comes over the network: it must not send the node anywhere."""
    with pytest.raises(DeployError, match=why):
        fetched(tmp_path / "part", source)


def test_with_certificates_no_plain_http(tmp_path: Path, server: BlobServer) -> None:
    """Not even to loopback."""
    with pytest.raises(DeployError, match="plain http"):
        Fetcher(ssl.create_default_context()).fetch(BLOB, [server.url], tmp_path / "part", lambda size: None, Stop())
    assert server.ranges == []


def test_a_small_file_of_unknown_size_is_bounded(tmp_path: Path, server: BlobServer) -> None:
    """The manifest: its hash is known, its size is not."""
    fetched(tmp_path / "part", server.url, blob=Blob(SHA, len(DATA), exact=False))
    fetched(tmp_path / "part2", server.url, blob=Blob(SHA, len(DATA) + 1, exact=False))
    with pytest.raises(DeployError, match="300000 bytes are promised, at most 299999 are expected"):
        fetched(tmp_path / "part3", server.url, blob=Blob(SHA, len(DATA) - 1, exact=False))


def test_an_empty_file_needs_nobody(tmp_path: Path) -> None:
    """Its hash is known to everybody."""
    empty = Blob(hashlib.sha256(b"").hexdigest(), 0)
    assert fetched(tmp_path / "part", "http://127.0.0.1:1", blob=empty) == 0


@pytest.mark.parametrize("first_bytes", [-1, 0, 1000])
def test_stopping_ends_a_silent_connection_at_once(
    tmp_path: Path, server: BlobServer, first_bytes: int, eventually: Callable[..., None]
) -> None:
    """Before the status, before the first byte, and in the middle; what has come stays."""
    silent, stop, came = Silent(first_bytes), Stop(), list[int]()
    server.always = silent
    ended: list[BaseException] = []

    def run() -> None:
        try:
            fetcher(timeout_s=60.0).fetch(BLOB, [server.url], tmp_path / "part", came.append, stop)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert silent.began.wait(10)
    if first_bytes > 0:
        eventually(lambda: came)
    stop.set()
    thread.join(10)
    silent.let_go.set()
    assert not thread.is_alive()
    assert isinstance(ended[0], Stopped)


def test_stopping_ends_a_pause_at_once(tmp_path: Path, server: BlobServer, eventually: Callable[..., None]) -> None:
    """However long it would have been."""
    server.always = moods.says(500)
    stop, ended = Stop(), []

    def run() -> None:
        with pytest.raises(Stopped):
            fetcher(pause=lambda tries, draw: 600.0).fetch(BLOB, [server.url], tmp_path / "p", lambda size: None, stop)
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: server.ranges)
    stop.set()
    thread.join(10)
    assert ended


def test_a_silent_server_is_left(tmp_path: Path, server: BlobServer, other: BlobServer) -> None:
    """After the time without a byte the other source goes on."""
    silent = Silent(1000)
    server.always = silent
    assert fetched(tmp_path / "part", server.url, other.url, timeout_s=0.3) == len(DATA)
    silent.let_go.set()


def test_the_rate_is_that_of_all_files_together(tmp_path: Path, server: BlobServer) -> None:
    """By the fetcher's clock, which its pauses move on: 600,000 bytes at 100,000 a second, with one second ahead."""
    now, waits = [0.0], []

    class Waiting(Stop):
        def wait(self, seconds: float) -> None:
            waits.append(seconds)
            now[0] += seconds

    one = fetcher(bytes_per_s=100_000.0, clock=lambda: now[0])
    for name in ("a", "b"):
        one.fetch(BLOB, [server.url], tmp_path / name, lambda size: None, Waiting())
    assert now[0] == pytest.approx(5.0, abs=0.01)
    assert max(waits) < 1.0


def test_a_disk_that_is_full_is_no_fault_of_the_network(tmp_path: Path, server: BlobServer) -> None:
    """It ends the fetching, and says so."""
    with pytest.raises(DeployError, match="cannot be written") as refused:
        fetched(tmp_path / "no folder" / "part", server.url)
    assert not isinstance(refused.value, FetchBroken)


# --- TLS ------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority of a test, and what it signs, as files."""

    def __init__(self, folder: Path) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.issue("authority", None)[0]

    def issue(self, name: str, host: str | None, *, to: Any = None) -> tuple[Path, Path]:
        """Certificate and key for `name`; `host` is an address that it stands for."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        is_authority = name == "authority"
        key = self.key if is_authority else ec.generate_private_key(ec.SECP256R1())
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(named)
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if host is not None:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False
            )
        certificate = builder.sign(self.key, hashes.SHA256())
        paths = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def context(self, purpose: ssl.Purpose, pair: tuple[Path, Path] | None) -> ssl.SSLContext:
        context = ssl.create_default_context(purpose, cafile=self.certificate)
        if purpose is ssl.Purpose.CLIENT_AUTH:
            context.verify_mode = ssl.CERT_REQUIRED
        if pair is not None:
            context.load_cert_chain(*pair)
        return context


def test_a_renewed_certificate_counts_from_the_next_connection_on(tmp_path: Path) -> None:
    """What cannot be read now is tried again, like a network that is away; the files are read for each connection."""
    authority = Authority(tmp_path)
    server = BlobServer(DATA, tls=authority.context(ssl.Purpose.CLIENT_AUTH, authority.issue("hub-h", "127.0.0.1")))
    pairs = [authority.issue(name, None) for name in ("node-old", "node-new")]
    shown = Tls(authority.certificate, tmp_path / "node.crt", tmp_path / "node.key")
    fetcher = Fetcher(shown.client_context, pause=lambda tries, draw: 0.0, most_tries=1, timeout_s=5.0)
    try:
        with pytest.raises(FetchBroken, match=r"node\.crt cannot be read"):
            fetcher.fetch(BLOB, [server.url], tmp_path / "part", lambda size: None, Stop())
        for number, (certificate, key) in enumerate(pairs):
            shutil.copy(certificate, tmp_path / "node.crt")
            shutil.copy(key, tmp_path / "node.key")
            fetcher.fetch(BLOB, [server.url], tmp_path / f"part{number}", lambda size: None, Stop())
    finally:
        server.close()
    names = [dict(pair[0] for pair in peer["subject"])["commonName"] for peer in server.peers]
    assert names == ["node-old", "node-new"]


def test_files_come_over_mutual_tls_and_nobody_else_gets_or_gives_them(tmp_path: Path) -> None:
    """Our certificate is shown; a server of another name, or of another authority, is not talked to."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    node = ours.context(ssl.Purpose.SERVER_AUTH, ours.issue("node-n", None))
    hub = ours.issue("hub-h", "127.0.0.1")
    server = BlobServer(DATA, tls=ours.context(ssl.Purpose.CLIENT_AUTH, hub))
    wrong_name = BlobServer(DATA, tls=ours.context(ssl.Purpose.CLIENT_AUTH, ours.issue("hub-x", "192.0.2.1")))
    stranger = BlobServer(DATA, tls=theirs.context(ssl.Purpose.CLIENT_AUTH, theirs.issue("hub-h", "127.0.0.1")))
    options: dict[str, Any] = {"pause": lambda tries, draw: 0.0, "most_tries": 1, "timeout_s": 5.0}

    def fetch(tls: ssl.SSLContext, source: str) -> None:
        Fetcher(lambda: tls, **options).fetch(BLOB, [source], tmp_path / "part", lambda size: None, Stop())

    try:
        fetch(node, server.url)
        assert (tmp_path / "part").read_bytes() == DATA
        assert server.peers[0]["subject"] == ((("commonName", "node-n"),),)
        (tmp_path / "part").unlink()
        for source, why in ((wrong_name, "IP address mismatch"), (stranger, "certificate verify failed")):
            with pytest.raises(FetchBroken, match=why):
                fetch(node, source.url)
            assert source.ranges == []
        with pytest.raises(FetchBroken):
            fetch(ours.context(ssl.Purpose.SERVER_AUTH, None), server.url)
        assert len(server.ranges) == 1
    finally:
        for one in (server, wrong_name, stranger):
            one.close()
