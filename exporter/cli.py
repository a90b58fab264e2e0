"""The command `edge-export`: parses, makes one call, prints.

Results go to stdout, progress to stderr. Knows nothing of how an export is done.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from exporter.recipes import INT4_METHODS
from exporter.sign_options import signing_of, signing_options, without_signing
from exporter.task import TASKS
from hub.config_file import FILE_OR_NAME, config_option
from hub.printable import print_what_can_be

EXAMPLE = """\b
Example:
  edge-export --model models/SmolLM2-135M-Instruct.Q4_1.gguf --profile desktop-cpu --output bundles/smollm2
  edge-export --bundle bundles/smollm2 --sign maker.pem --version 2
"""
_ONLY_EXPORTS = ("model", "profile", "output")


def _list_profiles(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from device_profiles.profile import COLUMNS, UNSOURCED_NOTE, table_rows

    _print_table([COLUMNS, *table_rows()])
    click.echo(UNSOURCED_NOTE)
    context.exit()


class _Finite(click.FloatRange):
    """A number in a range: NaN, which no comparison refuses, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


def _checked_prune(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Wrong usage is told before any work."""
    if given:
        from exporter.prune import parse_prune

        for text in given:
            try:
                parse_prune(text)
            except ValueError as error:
                raise click.BadParameter(str(error)) from None
    return given


def _readable(help_text: str, *names: str, **more: Any) -> Callable[[Any], Any]:
    """An option that takes a file which must exist."""
    kind = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option(*names, type=kind, help=help_text, **more)


@click.command(epilog=EXAMPLE, context_settings={"max_content_width": 110})
@click.option("--model", type=FILE_OR_NAME, help="Hugging Face directory (safetensors), GGUF file, or hub id.")
@click.option("--profile", help="Kind of device the bundle is for; see --list-profiles.")
@click.option("--output", type=click.Path(path_type=Path), help="Bundle directory to create.")
@click.option("--bundle", type=click.Path(path_type=Path), metavar="DIR",
              help="Sign this bundle, or give it another version, instead of exporting a model.")  # fmt: skip
@signing_options
@click.option("--version", type=click.IntRange(1, 2**53), metavar="N",
              help="Nodes take no bundle of a lower version.  [default: 1; with --bundle: as it was]")  # fmt: skip
@click.option("--downgrade-from", type=click.IntRange(1, 2**53), metavar="N",
              help="Let it take the place of versions up to N all the same.")  # fmt: skip
@click.option("--jetpack", metavar="VERSION", help="JetPack of a Jetson, where it is not the profile's own.")
@click.option("--task", type=click.Choice(["auto", *TASKS]), default="auto", show_default=True,
              help="What the model does; auto reads the checkpoint.")  # fmt: skip
@click.option("--prune", multiple=True, metavar="METHOD:AMOUNT", callback=_checked_prune,
              help="magnitude, wanda, 2:4, ffn, heads or layers, and the share to remove; repeatable.")  # fmt: skip
@click.option("--compress", type=_Finite(min=1, min_open=True, max=64), metavar="R",
              help="Share weights until the feed-forward layers are R times narrower.")  # fmt: skip
@click.option("--recover", type=click.IntRange(0, 100_000), default=0, metavar="STEPS",
              help="Distil from the untouched model after pruning or compression.")  # fmt: skip
@click.option("--precision", type=click.Choice(["auto", "fp32", "fp16", "fp8", "int8", "int4", "mixed"]),
              default="auto", show_default=True, help="auto: the fastest that keeps the accuracy.")  # fmt: skip
@click.option("--quantizer", type=click.Choice(["auto", *INT4_METHODS]), default="auto", show_default=True,
              help="How 4-bit codes are found; auto tries what is best.")  # fmt: skip
@click.option("--block-size", "block", type=click.Choice(["32", "64", "128"]),
              help="Weights that share a scale.  [default: 32]")  # fmt: skip
@click.option("--static-calibration", "static_method", type=click.Choice(["minmax", "entropy", "percentile"]),
              help="How ranges of static int8 are found, for an encoder's engine.  [default: entropy]")  # fmt: skip
@click.option("--max-accuracy-drop", "max_accuracy_drop_points", type=_Finite(min=0, max=100), default=1.0,
              show_default=True, metavar="POINTS",
              help="Points of accuracy that may be lost, at 95% confidence.")  # fmt: skip
@click.option("--target-latency-ms", type=_Finite(min=0, min_open=True), metavar="X",
              help="Refuse what needs longer for an answer (37 tokens in, 96 out; an encoder: 37 in).")  # fmt: skip
@_readable(
    'Text that passes learn from, JSON Lines of {"text": ...}. Default: sampled from the model.', "--calibration"
)
@_readable('What judges, JSON Lines of {"question", "answers"}, {"text", "label"} or {"text"}.', "--eval", "evaluation")
@click.option("--context", type=click.IntRange(16), metavar="TOKENS",
              help="Positions that must fit into the device's memory; default: the model's, up to 4096.")  # fmt: skip
@click.option("--engine", type=click.Choice(["auto", "none", "tensorrt-rtx"]), default="auto", show_default=True,
              help="Build engines ahead of time; auto: where the profile and this machine can.")  # fmt: skip
@click.option(
    "--allow-pickle", is_flag=True, help="Take pickled weights (.bin), which can run code: trusted ones only."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of sampling and recovery.")
@click.option(
    "--dry-run", is_flag=True, help="Check everything that can be checked before the work, and say what would be done."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
@config_option
@click.option("--list-profiles", is_flag=True, is_eager=True, expose_value=False, callback=_list_profiles,
              help="Show all device profiles and exit.")  # fmt: skip
def main(
    as_json: bool,
    block: str | None,
    bundle: Path | None,
    sign_key: Path | None,
    passphrase_file: Path | None,
    sign_command: str | None,
    public_key: Path | None,
    version: int | None,
    downgrade_from: int | None,
    **asked: Any,
) -> None:
    """Turn a language model into a bundle that an edge agent can serve.

    Prunes and compresses on demand, converts to ONNX, quantizes, checks each candidate against the original in the
    runtime that will serve it, and writes the fastest one that is still accurate. Exit code 3 and no bundle when none
    is.
    """
    from device_profiles.errors import ProfileError
    from edge_agent.errors import AgentError
    from exporter.errors import ExportError, GateRefused

    print_what_can_be()
    if downgrade_from is not None and version is not None and downgrade_from < version:
        raise click.UsageError(f"--downgrade-from {downgrade_from} is below --version {version}")
    try:
        sign = signing_of(sign_key, passphrase_file, sign_command, public_key)
        if bundle is not None:
            _resign(bundle, sign, version, downgrade_from, as_json)
            return
    except (ExportError, AgentError) as error:
        _fail(error, 1)
    if missing := [name for name in _ONLY_EXPORTS if asked[name] is None]:
        raise click.UsageError(f"Missing option '--{missing[0]}'.")
    from exporter.order import Order
    from exporter.pipeline import export, plan

    # PyTorch's threads wait for one another by spinning; where something else runs on a core, that made its layers
    # seven times slower, and on an idle machine it gains nothing. Read when PyTorch is loaded, which it is not yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    order = Order(
        block=None if block is None else int(block),
        command=shlex.join(["edge-export", *without_signing(sys.argv[1:])]),
        version=version or 1,
        downgrade_from=downgrade_from,
        **asked,
    )
    try:
        with _terminable(), _progress() as tell:
            report = plan(order) if order.dry_run else export(order, tell, sign)
    except GateRefused as refused:
        _print(refused.report, as_json)
        _fail(refused, 3)
    except (ExportError, AgentError, ProfileError) as error:
        _fail(error, 1)
    except MemoryError:
        _fail("not enough memory on this machine: close other programs, or export on a larger one", 1)
    except KeyboardInterrupt:
        _fail("interrupted: nothing was written", 1)
    _print(report, as_json)


def _resign(bundle: Path, sign: Any, version: int | None, downgrade_from: int | None, as_json: bool) -> None:
    """Sign what is there. Nothing that says how a model becomes a bundle goes with that."""
    from exporter.resign import resign

    context = click.get_current_context()
    own = {
        "bundle",
        "sign_key",
        "passphrase_file",
        "sign_command",
        "public_key",
        "version",
        "downgrade_from",
        "as_json",
    }
    for name in context.params.keys() - own:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} does nothing with --bundle")
    if sign is None:
        raise click.UsageError("--bundle needs --sign or --sign-command")
    manifest = resign(bundle, sign, version=version, downgrade_from=downgrade_from)
    if as_json:
        said = {"bundle_id": manifest.bundle_id, "path": str(bundle), "version": manifest.version}
        click.echo(json.dumps({**said, "downgrade_from": manifest.downgrade_from}, indent=2))
    else:
        click.echo(f"{manifest.bundle_id} version {manifest.version} in {bundle} is signed")


def _fail(why: object, code: int) -> NoReturn:
    click.echo(f"edge-export: {why}", err=True)
    sys.exit(code)


def _print(report: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.document(), indent=2))
        return
    _print_table(report.table())
    for why in report.engines_refused:
        click.echo(f"engine not in {why}")
    if report.accepted:
        click.echo(f"{report.bundle_id} in {report.path}, {report.seconds:.0f} s")


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Plain columns: a table that a pipe can cut as well as an eye can read."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, and a terminal that goes, end an export as Ctrl-C does: with its staging directory removed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    heard = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]  # as nohup sets
    before = {one: signal.signal(one, interrupt) for one in heard}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A progress line on stderr, and silence where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, part: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def tell(what: str, part: float) -> None:
            progress.update(task, description=what, completed=part)

        yield tell


if __name__ == "__main__":
    main()
