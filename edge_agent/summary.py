"""What a bundle says of itself, as rows for a reader. Knows nothing of files or terminals."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.manifest import EncoderInfo, Manifest


def rows(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Pairs of a name and what to say of it, in the order in which a reader asks."""
    model, measured = manifest.model, manifest.measured
    yield "bundle", f"{manifest.bundle_id} (version {manifest.version})"
    yield "model", f"{model.name}, {model.architecture}, {model.parameters / 1e6:,.1f} M parameters"
    yield "source", f"{model.source} ({model.licence or 'licence unknown'})"
    yield "task", f"{manifest.task}, context {model.context_length:,} tokens"
    if manifest.encoder is not None:
        yield "encoder", ", ".join(_encoder(manifest.encoder))
    yield "profile", manifest.profile
    yield "precision", ", ".join(f"{group} {kind}" for group, kind in manifest.precision.items())
    for done in manifest.passes:
        said = ", ".join(f"{name}={value}" for name, value in done.parameters.items())
        yield "pass", f"{done.name} ({said})" if said else done.name
    for graph in manifest.graphs:
        yield "graph", f"{graph.path} (dialect {graph.dialect})"
    for engine in manifest.engines:
        state = engine.path or "recipe, built on the device"
        yield "engine", f"{engine.runtime} for compute capability {engine.compute_capability}: {state}"
    yield from _accuracy(manifest)
    kind = "estimated" if measured.estimated else "measured"
    yield kind, f"on {measured.where}, {measured.runtime}, {measured.threads} threads"
    yield (
        "cost",
        f"{measured.fixed_ms:.1f} ms + {measured.prefill_ms_per_token:.3f} ms per prompt token "
        f"+ {measured.decode_ms_per_token:.2f} ms per answer token",
    )
    yield "memory", f"{measured.peak_rss_bytes / 1e6:,.0f} MB at most, loaded in {measured.load_ms:,.0f} ms"
    total = sum(entry.bytes for entry in manifest.files)
    yield "files", f"{len(manifest.files)}, {total / 1e6:,.1f} MB"
    for entry in manifest.files:
        yield "", f"{entry.path}  {entry.bytes:,} bytes  sha256 {entry.sha256[:12]}"


def _encoder(info: EncoderInfo) -> Iterator[str]:
    yield f"at most {info.max_tokens:,} tokens"
    if info.pooling is not None:
        yield f"{info.pooling} pooling" + (" normalized" if info.normalize else "")
    if info.labels:
        more = f" and {len(info.labels) - 8} more" if len(info.labels) > 8 else ""
        yield f"labels {', '.join(info.labels[:8])}{more}"


def _accuracy(manifest: Manifest) -> Iterator[tuple[str, str]]:
    accuracy = manifest.accuracy
    if accuracy is None:
        yield "accuracy", "not measured"
        return
    yield (
        "accuracy",
        f"{accuracy.metric} {accuracy.value:.2f}, reference {accuracy.reference:.2f}: "
        f"{accuracy.drop_points:.2f} points lost (at most {accuracy.drop_bound_points:.2f} with 95% confidence, "
        f"budget {accuracy.budget_points:.2f})",
    )
    if accuracy.is_anomaly:
        yield "", "better than the reference by more than chance: an anomaly, look at the text it was judged on"
    parts = [f"same answer {accuracy.agreement:.1f}%"] if accuracy.agreement is not None else []
    if accuracy.perplexity is not None:
        parts.append(f"perplexity {accuracy.perplexity:.2f} (reference {accuracy.reference_perplexity:.2f})")
    parts += [f"KL {accuracy.kl:.4f}"] if accuracy.kl is not None else []
    parts += [f"cosine {accuracy.cosine:.4f}"] if accuracy.cosine is not None else []
    yield "", f"{', '.join(parts)}{', ' if parts else ''}over {accuracy.count:,} items of {accuracy.text}"
