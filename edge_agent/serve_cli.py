"""`edge-agent serve`: its options, and what they may not say together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from edge_agent.options import threads_option, trust_option
from hub.config_file import config_option
from hub.identity_options import Identity, identity_options
from hub.real_range import RealRange

if TYPE_CHECKING:
    from edge_agent.runtime.choice import Asked


def _this_machine() -> str:
    import socket

    from hub.wire import is_name

    name = socket.gethostname()
    return name if is_name(name) else "node"


@click.command()
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Directory that edge-export wrote; repeat it to serve several.",
)
@click.option("--node", default=_this_machine, show_default="this machine's name", help="Each node needs its own name.")
@click.option(
    "--broker", default="mqtt://127.0.0.1:1883", show_default=True, metavar="URL", envvar="EDGE_BROKER",
    show_envvar=True, help="mqtt[s]://[USER:PASSWORD@]HOST[:PORT]; in the environment nobody sees its password.",
)  # fmt: skip
@identity_options(session_key=True)
@click.option(
    "--context", type=click.IntRange(16), help="Most positions of one question; default: the model's, up to 4096."
)
@threads_option
@click.option(
    "--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="Answers of a bundle written at once."
)
@click.option(
    "--prefix-cache-mb",
    type=click.IntRange(0, 1_000_000),
    default=128,
    show_default=True,
    help="Memory for what prompts begin with, for each bundle; 0 computes all of it each time.",
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "tensorrt", "tensorrt-rtx", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="What runs the model. auto: the best that is here, and the log and /metrics say why not a better one.",
)
@click.option(
    "--listen", metavar="[HOST:]PORT", help="Answer this device's own questions over HTTP too, as the OpenAI API does."
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help="Keys that HTTP requests must bring, one a line; needed where others can reach --listen.",
)
@click.option(
    "--device", show_default="the node's name", help="The device that this machine is: its questions go first."
)
@click.option(
    "--remote-margin-ms",
    type=RealRange(0, 1e9),
    default=50.0,
    show_default=True,
    help="Questions over --listen go to the fleet where it is sooner by more than this.",
)
@click.option(
    "--records",
    type=click.Path(path_type=Path),
    show_default="in the state directory",
    help="SQLite file in which what was answered over --listen waits for a hub.",
)
@trust_option
@click.option(
    "--deployments",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take bundles that hubs deploy, and keep them here; needs --trust.",
)
@click.option(
    "--fetch-mb-per-s",
    type=RealRange(min=0, min_open=True),
    metavar="MB",
    help="Fetch them no faster than this. Default: as fast as it goes.",
)
@click.option("--quiet-hours", metavar="HH:MM-HH:MM", help="Fetch nothing then, by this machine's clock.")
@click.option(
    "--profile", metavar="P", show_default="its bundle's", help="What kind of device this is, for who deploys bundles."
)
@config_option
def serve(
    bundles: tuple[Path, ...],
    node: str,
    broker: str,
    identity: Identity,
    context: int | None,
    threads: int | None,
    parallel: int,
    prefix_cache_mb: int,
    runtime: Asked,
    listen: str | None,
    api_key_file: Path | None,
    device: str | None,
    remote_margin_ms: float,
    records: Path | None,
    trust: tuple[Path, ...],
    deployments: Path | None,
    fetch_mb_per_s: float | None,
    quiet_hours: str | None,
    profile: str | None,
) -> None:
    """Answer questions that the hub sends, and this device's own, until SIGTERM or Ctrl-C.

    \b
    Example:
      edge-agent serve --bundle bundles/smollm2 --node orin-1 --broker mqtt://127.0.0.1:1883
    """
    from edge_agent.deploy.quiet_hours import QuietHours
    from edge_agent.runtime.launch import Opening
    from edge_agent.serve import Deploying, Listening, default_records
    from edge_agent.serve import serve as run
    from edge_agent.signature import read_trusted
    from hub.http_server import Address, read_keys
    from hub.wire import is_name

    device = node if device is None else device
    for what, name in (("node", node), ("device", device)):
        if not is_name(name):
            raise click.UsageError(f"{name!r} cannot name a {what}: use 1 to 64 letters, digits, '.', '_' or '-'")
    opening = Opening(
        context=context,
        threads=threads,
        parallel=parallel,
        prefix_bytes=prefix_cache_mb * 1_000_000,
        runtime=runtime,
    )
    if not bundles and deployments is None:
        raise click.UsageError(
            "there is nothing to serve: give --bundle DIR, or --deployments DIR for what hubs deploy"
        )
    if deployments is not None and not trust:
        raise click.UsageError("--deployments needs --trust KEY: nothing may come from a hub that nobody signed")
    _refuse_idle("listen", listen, "api_key_file", "remote_margin_ms", "records")
    _refuse_idle("deployments", deployments, "fetch_mb_per_s", "quiet_hours")
    deploying = None
    if deployments is not None:
        deploying = Deploying(
            folder=deployments,
            quiet_hours=None if quiet_hours is None else QuietHours.parse(quiet_hours),
            bytes_per_s=None if fetch_mb_per_s is None else fetch_mb_per_s * 1e6,
        )
    listening = None
    if listen is not None:
        keys = () if api_key_file is None else read_keys(api_key_file)
        listening = Listening(
            address=Address.parse(listen), keys=keys, margin_ms=remote_margin_ms,
            records=default_records(node) if records is None else records,
        )  # fmt: skip
    run(
        bundles, node=node, device=device, broker=identity.at(broker), opening=opening, listening=listening,
        trust=read_trusted(trust), deploying=deploying, profile=_profile(profile),
    )  # fmt: skip


def _refuse_idle(option: str, given: object, *others: str) -> None:
    """Raise UsageError for one of `others`, which do nothing without `option`."""
    if given is None:
        for other in others:
            if click.get_current_context().get_parameter_source(other) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--{other.replace('_', '-')} does nothing without --{option}")


def _profile(name: str | None) -> str | None:
    """The profile's own name, where `name` is another one of it."""
    import device_profiles
    from device_profiles.errors import ProfileError

    try:
        return None if name is None else device_profiles.load(name).name
    except ProfileError as error:
        raise click.UsageError(str(error)) from None
