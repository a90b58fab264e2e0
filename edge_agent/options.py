"""Options that several commands of `edge-agent` have."""

from __future__ import annotations

from pathlib import Path

import click

threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of one operator; default: the physical cores."
)
trust_option = click.option(
    "--trust",
    "trust",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Public key (PEM) whose signature is taken; repeat it while keys are changed. Nothing else is opened then.",
)
