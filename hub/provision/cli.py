"""`edge-hub provision`: the command line of a fleet's identities."""

from __future__ import annotations

import datetime as dt
import functools
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hub.broker_url import BrokerUrl
from hub.errors import HubError, LinkError, ProvisionError
from hub.provision.register import REASONS, Reason
from hub.provision.subject import ROLES, Role, Subject, is_host

if TYPE_CHECKING:
    from hub.provision.fleet import Fleet

PASSPHRASE: Final = "EDGE_FLEET_PASSPHRASE"  # noqa: S105 (where it is, not what)
MOST_CONNECTIONS: Final = 10_000

_fleet = click.option(
    "--fleet", "folder", default="fleet", show_default=True, type=click.Path(path_type=Path),
    help="Directory of the fleet's authority.",
)  # fmt: skip
_passphrase = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help=f"File with the passphrase of the authority's key; or ${PASSPHRASE}; else a terminal is asked.",
)
_days = click.option(
    "--days", type=click.IntRange(1, 7300), default=730, show_default=True, help="How long its certificate lasts."
)
_host = click.option("--host", "hosts", multiple=True, help="Name or address under which it is reached; repeatable.")
_broker = click.option("--broker", metavar="URL", help="Where it connects; default: the broker that was provisioned.")
_keep_old = click.option("--keep-old", is_flag=True, help="Do not revoke the certificate that it had before.")


def _errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """One line, exit code 1."""

    @functools.wraps(command)
    def told(**given: Any) -> None:
        try:
            command(**given)
        except HubError as error:
            click.echo(f"edge-hub: {error}", err=True)
            sys.exit(1)

    return told


def _reloading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a Mosquitto on this machine know once it is done."""

    @functools.wraps(command)
    def reloading(reload: int | None, pid_file: Path | None, **given: Any) -> None:
        if reload is not None and pid_file is not None:
            raise click.UsageError("give either --reload PID or --pid-file FILE")
        command(**given)
        pid = reload if pid_file is None else _pid_in(pid_file)
        if pid is not None:
            from hub.provision.fleet import reload as run

            run(pid)

    decorated: Callable[..., Any] = click.option(
        "--pid-file", type=click.Path(path_type=Path), help="The same, with the number in a file."
    )(reloading)
    return click.option(
        "--reload",
        type=click.IntRange(min=1),
        metavar="PID",
        help="Then let the Mosquitto of this process number reload.",
    )(decorated)


@click.group()
def provision() -> None:
    """Who belongs to a fleet: certificates, and the rules of its broker."""


@provision.command(epilog="Example: edge-hub provision init --fleet fleet")
@_fleet
@_passphrase
@_errors
def init(folder: Path, passphrase_file: Path | None) -> None:
    """Make the fleet's authority. Whoever has its directory can let anybody in."""
    run = _module().init
    given = _given(passphrase_file)
    if given is None and sys.stdin.isatty():
        text = click.prompt(
            "Passphrase of the authority (empty: none)", default="", hide_input=True, confirmation_prompt=True,
            show_default=False, err=True,
        )  # fmt: skip
        given = text.encode() or None
    run(folder, given, _now())
    click.echo(
        f"{folder}: made the authority{'' if given else ', without a passphrase'}; keep this directory to yourself"
    )


@provision.command(epilog="Example: edge-hub provision device kitchen")
@click.argument("name")
@_days
@_broker
@_keep_old
@_fleet
@_passphrase
@_errors
@_reloading
def device(
    name: str, days: int, broker: str | None, keep_old: bool, folder: Path, passphrase_file: Path | None
) -> None:
    """A directory to copy to device NAME: it may ask, and read its own answers."""
    _issue(Subject("device", name), folder, passphrase_file, days=days, broker=broker, keep_old=keep_old)


@provision.command(epilog="Example: edge-hub provision node orin-1")
@click.argument("name")
@click.option("--device", "asks_as", metavar="NAME", help="The device that this machine is; default: the node's name.")
@_days
@_broker
@_keep_old
@_fleet
@_passphrase
@_errors
@_reloading
def node(
    name: str,
    asks_as: str | None,
    days: int,
    broker: str | None,
    keep_old: bool,
    folder: Path,
    passphrase_file: Path | None,
) -> None:
    """A directory to copy to node NAME: it may answer, and ask as its own machine."""
    _issue(Subject("node", name, asks_as), folder, passphrase_file, days=days, broker=broker, keep_old=keep_old)


@provision.command(epilog="Example: edge-hub provision hub hub --host hub.example.org")
@click.argument("name")
@_host
@_days
@_broker
@_keep_old
@_fleet
@_passphrase
@_errors
@_reloading
def hub(
    name: str,
    hosts: tuple[str, ...],
    days: int,
    broker: str | None,
    keep_old: bool,
    folder: Path,
    passphrase_file: Path | None,
) -> None:
    """A directory for hub NAME, and for whoever runs `edge-hub nodes` and `drain`.

    It serves bundles under its --host, by default this machine's name.
    """
    hosts = hosts or (socket.gethostname(),)
    _issue(Subject("hub", name), folder, passphrase_file, days=days, hosts=hosts, broker=broker, keep_old=keep_old)


@provision.command(epilog="Example: edge-hub provision revoke kitchen")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), help="Where several identities have that name.")
@click.option("--reason", type=click.Choice(REASONS), default="key_compromise", show_default=True)
@_fleet
@_passphrase
@_errors
@_reloading
def revoke(name: str, role: Role | None, reason: Reason, folder: Path, passphrase_file: Path | None) -> None:
    """Let NAME (or ROLE-NAME) in no more, as soon as the broker has read its files again."""
    subject = _opened(folder, passphrase_file).revoke(name, role, reason, _now())
    click.echo(f"{subject.identity} is revoked; the broker must reload (--reload PID), or get the new files")


@provision.command(epilog="Example: edge-hub provision broker --host broker.example.org")
@_host
@click.option("--port", type=click.IntRange(1, 65_535), help="Where it listens.  [default: 8883]")
@click.option("--path", "lies_at", metavar="DIR", help="Where its directory will lie; default: where it is written.")
@click.option(
    "--max-connections", type=click.IntRange(min=1), help=f"At most so many clients.  [default: {MOST_CONNECTIONS}]"
)
@_days
@_fleet
@_passphrase
@_errors
@_reloading
def broker(
    hosts: tuple[str, ...],
    port: int | None,
    lies_at: str | None,
    max_connections: int | None,
    days: int,
    folder: Path,
    passphrase_file: Path | None,
) -> None:
    """A complete configuration directory for Mosquitto 2, with a certificate for its hosts.

    Without options it is what it was before, with a new certificate. First --host: what identities connect to.
    """
    from hub.provision.register import BrokerPlace

    fleet = _opened(folder, passphrase_file)
    default = BrokerPlace(
        (socket.gethostname(), "localhost"), 8883, str(fleet.broker_folder.resolve()), MOST_CONNECTIONS
    )
    before = fleet.register.broker or default
    place = BrokerPlace(
        hosts or before.hosts, port or before.port, lies_at or before.folder, max_connections or before.max_connections
    )
    click.echo(f"mosquitto -c {fleet.set_broker(place, _now(), days)}/mosquitto.conf")


def _issue(
    subject: Subject,
    folder: Path,
    passphrase_file: Path | None,
    *,
    days: int,
    broker: str | None,
    keep_old: bool,
    hosts: tuple[str, ...] = (),
) -> None:
    if broker is not None and not _is_broker(broker):
        raise click.UsageError(f"--broker must be mqtts://HOST[:PORT], got {broker!r}")
    fleet = _opened(folder, passphrase_file)
    click.echo(fleet.issue(subject, _now(), days=days, hosts=hosts, broker=broker, keep_old=keep_old))


def _is_broker(url: str) -> bool:
    try:
        at = BrokerUrl.parse(url)
    except LinkError:
        return False
    return at.tls is not None and is_host(at.host) and url.isprintable()


def _opened(folder: Path, passphrase_file: Path | None) -> Fleet:
    module = _module()
    given = _given(passphrase_file)
    if given is None and sys.stdin.isatty() and module.is_protected(folder):
        given = click.prompt("Passphrase of the authority", hide_input=True, err=True).encode()
    fleet: Fleet = module.Fleet(folder, given)
    return fleet


def _module() -> Any:
    try:
        from hub.provision import fleet
    except ImportError as error:
        raise ProvisionError(f"cryptography cannot be imported ({error}): install edgefleet[provision]") from None
    return fleet


def _given(passphrase_file: Path | None) -> bytes | None:
    if passphrase_file is None:
        return os.fsencode(os.environ.get(PASSPHRASE, "")) or None
    try:
        passphrase = passphrase_file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ProvisionError(f"{passphrase_file} cannot be read: {error.strerror}") from None
    if not passphrase:
        raise ProvisionError(f"{passphrase_file} is empty: write the passphrase into it, in one line")
    return passphrase


def _pid_in(path: Path) -> int:
    try:
        return int(path.read_text("ascii"))
    except OSError as error:
        raise ProvisionError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ProvisionError(f"{path} holds no process number") from None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)
