"""`edge-ask`: the command line of `hub/ask.py`."""

from __future__ import annotations

import logging
import socket
import sys

import click
import msgspec

from hub import tracing, wire
from hub.ask import Asker, Outcome
from hub.config_file import config_option
from hub.errors import HubError
from hub.identity_options import Identity, identity_options
from hub.printable import print_what_can_be
from hub.real_range import RealRange


def _this_device() -> str:
    name = socket.gethostname()
    return name if wire.is_name(name) else "edge-ask"


@click.command(
    epilog='Example: edge-ask "What is the capital of France?" --broker mqtt://127.0.0.1:1883 --device kitchen'
)
@click.argument("question")
@click.option(
    "--broker", default="mqtt://127.0.0.1:1883", show_default=True, help="mqtt[s]://[USER:PASSWORD@]HOST[:PORT]"
)
@identity_options()
@click.option("--device", default=_this_device, show_default="this machine's name", help="Who asks.")
@click.option("--deadline-ms", type=RealRange(1, 86_400_000), default=wire.DEFAULT_DEADLINE_MS, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1, 1_000_000), help="At most so many answer tokens.")
@click.option("--model", help="Only nodes that serve this model or bundle.")
@click.option("--task", help="What is to be done, where it is not text-generation: text-classification, ...")
@click.option("--passage", metavar="TEXT", help="Where a question-answering model is to find the answer.")
@click.option("--session", help="Go on with the conversation of this name, if the node that answers had it.")
@click.option("--temperature", type=RealRange(0, 2), help="0 always takes the likeliest token.")
@click.option("--stream", is_flag=True, help="Print the answer while it grows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@config_option
@click.version_option(package_name="edgefleet")
def main(
    question: str,
    broker: str,
    identity: Identity,
    device: str,
    deadline_ms: float,
    max_tokens: int | None,
    model: str | None,
    task: str | None,
    passage: str | None,
    session: str | None,
    temperature: float | None,
    stream: bool,
    as_json: bool,
) -> None:
    """Ask the fleet QUESTION and print the answer."""
    print_what_can_be()
    logging.basicConfig(level=logging.WARNING, format="edge-ask: %(message)s")
    show = _Stream() if stream and not as_json else None
    try:
        asked = wire.Question(
            question=question,
            deadline_ms=deadline_ms,
            max_tokens=max_tokens,
            model=model,
            task=task,
            context=passage,
            session=session,
            temperature=temperature,
            stream=stream,
        )
        with tracing.exporting("edge-ask", device), Asker(identity.at(broker), device) as asker:
            outcome = asker.ask(asked, on_text=show)
    except (HubError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(msgspec.json.encode(outcome_document(outcome)))
    else:
        _print(outcome, show)
    sys.exit(1 if isinstance(outcome.reply, wire.Failure) else 0)


def outcome_document(outcome: Outcome) -> dict[str, object]:
    """The `--json` document of one outcome (a contract, see README)."""
    reply = outcome.reply
    if isinstance(reply, wire.Failure):
        return {
            "id": reply.id,
            "error": msgspec.to_builtins(reply.error),
            "timing_ms": {"total": round(outcome.total_ms, 3)},
        }
    timing = reply.timing_ms
    given = {name: getattr(reply, name) for name in ("text", "labels", "spans", "embedding")}
    body = {name: msgspec.to_builtins(value) for name, value in given.items() if value is not None}
    return {
        "id": reply.id,
        **body,
        "finish": reply.finish,
        "node": reply.node,
        "bundle": reply.bundle,
        "tokens": {name: getattr(reply.tokens, name) for name in ("prompt", "cached", "completion")},
        "timing_ms": {
            "total": round(outcome.total_ms, 3),
            "network": round(outcome.network_ms, 3),
            "queue": timing.queue,
            "prefill": timing.prefill,
            "decode": timing.decode,
        },
        "attempts": reply.attempt,
    }


class _Stream:
    """Prints chunks as they come; a new attempt starts on a new line."""

    def __init__(self) -> None:
        self.attempt = 0
        self.shown = ""

    def __call__(self, attempt: int, text: str) -> None:
        if attempt != self.attempt and self.shown:
            click.echo(f"\nedge-ask: starting over, attempt {attempt}", err=True)
            self.shown = ""
        self.attempt = attempt
        self.shown += text
        click.echo(text, nl=False)

    def finish(self, whole: str, attempt: int) -> None:
        """Print what the chunks did not; the whole again where they do not fit it (chunks are QoS 0)."""
        if attempt == self.attempt and whole.startswith(self.shown):
            click.echo(whole[len(self.shown) :])
        else:
            click.echo(f"\n{whole}" if self.shown else whole)


def _print(outcome: Outcome, stream: _Stream | None) -> None:
    reply = outcome.reply
    if isinstance(reply, wire.Failure):
        retry = reply.error.retry_after_ms
        hint = "" if retry is None else f" (try again in {retry:.0f} ms)"
        click.echo(f"edge-ask: failed ({reply.error.code}): {reply.error.message}{hint}", err=True)
        return
    text = wire.plain_text(reply)
    if stream is None:
        click.echo(text)
    else:
        stream.finish(text, reply.attempt)
    timing = reply.timing_ms
    click.echo(
        f"from {reply.node} in {outcome.total_ms:.0f} ms: network {outcome.network_ms:.0f}, queue {timing.queue:.0f}, "
        f"prefill {timing.prefill:.0f}, decode {timing.decode:.0f} ms for {reply.tokens.completion} tokens",
        err=True,
    )
