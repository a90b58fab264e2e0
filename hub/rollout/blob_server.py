"""Gives nodes the files of bundles: `GET` and `HEAD` of `/blobs/<sha256>`, whole or a range (RFC 9110, 14), no more.

A blob never changes, so it is its own entity tag, and whoever has it need not ask again. Who may ask is decided by TLS:
off this machine a certificate of the fleet is needed. It runs in a thread of its own and reads files in others, so no
download holds up a question; and whoever reads nothing for a minute is cut off, see `hub/http_server.py`.
"""

from __future__ import annotations

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

_HEADERS: Final = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


def blob_server(root: Path, address: Address, tls: ssl.SSLContext | None) -> HttpServer:
    """A server of the bundles in `root`, not started yet. Raises ListenError, RolloutError.

    `tls` asks for client certificates of the fleet; without it only this machine may reach `address`.
    """
    if tls is None and not address.on_loopback:
        raise ListenError(
            f"bundles on {address} could be had by anybody: give a certificate (--ca, --cert, --key), "
            "or let --bundles-listen be on 127.0.0.1"
        )
    if tls is not None and tls.verify_mode != ssl.CERT_REQUIRED:
        raise ListenError(f"bundles on {address} could be had by anybody: its TLS asks for no client certificate")
    return HttpServer(application(Catalog(root), address, is_open=tls is None), address, tls=tls)


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
