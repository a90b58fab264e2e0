"""How does a checkpoint become a bundle: load, prune, compress, recover, convert, quantize, verify, measure, choose,
write.

`export` is that story in order. All work happens in a staging directory beside the output, which is gone afterwards
whatever happens. Does not know how any step is done, nor how its outcome is printed.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

import device_profiles
from device_profiles.jetpack import with_jetpack
from device_profiles.profile import Profile
from edge_agent.bundle import Sign
from edge_agent.manifest import SCHEMA, GenerationDefaults, Graph, Manifest, Measured, Pass
from exporter.candidate import Built, Candidate, choose
from exporter.decoder_texts import given_texts
from exporter.encoding import Encoding, texts_of
from exporter.engines import engine_for, graphs_of, wanted_dialect
from exporter.errors import GateRefused, OrderError, OutputError
from exporter.foresight import budget, refuse_too_large
from exporter.generation import Generation
from exporter.idle import refuse_idle
from exporter.judge import Judge, accepted
from exporter.order import SERVED_CONTEXT, Order
from exporter.recipe import precision_refusal
from exporter.recipes import encoder_recipes, recipes
from exporter.report import Report
from exporter.source import Source, open_source

Tell = Callable[[str, float], None]  # what is being done, and how far it is (0 to 1)
Work = Generation | Encoding


def export(order: Order, tell: Tell, sign: Sign | None = None) -> Report:
    """Export as ordered and return what happened; the bundle is then at `order.output`, signed where `sign` does that.

    Raises SourceError, ConversionError, CalibrationError, OrderError, OutputError or SigningError, UnknownProfile of
    `device_profiles`, and GateRefused, which carries the report, when no candidate may become the bundle.
    """
    started = time.monotonic()
    profile = _profile(order)
    dialect = wanted_dialect(order, profile)
    with _staging(order.output) as staging:
        tell("loading the checkpoint", 0)
        source = open_source(order.model, task=order.task, allow_pickle=order.allow_pickle)
        context = min(source.info.context_length, order.context or SERVED_CONTEXT)
        _refuse(order, profile, source, context, has_engine=dialect is not None)
        work = (Generation if source.encoder is None else Encoding)(order, source, staging, tell)
        untouched = work.convert("fp32", ())
        stages = [untouched, *_modified(order, work, tell)]
        half = None if dialect is None else work.convert_for_engine(dialect, context, stages[-1].passes)
        work.release()
        source = msgspec.structs.replace(source, model=None)
        judge = Judge(order, profile, work, context)
        told = [judge(stage) for stage in stages]
        built = work.candidates(profile.precisions, stages[-1])
        candidates = [judge(one) for one in built]
        if order.precision == "auto":  # speed decides, so it is asked twice, of the stages too
            truthful = {one.name for one in candidates if one.accuracy is not None and accepted(one.accuracy)}
            asked = [*stages, *(one for one in built if one.name in truthful)]
            for one in {one.path: one for one in asked}.values():
                judge.again(one)
            told, candidates = [judge(stage) for stage in stages], [judge(one) for one in built]
        report = Report(
            profile=profile.name,
            task=source.task,
            passes=stages[-1].passes,
            stages=tuple(told),
            candidates=tuple(candidates),
            reference_latency_ms=told[0].latency_ms,
            measured_on=judge.where,
            command=order.command,
            seconds=time.monotonic() - started,
        )
        chosen = choose(candidates, by_speed=order.precision == "auto")
        if chosen is None:
            raise GateRefused(_refusal(candidates), report)
        winner = next(one for one in built if one.name == chosen.name)
        engine = None if half is None else engine_for(order, profile, work, half, winner, context, tell)
        tell("writing the bundle", 0)
        report = msgspec.structs.replace(
            report,
            accepted=True,
            chosen=chosen.name,
            precision=winner.precision,
            passes=winner.passes,
            engines=() if engine is None else (engine.engine,),
            engines_refused=() if engine is None else engine.refused,
        )
        report = _written(order, source, work, winner, graphs_of(winner, engine), chosen, report, sign)
    return msgspec.structs.replace(report, seconds=time.monotonic() - started)


def plan(order: Order) -> Report:
    """What `export` would try, after every check that needs no work: nothing is written.

    Raises what `export` raises for an order that cannot be carried out.
    """
    started = time.monotonic()
    profile = _profile(order)
    dialect = wanted_dialect(order, profile)
    if order.output.exists() or order.output.is_symlink():
        raise OutputError(f"{order.output} exists already: choose another --output, or remove it first")
    source = open_source(order.model, task=order.task, allow_pickle=order.allow_pickle)
    context = min(source.info.context_length, order.context or SERVED_CONTEXT)
    _refuse(order, profile, source, context, has_engine=dialect is not None)
    if source.encoder is None:
        given_texts(order, source.tokenizer)
        tried = recipes(order, profile.precisions, on_grid=source.in_four_bits)
    else:
        with tempfile.TemporaryDirectory(prefix="edgefleet-") as folder:
            texts_of(order, source, Path(folder))
        tried = encoder_recipes(order, profile.precisions)
    return Report(
        profile=profile.name,
        task=source.task,
        passes=(),
        stages=(),
        candidates=tuple(
            Candidate(
                name=one.name, precision=one.precision, accepted=False, reason="dry run: not tried",
                weights_bytes=budget(order, profile, source, context, one.precision).weights_bytes,
            )
            for one in tried
        ),
        reference_latency_ms=math.inf,
        measured_on="",
        command=order.command,
        seconds=time.monotonic() - started,
    )  # fmt: skip


def _profile(order: Order) -> Profile:
    """The device, with the JetPack asked for. Raises ProfileError; EngineError for a precision that it lacks."""
    profile = device_profiles.profile.load(order.profile)
    if order.jetpack is not None:
        profile = with_jetpack(profile, order.jetpack)
    for precision in {"auto": (), "mixed": ("int4", "int8")}.get(order.precision, (order.precision,)):
        if (refusal := precision_refusal(profile, precision)) is not None:
            raise OrderError(f"--precision {order.precision}: {refusal}")
    if order.precision == "fp8":
        raise OrderError("--precision fp8: no graph with FP8 weights can be scored in ONNX Runtime on a CPU: take int8")
    return profile


def _refuse(order: Order, profile: Profile, source: Source, context: int, *, has_engine: bool) -> None:
    """What can be known of the order and the checkpoint together. Raises OrderError."""
    is_encoder = source.encoder is not None
    refuse_idle(order, is_encoder=is_encoder, has_engine=has_engine, positions=source.info.context_length)
    refuse_too_large(order, profile, source, context)


def _modified(order: Order, work: Work, tell: Tell) -> Iterator[Built]:
    """The fp32 graph after each pass over the torch model, in the order of the story."""
    from exporter.compress import compress
    from exporter.prune import parse_prune, prune
    from exporter.recover import learned_before, recover

    learning = learned_before(work.model, work.calibration) if order.recover else work.calibration
    done: list[Pass] = []
    names: list[str] = []

    def after(made: Pass, name: str) -> Built:
        done.append(made)
        names.append(name)
        again = f" ({names.count(name)})" if names.count(name) > 1 else ""
        return work.convert(f"fp32 after {name}{again}", tuple(done))

    for text in order.prune:
        spec = parse_prune(text)
        made = prune(work.model, spec, learning, on_progress=partial(tell, f"pruning by {text}"))
        yield after(made, f"prune {spec}")
    if order.compress is not None:
        made = compress(work.model, order.compress, learning, on_progress=partial(tell, "sharing weights"))
        yield after(made, f"compress {order.compress:g}")
    if order.recover:
        untouched = open_source(order.model, task=order.task, allow_pickle=order.allow_pickle).model
        made = recover(
            work.model, untouched, work.calibration, steps=order.recover, seed=order.seed,
            on_progress=partial(tell, "recovering"),
        )  # fmt: skip
        yield after(made, f"recover {order.recover}")


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A directory on the output's file system; removed on the way out, whatever the way."""
    if output.exists() or output.is_symlink():
        raise OutputError(f"{output} exists already: choose another --output, or remove it first")
    made = _missing_parents(output)
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
        if not output.exists():
            for parent in made:  # as it was before
                with suppress(OSError):
                    parent.rmdir()


def _missing_parents(output: Path) -> list[Path]:
    """The directories above `output` that are not there yet, the innermost first."""
    return [parent for parent in output.parents if not parent.exists()]


def _refusal(candidates: Sequence[Candidate]) -> str:
    reasons = "; ".join(f"{one.name}: {one.reason}" for one in candidates)
    return f"no candidate passed ({reasons}): raise --max-accuracy-drop, or let --precision auto choose"


def _written(
    order: Order,
    source: Source,
    work: Work,
    winner: Built,
    graphs: tuple[Graph, ...],
    chosen: Candidate,
    report: Report,
    sign: Sign | None,
) -> Report:
    """The bundle in place; the report with its name. What the report holds of time ends here."""
    from edge_agent.bundle import staged_id, write_bundle
    from exporter.page import page

    tokenizer = source.save_tokenizer(winner.directory / "tokenizer")
    cost = chosen.cost
    assert cost is not None
    told = chosen.estimate or cost
    draft = Manifest(
        schema=SCHEMA,
        bundle_id="",
        version=order.version,
        downgrade_from=order.downgrade_from,
        model=source.info,
        task=source.task,
        profile=report.profile,
        passes=winner.passes,
        precision=winner.tensors,
        graphs=graphs,
        tokenizer=tokenizer,
        generation=GenerationDefaults(stop_ids=source.stop_ids),
        samples=work.samples(winner),
        accuracy=chosen.accuracy,
        measured=Measured(
            where=report.measured_on if chosen.estimate is None else chosen.estimate.where,
            runtime=cost.runtime,
            threads=cost.threads,
            fixed_ms=told.fixed_ms,
            prefill_ms_per_token=told.prefill_ms_per_token,
            decode_ms_per_token=told.decode_ms_per_token,
            load_ms=cost.load_ms,
            peak_rss_bytes=cost.peak_rss_bytes,
            estimated=chosen.estimate is not None,
        ),
        engines=report.engines,
        files=(),
        encoder=source.encoder,
    )
    report = msgspec.structs.replace(report, bundle_id=staged_id(winner.directory, draft), path=str(order.output))
    document = msgspec.json.format(msgspec.json.encode(report.document()), indent=2)
    (winner.directory / "report.json").write_bytes(document + b"\n")
    (winner.directory / "report.html").write_text(page(report), "utf-8")
    write_bundle(winner.directory, order.output, draft, sign)
    return report
