"""The command `edge-agent`: reads arguments, makes one call, prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import msgspec

from edge_agent.errors import AgentError
from edge_agent.options import threads_option, trust_option
from edge_agent.serve_cli import serve
from hub.errors import HubError
from hub.printable import print_what_can_be


class _Commands(click.Group):
    """Errors of ours are one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (AgentError, HubError) as error:
            raise click.ClickException(str(error)) from None


_bundle = click.option(
    "--bundle",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory that edge-export wrote.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, nothing else.")


@click.group(cls=_Commands)
def main() -> None:
    """Open bundles, measure them, and answer questions with them.

    \b
    Example:
      edge-agent bench --bundle bundles/smollm2
    """
    print_what_can_be()


main.add_command(serve)


@main.command()
@_bundle
@threads_option
@click.option("--prompt-tokens", type=click.IntRange(2, 100_000), default=37, show_default=True)
@click.option("--new-tokens", type=click.IntRange(2, 100_000), default=96, show_default=True)
@_json
def bench(bundle: Path, threads: int | None, prompt_tokens: int, new_tokens: int, as_json: bool) -> None:
    """Measure what answers cost on this machine.

    \b
    Example:
      edge-agent bench --bundle bundles/smollm2 --json
    """
    from edge_agent.bench import bench_bundle
    from edge_agent.bundle import open_bundle

    opened = open_bundle(bundle)
    report = bench_bundle(opened, threads=threads, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    _print(report, as_json, opened.manifest.bundle_id)


@main.command(name="eval")
@_bundle
@click.option("--text", type=click.Path(path_type=Path), help="UTF-8 text: next-token accuracy and perplexity.")
@click.option(
    "--qa",
    type=click.Path(path_type=Path),
    help='JSONL rows {"question", "answers": [...]}, and "context" for encoders.',
)
@click.option("--labelled", type=click.Path(path_type=Path), help='JSONL rows {"text", "label"}, for classifiers.')
@click.option("--samples", is_flag=True, help="What the bundle gave when it was made, against what it gives here.")
@threads_option
@_json
def evaluate(
    bundle: Path,
    text: Path | None,
    qa: Path | None,
    labelled: Path | None,
    samples: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Check on this device whether the bundle is still truthful. Accuracies are in percent.

    \b
    Example:
      edge-agent eval --bundle bundles/smollm2 --qa capitals.jsonl
    """
    if sum((text is not None, qa is not None, labelled is not None, samples)) != 1:
        raise click.UsageError("give one of --text, --qa, --labelled and --samples")
    with _Progress() as progress:
        if text is not None:
            score, bundle_id = _eval_text(bundle, text, threads, progress)
        elif qa is not None:
            score, bundle_id = _eval_qa(bundle, qa, threads, progress)
        elif labelled is not None:
            score, bundle_id = _eval_labelled(bundle, labelled, threads, progress)
        else:
            score, bundle_id = _eval_samples(bundle, threads, progress)
    _print(score, as_json, bundle_id)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@trust_option
@_json
def inspect(bundle: Path, trust: tuple[Path, ...], as_json: bool) -> None:
    """Show what a bundle says of itself, once it is verified.

    \b
    Example:
      edge-agent inspect bundles/smollm2
    """
    from edge_agent.bundle import encode_manifest, open_bundle
    from edge_agent.signature import read_trusted
    from edge_agent.summary import rows

    opened = open_bundle(bundle, read_trusted(trust))
    if as_json:
        click.echo(encode_manifest(opened.manifest), nl=False)
        return
    _print_rows(rows(opened.manifest))
    if opened.signer is not None:
        _print_rows([("signed by", f"{opened.signer.key}, SHA-256 {opened.signer.fingerprint}")])


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@trust_option
@_json
def verify(bundle: Path, trust: tuple[Path, ...], as_json: bool) -> None:
    """Check every file of a bundle, and who signed it; exit code 1 and one line if it must not be opened.

    Without --trust a signature is said to be there, but not verified: anybody can sign.

    \b
    Example:
      edge-agent verify bundles/smollm2
    """
    from edge_agent.signature import read_trusted
    from edge_agent.verify import verify_bundle

    verified = verify_bundle(bundle, read_trusted(trust))
    click.echo(msgspec.json.encode(verified) if as_json else verified.line)


# --- evaluating -----------------------------------------------------------------------------------------


def _eval_text(bundle: Path, text: Path, threads: int | None, progress: _Progress) -> tuple[msgspec.Struct, str]:
    from edge_agent.evaluate import evaluate_text, read_text
    from edge_agent.runtime.engine import open_engine

    words = read_text(text)
    with closing(open_engine(bundle, threads=threads)) as engine:
        ids = engine.tokenizer.encode(words)
        return evaluate_text(engine.decoder, ids, progress.of("tokens", len(ids) - 1)), engine.manifest.bundle_id


def _eval_qa(bundle: Path, qa: Path, threads: int | None, progress: _Progress) -> tuple[msgspec.Struct, str]:
    from edge_agent.bundle import open_bundle
    from edge_agent.evaluate import evaluate_passages, evaluate_qa, read_qa
    from edge_agent.runtime.encoder_engine import encoder_engine
    from edge_agent.runtime.engine import open_engine

    rows = read_qa(qa)
    advance = progress.of("questions", len(rows))
    opened = open_bundle(bundle)
    if opened.manifest.encoder is not None:
        with closing(encoder_engine(opened, threads=threads)) as encoder:
            return evaluate_passages(encoder, rows, lambda right: advance(1)), opened.manifest.bundle_id
    with closing(open_engine(bundle, threads=threads)) as engine:
        return evaluate_qa(engine, rows, lambda right: advance(1)), engine.manifest.bundle_id


def _eval_labelled(
    bundle: Path, labelled: Path, threads: int | None, progress: _Progress
) -> tuple[msgspec.Struct, str]:
    from edge_agent.evaluate import evaluate_labelled, read_labelled
    from edge_agent.runtime.encoder_engine import open_encoder

    rows = read_labelled(labelled)
    with closing(open_encoder(bundle, threads=threads)) as engine:
        advance = progress.of("texts", len(rows))
        return evaluate_labelled(engine, rows, lambda right: advance(1)), engine.manifest.bundle_id


def _eval_samples(bundle: Path, threads: int | None, progress: _Progress) -> tuple[msgspec.Struct, str]:
    from edge_agent.bundle import open_bundle
    from edge_agent.runtime.encoder_engine import encoder_engine
    from edge_agent.runtime.engine import open_engine
    from edge_agent.samples import compare_outputs, compare_tokens

    opened = open_bundle(bundle)
    advance = progress.of("samples", len(opened.manifest.samples))
    if opened.manifest.encoder is not None:
        with closing(encoder_engine(opened, threads=threads)) as encoder:
            return compare_outputs(encoder, advance), opened.manifest.bundle_id
    with closing(open_engine(bundle, threads=threads)) as engine:
        return compare_tokens(engine, advance), opened.manifest.bundle_id


# --- printing -------------------------------------------------------------------------------------------


def _print(report: msgspec.Struct, as_json: bool, bundle_id: str) -> None:
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    values = msgspec.structs.asdict(report).items()
    _print_rows([("bundle", bundle_id), *((name, _figure(value)) for name, value in values)])


def _figure(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    listed = list(rows)
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        click.echo(f"{name:<{width}}  {value}")


class _Progress:
    """A bar on stderr where that is a terminal, silence elsewhere."""

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def of(self, what: str, total: int) -> Callable[[int], None]:
        task = self._bar.add_task(what, total=total)
        return lambda done: self._bar.advance(task, done)
