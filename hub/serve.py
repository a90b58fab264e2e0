"""Runs a hub as a process: broker, records, service, HTTP, signals, log, put together and taken apart in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from hub import tracing
from hub.accounts import Heard
from hub.broker import EmbeddedBroker, parse_listen
from hub.broker_url import BrokerUrl
from hub.errors import ListenError, StoreAway
from hub.http_server import Address, HttpServer, refuse_open
from hub.objective import Objective
from hub.service import HubService
from hub.shares import Rate
from hub.store.numbers import heard_before
from hub.store.records import Records
from hub.store.retention import Retention
from hub.web.live import Live

if TYPE_CHECKING:
    from hub.metrics import Metrics
    from hub.rollout.carrier import Carrier

log = logging.getLogger(__name__)

# How long the thread that routes may wait for another one to let go of the interpreter; Python's usual 5 ms would be
# added to a question again and again while records are written, or Prometheus is told of a thousand nodes.
_SWITCH_S: Final = 0.0005


class Listening(msgspec.Struct, frozen=True):
    """Where the hub is watched over HTTP, and with which tokens: without any, by whoever reaches it."""

    address: Address
    tokens: tuple[str, ...] = ()


class Bundles(msgspec.Struct, frozen=True):
    """Where the bundles of rollouts lie, where nodes get them, and how nodes call that address if not by its own name.

    `tls` asks for the certificates of nodes, of which those in the list `revoked` are turned away, also those that come
    to it later; without it they are had on this machine only.
    """

    root: Path
    address: Address
    url: str | None = None
    tls: ssl.SSLContext | None = None
    revoked: Path | None = None


def serve(
    name: str,
    *,
    broker: BrokerUrl | None,
    embedded: str | None,
    store: str | None,
    retention: Retention,
    objective: Objective,
    device_rate: Rate | None = None,
    device_in_flight: int | None = None,
    fair_shares: bool = False,
    alone: bool = False,
    listening: Listening | None = None,
    bundles: Bundles | None = None,
) -> None:
    """Route until SIGTERM or SIGINT. `embedded` ([HOST:]PORT) starts a broker here; else there is a `broker`.

    A hub that is `alone` shares its asks with no other; one with `bundles` gives them, and carries out rollouts.

    Raises HubError (of `hub.errors`).
    """
    log_to_stderr()
    if listening is not None:
        refuse_open(listening.address, listening.tokens, "--token-file")
    metrics = None if listening is None else _metrics()
    live = Live(time.time)
    with contextlib.ExitStack() as stack:
        stack.enter_context(tracing.exporting("edge-hub", name))
        if embedded is not None:
            broker = BrokerUrl.parse(stack.enter_context(EmbeddedBroker(*parse_listen(embedded))).url)
        assert broker is not None
        records = None
        if store is not None:
            records = Records(store, name, retention)
            stack.callback(records.close)
        carrier = None if bundles is None else stack.enter_context(_carrier(bundles))
        service = HubService(
            broker,
            name,
            records,
            objective,
            device_rate=device_rate,
            device_in_flight=device_in_flight,
            fair_shares=fair_shares,
            alone=alone or embedded is not None,
            listeners=[] if metrics is None else [metrics, live],
            heard=_heard(store),
            desired_heard=None if carrier is None else carrier.heard,
        )
        stop_on_signals(service.stop)
        if listening is not None and metrics is not None:
            _tell_of_now(metrics, service, records, carrier)
            stack.enter_context(_http(service, broker, metrics, live, listening, carrier))
        if carrier is not None:
            carrier.start(service)
        if store is not None or listening is not None or carrier is not None:
            sys.setswitchinterval(_SWITCH_S)
        service.run()


def _heard(store: str | None) -> dict[str, Heard]:
    """What the records know; nothing, where their database is away."""
    with contextlib.suppress(StoreAway):
        return {} if store is None else heard_before(store)
    return {}


def _metrics() -> Metrics:
    try:
        from hub.metrics import Metrics
    except ImportError as error:
        raise ListenError(f"prometheus_client cannot be imported ({error}): install edgefleet[hub]") from None
    return Metrics()


def _tell_of_now(metrics: Metrics, service: HubService, records: Records | None, carrier: Carrier | None) -> None:
    from hub.fleet_gauges import FleetGauges
    from hub.rollout.gauges import RolloutGauges

    metrics.add(FleetGauges(service, None if records is None else records.kept))
    if carrier is not None:
        metrics.add(RolloutGauges(carrier.views))


@contextlib.contextmanager
def _carrier(bundles: Bundles) -> Iterator[Carrier]:
    """Who carries out rollouts, once it is started, and the server of their files, in a thread of its own."""
    try:
        from hub.rollout.blob_server import blob_server
    except ImportError as error:
        raise ListenError(f"starlette cannot be imported ({error}): install edgefleet[hub]") from None
    from hub.rollout.carrier import Carrier, source_of

    server = blob_server(bundles.root, bundles.address, bundles.tls, bundles.revoked)
    source = source_of(bundles.url, str(server.address), tls=bundles.tls is not None)
    carrier = Carrier(bundles.root, source)
    server.start()
    log.info("bundles in %s are at %s", bundles.root, source)
    try:
        yield carrier
    finally:
        carrier.stop()
        server.stop()


@contextlib.contextmanager
def _http(
    service: HubService, broker: BrokerUrl, metrics: Metrics, live: Live, listening: Listening, carrier: Carrier | None
) -> Iterator[None]:
    """The HTTP server, in a thread of its own, for as long as the hub runs."""
    try:
        from hub.web.app import application
        from hub.web.page import live_page
    except ImportError as error:
        raise ListenError(f"starlette cannot be imported ({error}): install edgefleet[hub]") from None
    rollouts = tuple if carrier is None else carrier.views
    page = live_page(service, broker, live, listening.tokens, time.time, rollouts)
    app = application(
        service,
        metrics.exposition,
        keys=listening.tokens,
        address=listening.address,
        pages=page.pages(),
    )
    server = HttpServer(app, listening.address)
    server.start()
    log.info("watch this hub at http://%s", server.address)
    try:
        yield
    finally:
        page.close()  # first: who watches would hold up the server's end
        server.stop()


def log_to_stderr() -> None:
    """One line per event, with the time of day."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Let SIGTERM and Ctrl-C end the process in order."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop())
