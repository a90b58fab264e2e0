"""`edge-hub`: the command line of the hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, NoReturn

import click

from hub.config_file import FILE_OR_URL, config_option
from hub.errors import HubError, StoreError
from hub.identity_options import Identity, identity_options
from hub.printable import print_what_can_be
from hub.provision.cli import provision
from hub.real_range import RealRange
from hub.report_cli import report
from hub.rollout_cli import bundles, deploy, rollout
from hub.shares import Rate
from hub.simulate_cli import simulate

BUNDLES_PORT = "9810"
store_option = click.option(
    "--store", required=True, metavar="URL", help="Where the records are: a file, or an SQLAlchemy URL."
)


def _rate(_: click.Context, __: click.Parameter, text: str | None) -> Rate | None:
    try:
        return None if text is None else Rate.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group()
@click.version_option(package_name="edgefleet")
def main() -> None:
    """The hub: sends each question to the node with the least network plus compute delay."""
    print_what_can_be()


main.add_command(simulate)
main.add_command(report)
main.add_command(provision)
main.add_command(deploy)
main.add_command(rollout)
main.add_command(bundles)


@main.command(epilog="Example: edge-hub explain --store fleet.sqlite")
@store_option
@click.argument("question_id", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def explain(store: str, question_id: str | None, as_json: bool) -> None:
    """Tell why the question ID (by default the last one) went where it went."""
    import msgspec
    from rich.console import Console

    from hub.explain import explain_document, explain_text
    from hub.store.reading import read_question

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
@click.option("--broker", metavar="URL", help="mqtt[s]://[USER:PASSWORD@]HOST[:PORT], an MQTT 5 broker.")
@identity_options(session_key=True)
@click.option(
    "--embedded-broker", "embedded", metavar="[HOST:]PORT", help="Start a broker here; without HOST on loopback only."
)
@click.option("--name", default="hub", show_default=True, help="This hub's name; each hub of a broker needs its own.")
@click.option(
    "--store",
    type=FILE_OR_URL,
    metavar="URL",
    help="Keep records: a file, or an SQLAlchemy URL. Without it nothing is kept.",
)
@click.option(
    "--retain-days",
    type=RealRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="DAYS",
    help="Older records leave the store.",
)
@click.option(
    "--retain-rows",
    type=click.IntRange(min=1),
    default=1_000_000,
    show_default=True,
    metavar="N",
    help="Of more records than this the oldest leave the store.",
)
@click.option(
    "--objective",
    type=click.Choice(["question", "fleet"]),
    default="fleet",
    show_default=True,
    help="The least delay of each question, or of all together.",
)
@click.option(
    "--device-rate",
    callback=_rate,
    metavar="N[/s|/m|/h]",
    help="A device may ask N questions at once, and N in every second (minute, hour) after that. Default: no bound.",
)
@click.option(
    "--device-in-flight",
    type=click.IntRange(1),
    metavar="N",
    help="A device may have N questions in flight. Default: no bound.",
)
@click.option(
    "--fair-shares",
    is_flag=True,
    help="When the hub is crowded, refuse first whoever has more than its share in flight.",
)
@click.option(
    "--alone",
    is_flag=True,
    help="The only hub of its broker: takes asks without a shared subscription. An embedded broker's hub always is.",
)
@click.option("--listen", metavar="[HOST:]PORT", help="Be watched over HTTP; without HOST on loopback only.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="Tokens that HTTP requests must bring, one a line; needed where others can reach --listen.",
)
@click.option(
    "--bundles",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Give nodes the bundles in this directory, and carry out its rollouts (`edge-hub deploy`).",
)
@click.option(
    "--bundles-listen",
    metavar="[HOST:]PORT",
    help=f"Where nodes get them; without HOST on loopback only.  [default: 127.0.0.1:{BUNDLES_PORT}]",
)
@click.option("--bundles-url", metavar="URL", help="How nodes call that address, like https://hub.example:9810.")
@click.option(
    "--crl",
    type=click.Path(path_type=Path),
    help="Certificates that are revoked: who shows one gets no bundle. It may be written anew at any time.",
)
@config_option
def serve(
    broker: str | None,
    identity: Identity,
    embedded: str | None,
    name: str,
    store: str | None,
    retain_days: float,
    retain_rows: int,
    objective: Literal["question", "fleet"],
    device_rate: Rate | None,
    device_in_flight: int | None,
    fair_shares: bool,
    alone: bool,
    listen: str | None,
    token_file: Path | None,
    bundles: Path | None,
    bundles_listen: str | None,
    bundles_url: str | None,
    crl: Path | None,
) -> None:
    """Route questions until SIGTERM or Ctrl-C."""
    from hub.http_server import Address, read_keys
    from hub.serve import Bundles, Listening
    from hub.serve import serve as run
    from hub.store.retention import Retention
    from hub.wire import is_name

    if (broker is None) == (embedded is None):
        raise click.UsageError("give either --broker URL or --embedded-broker [HOST:]PORT")
    if embedded is not None and identity.is_given:
        raise click.UsageError(
            "the embedded broker knows no certificates: --ca, --cert, --key and --session-key do nothing"
        )
    if not is_name(name):
        raise click.UsageError(f"{name!r} cannot name a hub: use 1 to 64 letters, digits, '.', '_' or '-'")
    if token_file is not None and listen is None:
        raise click.UsageError("--token-file does nothing without --listen")
    if bundles is None and (bundles_listen is not None or bundles_url is not None):
        raise click.UsageError("--bundles-listen and --bundles-url do nothing without --bundles")
    try:
        listening = None
        if listen is not None:
            tokens = () if token_file is None else read_keys(token_file)
            listening = Listening(Address.parse(listen), tokens)
        given = None
        if bundles is not None:
            address = Address.parse(bundles_listen or BUNDLES_PORT)
            given = Bundles(bundles, address, bundles_url, identity.server_context(crl), revoked=crl)
        run(
            name,
            broker=None if broker is None else identity.at(broker),
            embedded=embedded,
            store=store,
            retention=Retention(days=retain_days, rows=retain_rows),
            objective=objective,
            device_rate=device_rate,
            device_in_flight=device_in_flight,
            fair_shares=fair_shares,
            alone=alone,
            listening=listening,
            bundles=given,
        )
    except HubError as error:
        _end(error)


@main.command(epilog="Example: edge-hub nodes --broker mqtt://127.0.0.1:1883")
@click.option("--broker", default="mqtt://127.0.0.1:1883", show_default=True, metavar="URL")
@identity_options()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def nodes(broker: str, identity: Identity, as_json: bool) -> None:
    """Show the fleet as the broker's retained messages tell it; needs no running hub."""
    import msgspec
    from rich.console import Console

    from hub.narrow import tables_that_fit
    from hub.nodes import fetch_fleet, nodes_document, nodes_table

    try:
        fleet = fetch_fleet(identity.at(broker))
    except HubError as error:
        _end(error)
    if as_json:
        click.echo(msgspec.json.encode(nodes_document(fleet.nodes)))
    else:
        console = Console(width=None if sys.stdout.isatty() else 140)
        for table in tables_that_fit(nodes_table(fleet), console.width):
            console.print(table)


@main.command(epilog="Example: edge-hub drain orin-1 --broker mqtt://127.0.0.1:1883")
@click.argument("node")
@click.option("--broker", default="mqtt://127.0.0.1:1883", show_default=True, metavar="URL")
@identity_options()
@config_option
@click.option("--undo", is_flag=True, help="Let it take questions again.")
@click.option(
    "--wait", "wait_s", type=RealRange(min=0), default=60.0, show_default=True, metavar="SECONDS",
    help="How long to wait for it to end what it has.",
)  # fmt: skip
def drain(node: str, broker: str, identity: Identity, undo: bool, wait_s: float) -> None:
    """Let NODE end what it has and take nothing new; it stays connected. Needs no running hub."""
    from hub.drain import drain as run
    from hub.wire import is_name

    if not is_name(node):
        raise click.UsageError(f"{node!r} cannot name a node: use 1 to 64 letters, digits, '.', '_' or '-'")
    try:
        at = identity.at(broker)
        click.echo(run(at, node, on=not undo, wait_s=wait_s, tell=lambda line: click.echo(line, err=True)))
    except HubError as error:
        _end(error)


def _end(error: HubError) -> NoReturn:
    """One line, exit code 1."""
    click.echo(f"edge-hub: {error}", err=True)
    sys.exit(1)
