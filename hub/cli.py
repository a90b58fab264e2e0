"""`edge-hub`: the command line of the hub."""

from __future__ import annotations

import sys
import time
from typing import NoReturn

import click

from hub.errors import HubError, StoreError

_DURATION_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

store_option = click.option(
    "--store", required=True, metavar="URL", help="Where the records are: a file, or an SQLAlchemy URL."
)


def _seconds(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """The seconds of `90s`, `15m`, `1h`, `7d`; a usage error for anything else."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if unit not in _DURATION_UNITS_S or not number.isdecimal():
        raise click.BadParameter(f"{text!r} is no duration: write a number and one of s, m, h, d, such as 90s or 1h")
    return float(number) * _DURATION_UNITS_S[unit]


@click.group()
@click.version_option(package_name="edgefleet")
def main() -> None:
    """The hub: sends each question to the node with the least network plus compute delay."""


@main.command(epilog="Example: edge-hub report --store fleet.sqlite --since 1h")
@store_option
@click.option("--since", callback=_seconds, metavar="DURATION", help="Only what ended in the last 90s, 15m, 1h, 7d ...")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--slo-ms", type=click.FloatRange(min=0, min_open=True), default=1000.0, show_default=True)
def report(store: str, since: float | None, form: str, slo_ms: float) -> None:
    """Tell how long the fleet's answers took, and where the time went."""
    import msgspec
    from rich.console import Console

    from hub.records import read_rows
    from hub.report import build_report, report_table

    now_s = time.time()
    since_s = None if since is None else now_s - since
    try:
        rows = read_rows(store, since_s=since_s)
    except HubError as error:
        _end(error)
    value = build_report(rows, slo_ms=slo_ms, since_s=since_s, until_s=None if since is None else now_s)
    if form == "json":
        click.echo(msgspec.json.encode(value))
    else:
        Console(width=None if sys.stdout.isatty() else 140, markup=False).print(report_table(value))


@main.command(epilog="Example: edge-hub explain --store fleet.sqlite")
@store_option
@click.argument("question_id", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def explain(store: str, question_id: str | None, as_json: bool) -> None:
    """Tell why the question ID (by default the last one) went where it went."""
    import msgspec
    from rich.console import Console

    from hub.explain import explain_document, explain_text
    from hub.records import read_question

    try:
        row = read_question(store, question_id)
        if row is None:
            which = f"no question {question_id!r}" if question_id else "no question yet"
            raise StoreError(f"there is {which} in this record store: `edge-hub report` tells what is")
    except HubError as error:
        _end(error)
    if as_json:
        click.echo(msgspec.json.encode(explain_document(row)))
        return
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False)
    for part in explain_text(row):
        console.print(part)


@main.command(epilog="Example: edge-hub serve --embedded-broker 1883 --store fleet.sqlite")
@click.option("--broker", metavar="URL", help="mqtt://[USER:PASSWORD@]HOST[:PORT], an MQTT 5 broker.")
@click.option(
    "--embedded-broker", "embedded", metavar="[HOST:]PORT", help="Start a broker here; without HOST on loopback only."
)
@click.option("--name", default="hub", show_default=True, help="This hub's name; each hub of a broker needs its own.")
@click.option("--store", metavar="URL", help="Keep records: a file, or an SQLAlchemy URL. Without it nothing is kept.")
def serve(broker: str | None, embedded: str | None, name: str, store: str | None) -> None:
    """Route questions until SIGTERM or Ctrl-C."""
    from hub.serve import serve as run
    from hub.wire import is_name

    if (broker is None) == (embedded is None):
        raise click.UsageError("give either --broker URL or --embedded-broker [HOST:]PORT")
    if not is_name(name):
        raise click.UsageError(f"{name!r} cannot name a hub: use 1 to 64 letters, digits, '.', '_' or '-'")
    try:
        run(name, broker=broker or "", embedded=embedded, store=store)
    except HubError as error:
        _end(error)


@main.command(epilog="Example: edge-hub nodes --broker mqtt://127.0.0.1:1883")
@click.option("--broker", default="mqtt://127.0.0.1:1883", show_default=True, metavar="URL")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def nodes(broker: str, as_json: bool) -> None:
    """Show the fleet as the broker's retained messages tell it; needs no running hub."""
    import msgspec
    from rich.console import Console

    from hub.nodes import fetch_fleet, nodes_document, nodes_table

    try:
        fleet = fetch_fleet(broker)
    except HubError as error:
        _end(error)
    if as_json:
        click.echo(msgspec.json.encode(nodes_document(fleet.nodes)))
    else:
        Console(width=None if sys.stdout.isatty() else 140).print(nodes_table(fleet))


def _end(error: HubError) -> NoReturn:
    """One line, exit code 1."""
    click.echo(f"edge-hub: {error}", err=True)
    sys.exit(1)
