"""The command `edge-export`: parses, makes one call, prints.

Results go to stdout, progress to stderr. Knows nothing of how an export is done.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

EXAMPLE = """\b
Example:
  edge-export --model models/SmolLM2-135M-Instruct.Q4_1.gguf --profile desktop-cpu --output bundles/smollm2
"""


def _list_profiles(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from device_profiles.profile import COLUMNS, UNSOURCED_NOTE, table_rows

    _print_table([COLUMNS, *table_rows()])
    click.echo(UNSOURCED_NOTE)
    context.exit()


@click.command(epilog=EXAMPLE, context_settings={"max_content_width": 110})
@click.option("--model", required=True, help="Hugging Face directory (safetensors), GGUF file, or hub id.")
@click.option("--profile", required=True, help="Kind of device the bundle is for; see --list-profiles.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Bundle directory to create.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "int8", "int4"]),
    default="auto",
    show_default=True,
    help="auto: the fastest of int4, int8 and fp32 that keeps the accuracy.",
)
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="Points of next-token accuracy that may be lost, at 95% confidence.",
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Text to judge accuracy on, JSON Lines of {"text": ...}. Default: sampled from the model itself.',
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sampled text.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
@click.option(
    "--list-profiles", is_flag=True, is_eager=True, expose_value=False, callback=_list_profiles,
    help="Show all device profiles and exit.",
)  # fmt: skip
def main(
    model: str,
    profile: str,
    output: Path,
    precision: Any,
    max_accuracy_drop: float,
    calibration: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Turn a language model into a bundle that an edge agent can serve.

    Converts to ONNX, quantizes, checks each candidate against the original in the runtime that will serve it, and
    writes the fastest one that is still accurate. Exit code 3 and no bundle when none is.
    """
    from device_profiles.errors import ProfileError
    from edge_agent.errors import AgentError
    from exporter.errors import ExportError, GateRefused
    from exporter.pipeline import Order, export

    order = Order(
        model=model, profile=profile, output=output, precision=precision,
        max_accuracy_drop_points=max_accuracy_drop, calibration=calibration, seed=seed,
    )  # fmt: skip
    try:
        with _terminable(), _progress() as tell:
            report = export(order, tell)
    except GateRefused as refused:
        _print(refused.report, as_json)
        _fail(refused, 3)
    except (ExportError, AgentError, ProfileError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("interrupted: nothing was written", 1)
    _print(report, as_json)


def _fail(why: object, code: int) -> NoReturn:
    click.echo(f"edge-export: {why}", err=True)
    sys.exit(code)


def _print(report: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.document(), indent=2))
        return
    _print_table(report.table())
    if report.accepted:
        click.echo(f"{report.bundle_id} in {report.path}, {report.seconds:.0f} s")


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Plain columns: a table that a pipe can cut as well as an eye can read."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends an export as Ctrl-C does: with its staging directory removed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
