"""Gives nodes the files of bundles: `GET` and `HEAD` of `/blobs/<sha256>`, whole or a range (RFC 9110, 14), no more.

A blob never changes, so it is its own entity tag, and whoever has it need not ask again. Who may ask is decided by TLS:
off this machine a certificate of the fleet is needed. It runs in a thread of its own and reads files in others, so no
download holds up a question; and whoever reads nothing for a minute is cut off, see `hub/http_server.py`.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from hub.errors import ListenError
from hub.http_guard import allowed_hosts
from hub.http_server import Address, HttpServer
from hub.rollout.catalog import Catalog

log = logging.getLogger(__name__)

_HEADERS: Final = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


def blob_server(root: Path, address: Address, tls: ssl.SSLContext | None, revoked: Path | None = None) -> HttpServer:
    """A server of the bundles in `root`, not started yet. Raises ListenError.

    `tls` asks for client certificates of the fleet; without it only this machine may reach `address`. `revoked` is the
    list of those that are turned away, where it may change while the server runs.
    """
    if tls is None and not address.on_loopback:
        raise ListenError(
            f"bundles on {address} could be had by anybody: give a certificate (--ca, --cert, --key), "
            "or let --bundles-listen be on 127.0.0.1"
        )
    if tls is not None and tls.verify_mode != ssl.CERT_REQUIRED:
        raise ListenError(f"bundles on {address} could be had by anybody: its TLS asks for no client certificate")
    if tls is not None and revoked is not None:
        _follow(tls, revoked)
    return HttpServer(application(Catalog(root), address, is_open=tls is None), address, tls=tls)


def _follow(tls: ssl.SSLContext, revoked: Path) -> None:
    """Look before each handshake whether the list has changed: of two from one authority OpenSSL takes the later.

    While it cannot be read, the one before holds. No session is resumed (TLS 1.3 without tickets), because that needs
    no certificate.
    """
    tls.minimum_version, tls.num_tickets = ssl.TLSVersion.TLSv1_3, 0
    seen = [_changed_ns(revoked)]

    def look(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        now = _changed_ns(revoked)
        if now != seen[0] and now is not None:
            try:
                tls.load_verify_locations(revoked)
            except (OSError, ssl.SSLError) as error:
                log.error("%s cannot be read, certificates that were revoked lately are let in: %s", revoked, error)
            seen[0] = now

    tls.sni_callback = look


def _changed_ns(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


class _Blob(FileResponse):
    chunk_size = 256 * 1024  # each piece takes the interpreter for a moment: fewer, larger ones disturb routing less


def application(catalog: Catalog, address: Address, *, is_open: bool) -> Starlette:
    """The ASGI application. One that `is_open` answers to names of this machine only, else a web page could ask."""

    def blob(request: Request) -> Response:
        sha256 = request.path_params["sha256"]
        path = catalog.blob(sha256)
        if path is None:
            return PlainTextResponse("no such file\n", 404)
        headers = {**_HEADERS, "ETag": f'"{sha256}"'}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return _Blob(path, headers=headers, media_type="application/octet-stream")

    hosts = allowed_hosts((), address) if is_open else ["*"]
    return Starlette(
        routes=[Route("/blobs/{sha256}", blob)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )
