"""The hub's HTTP application: what Prometheus scrapes, whether the hub is well, and the routes of its pages.

Knows nothing of sockets, and of pages only that they are routes with their own way to let browsers in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from hub.http_guard import Keyed, Keys, PageHeaders, SameOrigin, allowed_hosts, nobody_else, without_key
from hub.http_server import LOOPBACK, Address
from hub.running_hub import RunningHub

log = logging.getLogger(__name__)

TURNS_WITHIN_S: Final = 5.0  # a hub whose loop answers nothing for as long is not well
OPEN_PATHS: Final = ("/healthz", "/readyz")  # for whoever restarts or routes to this hub; they tell nothing else
EXPOSITION_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"


class Pages(msgspec.Struct, frozen=True, kw_only=True):
    """What pages add: routes, and a way in for browsers, which send no bearer token by themselves.

    `admits` knows who has logged in, `refuse` makes the response for who has not, and anybody may see `open_paths`.
    Every request passes the guards of `application` first, whatever the route.
    """

    routes: tuple[BaseRoute, ...] = ()
    open_paths: tuple[str, ...] = ()
    admits: Callable[[Request], bool] = nobody_else
    refuse: Callable[[Request], Response] = without_key


def application(
    hub: RunningHub,
    exposition: Callable[[], bytes],
    *,
    keys: Sequence[str] = (),
    address: Address = LOOPBACK,
    pages: Pages = Pages(),  # noqa: B008 (frozen)
) -> Starlette:
    """The ASGI application of a server at `address`. With `keys`, all but `OPEN_PATHS` needs one of them.

    `exposition` gives Prometheus' text; it is called in a thread where it may wait for the hub.
    """
    health = _Health(hub, exposition)
    routes = [
        Route("/metrics", health.metrics),
        Route("/healthz", health.healthz),
        Route("/readyz", health.readyz),
        *pages.routes,
    ]
    guards = [
        Middleware(PageHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(keys, address)),
        Middleware(SameOrigin),
        Middleware(Keyed, Keys(keys), (*OPEN_PATHS, *pages.open_paths), pages.admits, pages.refuse),
    ]
    return Starlette(routes=routes, middleware=guards)


class _Health:
    def __init__(self, hub: RunningHub, exposition: Callable[[], bytes]) -> None:
        self._hub = hub
        self._exposition = exposition

    async def metrics(self, request: Request) -> Response:
        return Response(await run_in_threadpool(self._exposition), media_type=EXPOSITION_TYPE)

    async def healthz(self, request: Request) -> Response:
        """Well is a hub whose loop turns."""
        turned = asyncio.wrap_future(self._hub.call(lambda core, now: None))
        try:
            with anyio.fail_after(TURNS_WITHIN_S):
                await turned
        except TimeoutError:
            log.warning("the hub's loop has not turned for %.0f s", TURNS_WITHIN_S)
            return JSONResponse({"status": "stuck"}, 503)
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        ready = self._hub.ready
        return JSONResponse({"status": "ready" if ready else "not connected"}, 200 if ready else 503)
