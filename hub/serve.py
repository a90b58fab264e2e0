"""Runs a hub as a process: broker, records, service, signals and the log, put together and taken apart in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Callable

from hub.broker import EmbeddedBroker, parse_listen
from hub.objective import Objective
from hub.service import HubService
from hub.shares import Rate
from hub.store.numbers import heard_before
from hub.store.records import Records
from hub.store.retention import Retention


def serve(
    name: str,
    *,
    broker: str,
    embedded: str | None,
    store: str | None,
    retention: Retention,
    objective: Objective,
    device_rate: Rate | None = None,
    fair_shares: bool = False,
    alone: bool = False,
) -> None:
    """Route until SIGTERM or SIGINT. `embedded` ([HOST:]PORT) starts a broker here, and `broker` is not used.

    A hub that is `alone` shares its asks with no other.

    Raises HubError (of `hub.errors`).
    """
    log_to_stderr()
    with contextlib.ExitStack() as stack:
        if embedded is not None:
            broker = stack.enter_context(EmbeddedBroker(*parse_listen(embedded))).url
        records, heard = None, None
        if store is not None:
            records = Records(store, name, retention)
            heard = heard_before(store)
            stack.callback(records.close)
        service = HubService(
            broker,
            name,
            records,
            objective,
            device_rate=device_rate,
            fair_shares=fair_shares,
            alone=alone or embedded is not None,
            heard=heard,
        )
        stop_on_signals(service.stop)
        service.run()


def log_to_stderr() -> None:
    """One line per event, with the time of day."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Let SIGTERM and Ctrl-C end the process in order."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop())
