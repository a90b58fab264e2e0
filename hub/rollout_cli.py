"""`edge-hub deploy`, `rollout` and `bundles`: bring a bundle to the nodes, see how far that is, stop it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.config_file import EachTime, config_option
from hub.errors import HubError, RolloutError
from hub.identity_options import Identity, identity_options
from hub.real_range import RealRange

if TYPE_CHECKING:
    from hub.broker_url import BrokerUrl
    from hub.rollout.contents import Contents
    from hub.rollout.order import Order
    from hub.rollout.orders import Orders
    from hub.rollout.waves import Seen

LOOK_EVERY_S = 1.0
_WIDTH = 140

bundles_option = click.option(
    "--bundles", "root", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Where the hub has its bundles and rollouts: what `edge-hub serve --bundles` was given.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def share(_: click.Context, __: click.Parameter, text: str) -> float:
    """The share of a text such as 10% or 0.1; a usage error for anything else."""
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 100:
        raise click.BadParameter(f"{text!r} is no share: write it like 10% or 0.1")
    if found > 1 and not text.endswith("%"):
        raise click.BadParameter(f"{text!r} would be {found:.0%}: write {text}% or {found:.0%}")
    return found


@click.command(epilog="Example: edge-hub deploy bundles/smollm2-v2 --bundles /var/lib/edge --canary 10%")
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@bundles_option
@click.option("--to", "to", multiple=True, metavar="NODE|profile:P|all",
              help="Who is to get it; repeatable. Default: the nodes of the bundle's own profile.")  # fmt: skip
@click.option("--canary", callback=share, default="10%", show_default=True, metavar="SHARE",
              help="So many are the first, and the others wait for them.")  # fmt: skip
@click.option("--max-failure", callback=share, default="2%", show_default=True, metavar="SHARE",
              help="More questions than that may not fail on a node, nor more nodes: then it goes back.")  # fmt: skip
@click.option("--max-slower", callback=share, default="20%", show_default=True, metavar="SHARE",
              help="Answers may take longer by that than predicted.")  # fmt: skip
@click.option("--trial", "trial_s", type=RealRange(min=0, min_open=True, max=86_400), default=60.0,
              show_default=True, metavar="SECONDS", help="For so long a node is watched after its switch.")  # fmt: skip
@click.option("--silent", "silent_s", type=RealRange(min=0, min_open=True), default=1800.0, show_default=True,
              metavar="SECONDS", help="A node that says nothing for so long counts as failed.")  # fmt: skip
@click.option("--name", cls=EachTime, metavar="NAME",
              help="The rollout's name. Default: the model's, with the version.")  # fmt: skip
@click.option("--replaces", metavar="MODEL", help="The model whose place it takes. Default: the bundle's own.")
@click.option("--unsigned", is_flag=True, help="Deploy it although nobody has signed it; few nodes will take it.")
@click.option("--replace", "replace", is_flag=True, help="Stop a rollout of the same model that is not over.")
@click.option("--broker", default="mqtt://127.0.0.1:1883", show_default=True, metavar="URL",
              help="Where --dry-run sees who is there, and what they have.")  # fmt: skip
@identity_options()
@config_option
@click.option("--dry-run", is_flag=True, help="Tell who would get it, in which wave, and how many bytes travel.")
@click.option("--wait", is_flag=True, help="Follow it to its end; exit code 1 where it is stopped.")
@json_option
def deploy(
    bundle: Path, root: Path, to: tuple[str, ...], canary: float, max_failure: float, max_slower: float,
    trial_s: float, silent_s: float, name: str | None, replaces: str | None, unsigned: bool, replace: bool,
    broker: str, identity: Identity, dry_run: bool, wait: bool, as_json: bool,
) -> None:  # fmt: skip
    """Bring BUNDLE to the nodes: a few first, then more and more, and back where it is worse."""
    from hub import wire
    from hub.rollout.catalog import Catalog
    from hub.rollout.contents import read_contents
    from hub.rollout.orders import Orders

    if not 0 < canary <= 1 or max_failure > 1:
        raise click.UsageError("--canary is above 0% and up to 100%, --max-failure up to 100%")
    if dry_run and (wait or replace):
        raise click.UsageError("--dry-run changes nothing: leave out --wait and --replace")
    trial = wire.Trial(max_failure=max_failure, max_slower=max_slower, seconds=trial_s)
    try:
        contents = read_contents(bundle)
        if contents.signature is None and not unsigned:
            raise RolloutError(f"{bundle} is not signed: `edge-export --sign KEY` signs, or add --unsigned")
        orders = Orders(root)
        order = _ordered(contents, orders, to, canary, max_failure, silent_s, trial, name, replaces)
        if dry_run:
            _tell_trips(order, contents, Catalog(root), identity.at(broker), as_json)
            return
        catalog = Catalog(root)
        contents = catalog.add(bundle)
        with catalog.locked():
            orders.begin(order, replace=replace)
        click.echo(f"rollout {order.name} is ordered: {contents.name}", err=True)
        if wait:
            _follow(orders, order.name)
        if as_json:
            _print_json(_documents(orders, [order.name], None)[0])
    except HubError as error:
        _end(error)
    if wait and orders.progress(order.name).status != "done":
        sys.exit(1)


def _ordered(
    contents: Contents, orders: Orders, to: tuple[str, ...], canary: float, max_failure: float, silent_s: float,
    trial: Any, name: str | None, replaces: str | None,
) -> Order:  # fmt: skip
    """The order as the command line gives it. Raises RolloutError."""
    from hub import wire
    from hub.rollout.order import PROFILE, Order, check_target

    if name is not None and not wire.is_name(name):
        raise RolloutError(f"{name!r} cannot name a rollout: use 1 to 64 letters, digits, '.', '_' or '-'")
    targets = tuple(dict.fromkeys(check_target(each) for each in to or (PROFILE + contents.profile,)))
    return Order(
        name=name or _free_name(f"{contents.model[:40]}-v{contents.version}", orders.names()),
        at_s=time.time(),
        bundle=contents.bundle,
        version=contents.version,
        replaces=contents.model if replaces is None else replaces,
        manifest=contents.manifest.sha256,
        signature=None if contents.signature is None else contents.signature.sha256,
        size_bytes=contents.size_bytes,
        to=targets,
        canary=canary,
        max_failure=max_failure,
        silent_s=silent_s,
        trial=trial,
    )


def _free_name(wanted: str, taken: list[str]) -> str:
    """`wanted`, with a number where that is taken, and without what no name may have."""
    import itertools

    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in wanted)
    plain = plain if plain[0].isalnum() else f"r{plain}"
    names = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _tell_trips(order: Order, contents: Contents, catalog: Any, broker: BrokerUrl, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from hub.nodes import fetch_fleet
    from hub.rollout.travel import trips, trips_document
    from hub.rollout.view import seen_in, size

    found = trips(order, contents, seen_in(fetch_fleet(broker).nodes), catalog.all())
    whole = trips_document(order, contents, found)
    if as_json:
        return _print_json(whole)
    travel = size(whole["travels_bytes"])
    click.echo(f"{contents.name} would go to {len(found)} nodes in {whole['waves']} waves: {travel} travel")
    table = Table("node", "wave", "bytes", "")
    for trip in found:
        table.add_row(trip.node, "-" if trip.wave is None else str(trip.wave + 1), size(trip.bytes), trip.why)
    Console(width=None if sys.stdout.isatty() else _WIDTH, markup=False).print(table)
    return None


@click.group()
def rollout() -> None:
    """See how far rollouts are, and stop them."""


@rollout.command(epilog="Example: edge-hub rollout status --bundles /var/lib/edge --broker mqtt://127.0.0.1:1883")
@click.argument("name", required=False)
@bundles_option
@click.option("--broker", metavar="URL", help="Ask the nodes, too: how far each is within its phase.")
@identity_options()
@config_option
@click.option("--watch", is_flag=True, help="Print it again and again, until it is over.")
@json_option
def status(name: str | None, root: Path, broker: str | None, identity: Identity, watch: bool, as_json: bool) -> None:
    """Show how far rollout NAME is, with each of its nodes; without NAME all rollouts."""
    from hub.rollout.order import OPEN
    from hub.rollout.orders import Orders

    try:
        orders = Orders(root)
        while True:
            seen = _seen(None if broker is None else identity.at(broker))
            documents = _all_documents(orders, seen) if name is None else _documents(orders, [name], seen)
            _show(documents, name is not None, as_json)
            if not watch or not any(each["status"] in OPEN for each in documents):
                return
            time.sleep(LOOK_EVERY_S)
    except HubError as error:
        _end(error)


@rollout.command(epilog="Example: edge-hub rollout stop smollm2-v2 --bundles /var/lib/edge")
@click.argument("name")
@bundles_option
@config_option
@click.option("--wait", is_flag=True, help="Until the hub has told all nodes to go back.")
def stop(name: str, root: Path, wait: bool) -> None:
    """Stop rollout NAME: nodes that have switched, or are about to, go back to what they had."""
    from hub.rollout.orders import Orders

    try:
        orders = Orders(root)
        orders.stop(name, "stopped by hand")
        click.echo(f"rollout {name} is to stop: the hub that carries it out tells its nodes to go back", err=True)
        if wait:
            _follow(orders, name)
    except HubError as error:
        _end(error)


@click.command(epilog="Example: edge-hub bundles --bundles /var/lib/edge")
@bundles_option
@config_option
@click.option("--remove", metavar="BUNDLE-vN", help="Forget one, and every file that no other one has.")
@json_option
def bundles(root: Path, remove: str | None, as_json: bool) -> None:
    """Show which bundles the hub has, or remove one."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from hub.rollout.catalog import Catalog
    from hub.rollout.orders import Orders
    from hub.rollout.view import size

    try:
        catalog = Catalog(root)
        if remove is not None:
            Orders(root).refuse_in_use(remove)
            click.echo(f"{size(catalog.remove(remove))} are free", err=True)
            return None
        found = catalog.all()
    except HubError as error:
        _end(error)
    if as_json:
        return _print_json([{**msgspec.to_builtins(each), "size_bytes": each.size_bytes} for each in found])
    table = Table("bundle", "model", "profile", "files", "size", "signed")
    for each in found:
        signed = "no" if each.signature is None else "yes"
        table.add_row(each.name, each.model, each.profile, str(len(each.files)), size(each.size_bytes), signed)
    Console(width=None if sys.stdout.isatty() else _WIDTH, markup=False).print(table)
    return None


# --- what is printed ------------------------------------------------------------------------------------


def _seen(broker: BrokerUrl | None) -> dict[str, Seen] | None:
    from hub.nodes import fetch_fleet
    from hub.rollout.view import seen_in

    return None if broker is None else seen_in(fetch_fleet(broker).nodes)


def _documents(orders: Orders, names: list[str], seen: dict[str, Seen] | None) -> list[dict[str, Any]]:
    from hub.rollout.view import document

    return [document(orders.order(name), orders.progress(name), seen) for name in names]


def _all_documents(orders: Orders, seen: dict[str, Seen] | None) -> list[dict[str, Any]]:
    """The oldest first; last those that cannot be read."""
    from hub.rollout.view import document, left_out

    whole = [document(order, progress, seen) for order, progress in orders.all()]
    return [*whole, *({**left_out(name, why), "nodes": []} for name, why in orders.damaged().items())]


def _show(documents: list[dict[str, Any]], one: bool, as_json: bool) -> None:
    from rich.console import Console

    from hub.rollout.table import nodes_table, rollouts_table
    from hub.rollout.view import in_words

    if as_json:
        return _print_json(documents[0] if one else documents)
    if one:
        click.echo(in_words(documents[0]))
    shown = nodes_table(documents[0]) if one else rollouts_table(documents)
    Console(width=None if sys.stdout.isatty() else _WIDTH, markup=False).print(shown)
    return None


def _follow(orders: Orders, name: str) -> None:
    """One line on stderr whenever something has changed, until it is over."""
    from hub.rollout.order import OPEN
    from hub.rollout.view import in_words

    said = ""
    while True:
        now = _documents(orders, [name], None)[0]
        if (line := in_words(now)) != said:
            click.echo(line, err=True)
            said = line
        if now["status"] not in OPEN:
            return
        time.sleep(LOOK_EVERY_S)


def _print_json(value: object) -> None:
    import msgspec

    click.echo(msgspec.json.encode(value))


def _end(error: HubError) -> None:
    """One line, exit code 1."""
    click.echo(f"edge-hub: {error}", err=True)
    sys.exit(1)
