"""Runs a node as a process: bundles, service, signals and the log, put together and taken apart in order."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edge_agent.bundle import open_bundle
from edge_agent.errors import BundleError, RuntimeUnavailable
from edge_agent.runtime.generation import Answerer
from edge_agent.runtime.launch import Opening, open_answerer
from edge_agent.service import AgentService, Own
from edge_agent.signature import TrustedKey
from hub import tracing
from hub.broker_url import BrokerUrl
from hub.http_server import Address, HttpServer, refuse_open

log = logging.getLogger(__name__)


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """Where questions of this device are taken over HTTP, and who may ask: without keys, whoever reaches it.

    They go to the fleet where that is sooner by `margin_ms`; what is answered here waits in `records` for a hub.
    """

    address: Address
    margin_ms: float
    records: Path
    keys: tuple[str, ...] = ()


def default_records(node: str) -> Path:
    """Where systemd, or else the desktop's base directories, keep what a program must not lose."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return (Path(given) if given else Path(base) / "edgefleet") / f"{node}-records.db"


def serve(
    bundles: Sequence[Path],
    *,
    node: str,
    device: str,
    broker: BrokerUrl,
    opening: Opening,
    listening: Listening | None = None,
    trust: Sequence[TrustedKey] = (),
) -> None:
    """Serve `bundles` as `node` on the machine of `device` until SIGTERM or SIGINT; only what one of `trust` signed, if
    there is any. Raises AgentError or HubError.
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    if listening is not None:
        refuse_open(listening.address, listening.keys, "--api-key-file")
    with contextlib.ExitStack() as stack:
        stack.enter_context(tracing.exporting("edge-agent", node))
        answerers: dict[str, Answerer] = {}
        for path in bundles:
            bundle = open_bundle(path, trust)
            if bundle.signer is not None:
                log.info("%s is signed by %s (SHA-256 %s)", path, bundle.signer.key, bundle.signer.fingerprint)
            answerer = open_answerer(bundle, opening)
            stack.callback(answerer.close)
            served = answerer.served
            if served.bundle in answerers:
                raise BundleError(f"{path} is bundle {served.bundle} again: give each bundle once")
            answerers[served.bundle] = answerer
            log.info(
                "opened %s: %.1f ms + %.2f ms a prompt token + %.2f ms an answer token here",
                served.bundle,
                served.fixed_ms,
                served.prefill_ms_per_token,
                served.decode_ms_per_token,
            )
        own = None if listening is None else Own(margin_ms=listening.margin_ms, records=listening.records)
        service = AgentService(broker, node, answerers, device=device, own=own)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: service.stop())
        if listening is not None:
            stack.enter_context(_http(service, listening))
        service.run()


@contextlib.contextmanager
def _http(service: AgentService, listening: Listening) -> Iterator[None]:
    """The HTTP server, for as long as the service runs."""
    try:
        from edge_agent.api import application
    except ImportError as error:
        raise RuntimeUnavailable(f"starlette cannot be imported ({error}): install edgefleet[agent]") from None
    server = HttpServer(application(service, keys=listening.keys, address=listening.address), listening.address)
    server.start()
    log.info("answers at http://%s/v1", server.address)
    try:
        yield
    finally:
        server.stop()
