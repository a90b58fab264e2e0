"""Runs a node as a process: bundles, service, signals and the log, put together and taken apart in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_agent.errors import BundleError
from edge_agent.runtime.engine import Engine, open_engine
from edge_agent.service import AgentService

log = logging.getLogger(__name__)


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """How bundles are opened: what `open_engine` says of each of these."""

    context: int | None
    threads: int | None
    parallel: int
    prefix_bytes: int


def serve(bundles: Sequence[Path], *, node: str, broker: str, opening: Opening) -> None:
    """Serve `bundles` as `node` until SIGTERM or SIGINT. Raises AgentError or LinkError."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    with contextlib.ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for path in bundles:
            engine = open_engine(
                path,
                context=opening.context,
                threads=opening.threads,
                parallel=opening.parallel,
                prefix_bytes=opening.prefix_bytes,
            )
            stack.callback(engine.close)
            if engine.served.bundle in engines:
                raise BundleError(f"{path} is bundle {engine.served.bundle} again: give each bundle once")
            engine.warm_up()
            served = engine.served
            engines[served.bundle] = engine
            log.info(
                "opened %s: %.1f ms + %.2f ms a prompt token + %.2f ms an answer token here",
                served.bundle,
                served.fixed_ms,
                served.prefill_ms_per_token,
                served.decode_ms_per_token,
            )
        service = AgentService(broker, node, engines)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: service.stop())
        service.run()
