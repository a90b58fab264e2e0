"""Runs a node as a process: bundles, service, signals and the log, put together and taken apart in order."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from edge_agent.bundle import Bundle, open_bundle
from edge_agent.deploy.deployer import Deployer, ToOpen
from edge_agent.deploy.fetch import Fetcher
from edge_agent.deploy.quiet_hours import QuietHours
from edge_agent.deploy.shelf import Shelf
from edge_agent.errors import AgentError, RuntimeUnavailable
from edge_agent.opened import Opened
from edge_agent.runtime.launch import Opening
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


class Deploying(msgspec.Struct, frozen=True, kw_only=True):
    """How bundles come from a hub: where they are kept, and when and how fast they are fetched."""

    folder: Path
    quiet_hours: QuietHours | None = None
    bytes_per_s: float | None = None


def serve(
    bundles: Sequence[Path],
    *,
    node: str,
    device: str,
    broker: BrokerUrl,
    opening: Opening,
    listening: Listening | None = None,
    trust: Sequence[TrustedKey] = (),
    deploying: Deploying | None = None,
    profile: str | None = None,
) -> None:
    """Serve `bundles`, and those that hubs deploy, as `node` on the machine of `device` until SIGTERM or SIGINT.

    Only what one of `trust` signed, if there is any. `profile` is the kind of device, by default its first bundle's.
    Raises AgentError or HubError.
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    if listening is not None:
        refuse_open(listening.address, listening.keys, "--api-key-file")

    def check(path: Path) -> Bundle:
        return _checked(path, trust)

    with contextlib.ExitStack() as stack:
        stack.enter_context(tracing.exporting("edge-agent", node))
        fixed = [check(path) for path in bundles]
        opened = Opened(opening, check, fixed)
        stack.callback(opened.close)
        deployer = None
        if deploying is not None:
            deployer = _deployer(deploying, check, fixed, broker)
            stack.callback(deployer.close)
        _open_all(opened, check, fixed, deployer)
        own = None if listening is None else Own(margin_ms=listening.margin_ms, records=listening.records)
        service = AgentService(
            broker, node, opened.answerers, device=device, own=own, profile=profile or opened.profile
        )
        opened.service = service
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: service.stop())
        if deployer is not None:
            service.deploy_with(deployer)
            deployer.start(opened)
        if listening is not None:
            stack.enter_context(_http(service, listening))
        try:
            service.run()
        except AgentError:  # nothing computes any more: for a bundle on trial that is a crash
            if deployer is not None:
                deployer.close(in_order=False)
            raise


def _checked(path: Path, trust: Sequence[TrustedKey]) -> Bundle:
    bundle = open_bundle(path, trust)
    if bundle.signer is not None:
        log.info("%s is signed by %s (SHA-256 %s)", path, bundle.signer.key, bundle.signer.fingerprint)
    return bundle


def _deployer(
    deploying: Deploying, check: Callable[[Path], Bundle], fixed: Sequence[Bundle], broker: BrokerUrl
) -> Deployer:
    """Fetches as who we are at the broker."""
    shelf = Shelf(deploying.folder, fixed=[bundle.path for bundle in fixed])
    fetcher = Fetcher(None if broker.tls is None else broker.tls.client_context, bytes_per_s=deploying.bytes_per_s)
    return Deployer(shelf, fetcher, check, fixed=fixed, quiet_hours=deploying.quiet_hours)


def _open_all(
    opened: Opened, check: Callable[[Path], Bundle], fixed: Sequence[Bundle], deployer: Deployer | None
) -> None:
    """What was deployed, in the place of what is fixed; where that cannot be opened, what there was before."""
    deployed = set()
    for first in () if deployer is None else deployer.bundles_to_open():
        to_open: ToOpen | None = first
        while to_open is not None and deployer is not None:
            try:
                opened.open(check(to_open.path), to_open.replaces)
            except AgentError as error:
                log.error("%s cannot be opened: %s", to_open.path, error)
                to_open = deployer.could_not_open(to_open.replaces, str(error))
            else:
                deployed.add(to_open.replaces)
                break
    for bundle in fixed:
        if bundle.manifest.model.name not in deployed:
            opened.open(bundle)


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
