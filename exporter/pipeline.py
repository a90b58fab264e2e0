"""How does a checkpoint become a bundle: load, convert, quantize, verify, measure, choose, write.

`export` is that story in order. All work happens in a staging directory beside the output, which is gone afterwards
whatever happens. Does not know how any step is done, nor how its outcome is printed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

import device_profiles
from device_profiles.profile import Profile
from edge_agent.bench import Cost
from edge_agent.manifest import SCHEMA, Accuracy, GenerationDefaults, Graph, Manifest, Measured, Pass, Sample
from exporter import machine
from exporter.errors import GateRefused, OutputError
from exporter.report import ANSWER_NEW_TOKENS, ANSWER_PROMPT_TOKENS, Candidate, Report, answer_ms
from exporter.source import Source, open_source

PRECISIONS: Final = ("int4", "int8", "fp32")  # smallest first
TASK: Final = "text-generation"
EQUAL_SPEED: Final = 1.03  # within this factor two latencies are the same, and the smaller bundle wins
SERVED_CONTEXT: Final = 4096  # positions that an agent serves at most unless told otherwise
SAMPLE_TOKENS: Final = 16
SAMPLE_PROMPTS: Final = (
    "What is the capital of France?",
    "Name three colours.",
    "What is two plus two?",
    "Write one sentence about the sea.",
    "Translate 'good morning' to Spanish.",
    "Why is the sky blue?",
    "Give me a word that rhymes with cat.",
    "Who wrote Hamlet?",
)

Precision = Literal["auto", "fp32", "int8", "int4"]
Tell = Callable[[str, float], None]  # what is being done, and how far it is (0 to 1)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    model: str
    profile: str
    output: Path
    precision: Precision = "auto"
    max_accuracy_drop_points: float = 1.0
    calibration: Path | None = None
    seed: int = 0


class _Built(msgspec.Struct, frozen=True, kw_only=True):
    """A graph on disk, `directory` / graph.path, and what was done to get it."""

    name: str
    directory: Path
    graph: Graph
    weights_bytes: int
    precision: dict[str, str]
    passes: tuple[Pass, ...]

    @property
    def path(self) -> Path:
        return self.directory / self.graph.path


def export(order: Order, tell: Tell) -> Report:
    """Export as ordered and return what happened; the bundle is then at `order.output`.

    Raises SourceError, ConversionError, CalibrationError or OutputError, UnknownProfile of `device_profiles`, and
    GateRefused, which carries the report, when no candidate may become the bundle.
    """
    started = time.monotonic()
    profile = device_profiles.profile.load(order.profile)
    tried = PRECISIONS if order.precision == "auto" else (order.precision,)
    with _staging(order.output) as staging:
        tell("loading the checkpoint", 0)
        source = open_source(order.model)
        tell("converting to ONNX", 0)
        reference = _converted(source, staging)
        tell("quantizing", 0)
        built = [reference if name == "fp32" else _quantized(reference, staging, name) for name in tried]
        fitting = {one.name: one for one in built if _misfit(profile, one, source) is None}
        accuracies = _verified(order, source, fitting, tell)
        costs = _measured({reference.name: reference, **fitting}, source.info.context_length, tell)
        candidates = tuple(_judged(one, profile, source, accuracies, costs) for one in built)
        report = Report(
            bundle_id=None,
            path=None,
            accepted=False,
            profile=profile.name,
            task=TASK,
            precision=None,
            passes=reference.passes,
            candidates=candidates,
            reference_latency_ms=answer_ms(costs[reference.name]),
            measured_on=machine.description(costs[reference.name].threads),
            engines=(),
            seconds=time.monotonic() - started,
        )
        chosen = choose(candidates)
        if chosen is None:
            raise GateRefused(_refusal(candidates), report)
        tell("writing the bundle", 0)
        winner = next(one for one in built if one.name == chosen.name)
        report = msgspec.structs.replace(report, accepted=True, precision=winner.name, passes=winner.passes)
        manifest = _written(order, profile, source, winner, chosen, report)
    return msgspec.structs.replace(
        report, bundle_id=manifest.bundle_id, path=str(order.output), seconds=time.monotonic() - started
    )


def choose(candidates: Sequence[Candidate]) -> Candidate | None:
    """The fastest accepted candidate; of those within 3% of it, the smallest. None if none is accepted."""
    accepted = [one for one in candidates if one.accepted]
    if not accepted:
        return None
    fastest_ms = min(one.latency_ms for one in accepted)
    equals = [one for one in accepted if one.latency_ms <= fastest_ms * EQUAL_SPEED]
    return min(equals, key=lambda one: (one.weights_bytes or 0, one.latency_ms))


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A directory on the output's file system; removed on the way out, whatever the way."""
    if output.exists() or output.is_symlink():
        raise OutputError(f"{output} exists already: choose another --output, or remove it first")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise OutputError(f"{output.parent} cannot be written: {error.strerror or error}") from None
    try:
        yield staging
    except OSError as error:
        raise OutputError(f"{staging} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _converted(source: Source, staging: Path) -> _Built:
    """The fp32 graph, which is every candidate's starting point and the yardstick of latency."""
    from exporter.convert import OPSET, convert, describe
    from exporter.graph_file import write_graph
    from exporter.parity import check_parity

    context = source.info.context_length
    graph_model = convert(source.model, context)
    graph = describe(graph_model)
    directory = staging / "fp32"
    path = directory / graph.path
    path.parent.mkdir(parents=True)
    weights_bytes = write_graph(graph_model, path)
    difference = check_parity(source.model, path, graph)
    made = Pass(
        name="convert",
        parameters={"dialect": "ort", "opset": OPSET, "context": context, "parity": float(f"{difference:.2g}")},
    )
    return _Built(
        name="fp32",
        directory=directory,
        graph=graph,
        weights_bytes=weights_bytes,
        precision={"embedding": "fp32", "linear": "fp32", "norm": "fp32", "cache": "fp32"},
        passes=(made,),
    )


def _quantized(reference: _Built, staging: Path, name: str) -> _Built:
    import onnx_ir as ir

    from exporter.graph_file import write_graph
    from exporter.quantize import BLOCK, quantize

    bits = int(name.removeprefix("int"))
    graph_model = ir.load(reference.path)
    precision = quantize(graph_model, bits)
    directory = staging / name
    path = directory / reference.graph.path
    path.parent.mkdir(parents=True)
    weights_bytes = write_graph(graph_model, path)
    made = Pass(
        name="quantize",
        parameters={"bits": bits, "block": BLOCK, "method": "round to nearest, asymmetric", "weights_only": True},
    )
    return msgspec.structs.replace(
        reference,
        name=name,
        directory=directory,
        weights_bytes=weights_bytes,
        precision={**precision, "cache": "fp32"},
        passes=(*reference.passes, made),
    )


def _misfit(profile: Profile, one: _Built, source: Source) -> str | None:
    """Why this graph cannot run on the profile's device, with the arithmetic; None if it can."""
    if one.name not in profile.precisions:
        return f"{profile.name} runs {', '.join(profile.precisions)}, not {one.name}"
    if profile.memory_bytes is None or one.graph.cache is None:
        return None
    layout = one.graph.cache
    context = min(source.info.context_length, SERVED_CONTEXT)
    cache = 2 * layout.layers * layout.kv_heads * layout.head_dim * 4 * context
    need = one.weights_bytes + cache
    if need <= profile.memory_bytes:
        return None
    return (
        f"{one.weights_bytes / 1e6:.0f} MB of weights + {cache / 1e6:.0f} MB of cache for {context} positions = "
        f"{need / 1e6:.0f} MB, {profile.name} has {profile.memory_bytes / 1e6:.0f} MB"
    )


def _verified(order: Order, source: Source, fitting: dict[str, _Built], tell: Tell) -> dict[str, Accuracy]:
    from exporter.text import text_from_file, text_from_model
    from exporter.verify import verify

    if order.calibration is not None:
        text = text_from_file(order.calibration, source.tokenizer)
    else:
        tell("sampling text from the reference", 0)
        text = text_from_model(source.model, source.tokenizer, seed=order.seed)
    done = 0

    def scored(tokens: int) -> None:
        nonlocal done
        done += tokens
        tell(f"verifying {', '.join(fitting)}", done / text.scored_tokens)

    return verify(
        source.model,
        {name: (one.path, one.graph) for name, one in fitting.items()},
        text,
        budget_points=order.max_accuracy_drop_points,
        on_progress=scored,
    )


def _measured(graphs: dict[str, _Built], context: int, tell: Tell) -> dict[str, Cost]:
    from edge_agent.bench import measure_decoder

    costs = {}
    prompt = min(ANSWER_PROMPT_TOKENS, context // 4)  # prefills of up to four times this are measured
    new = min(ANSWER_NEW_TOKENS, context - prompt)
    for number, (name, one) in enumerate(graphs.items()):
        tell(f"measuring {name}", number / len(graphs))
        costs[name] = measure_decoder(one.path, one.graph, prompt_tokens=prompt, new_tokens=new)
    return costs


def _judged(
    one: _Built, profile: Profile, source: Source, accuracies: dict[str, Accuracy], costs: dict[str, Cost]
) -> Candidate:
    from exporter.verify import accepted

    misfit = _misfit(profile, one, source)
    if misfit is not None:
        return Candidate(name=one.name, accepted=False, reason=misfit, weights_bytes=one.weights_bytes)
    accuracy = accuracies[one.name]
    passes = accepted(accuracy)
    sign = "inside" if passes else "exceeds"
    return Candidate(
        name=one.name,
        accepted=passes,
        reason=f"drop of at most {accuracy.drop_bound_points:.2f} points {sign} {accuracy.budget_points:g}",
        weights_bytes=one.weights_bytes,
        accuracy=accuracy,
        cost=costs[one.name],
    )


def _refusal(candidates: Sequence[Candidate]) -> str:
    reasons = "; ".join(f"{one.name}: {one.reason}" for one in candidates)
    return f"no candidate passed ({reasons}): raise --max-accuracy-drop, or let --precision auto choose"


def _written(
    order: Order, profile: Profile, source: Source, winner: _Built, chosen: Candidate, report: Report
) -> Manifest:
    from edge_agent.bundle import write_bundle

    tokenizer = source.save_tokenizer(winner.directory / "tokenizer")
    cost = chosen.cost
    assert cost is not None
    document = msgspec.json.format(msgspec.json.encode(report.document()), indent=2)
    (winner.directory / "report.json").write_bytes(document + b"\n")
    draft = Manifest(
        schema=SCHEMA,
        bundle_id="",
        version=1,
        model=source.info,
        task=TASK,
        profile=profile.name,
        passes=winner.passes,
        precision=winner.precision,
        graphs=(winner.graph,),
        tokenizer=tokenizer,
        generation=GenerationDefaults(stop_ids=source.stop_ids),
        samples=_samples(source, winner),
        accuracy=chosen.accuracy,
        measured=Measured(
            where=report.measured_on,
            runtime=cost.runtime,
            threads=cost.threads,
            fixed_ms=cost.fixed_ms,
            prefill_ms_per_token=cost.prefill_ms_per_token,
            decode_ms_per_token=cost.decode_ms_per_token,
            load_ms=cost.load_ms,
            peak_rss_bytes=cost.peak_rss_bytes,
            estimated=not machine.stands_for(profile),
        ),
        engines=(),
        files=(),
    )
    return write_bundle(winner.directory, order.output, draft)


def _samples(source: Source, winner: _Built) -> tuple[Sample, ...]:
    """The bundle's own greedy tokens for a few questions, so that a device can see that it gives the same."""
    from edge_agent.runtime.decoder import Decoder
    from edge_agent.runtime.sampling import greedy

    decoder = Decoder(winner.path, winner.graph, context=min(source.info.context_length, 512))
    samples = []
    for prompt in SAMPLE_PROMPTS:
        generated = decoder.generate(
            source.prompt_ids(prompt), choose=greedy, max_tokens=SAMPLE_TOKENS, stop_ids=source.stop_ids
        )
        samples.append(Sample(prompt=prompt, token_ids=tuple(generated)))
    decoder.close()
    return tuple(samples)
