"""A classifier fitted to MiniLM, from torch to labels on the device, in 8 bits and as truthful as it says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.bundle import write_bundle
from edge_agent.evaluate import LabelledRow, evaluate_labelled
from edge_agent.manifest import EncoderInfo, Sample
from edge_agent.runtime.encoder_engine import open_encoder
from edge_agent.runtime.encoding import TextEncoder
from edge_agent.samples import compare_outputs
from tests.edge_agent.encoder_bundles import encoder_manifest

ROOT = Path(__file__).resolve().parent.parent.parent
MINILM = ROOT / "models" / "all-MiniLM-L6-v2"
INTENTS = Path(os.environ.get("EDGEFLEET_SHARED", ROOT.parent / "shared")) / "data" / "intents"
PER_LABEL = 10  # texts to fit with, and as many to judge: enough to tell, few enough to be quick
# What is asked where the intents are not beside the project.
OWN = {
    "weather": (
        "Will it rain tomorrow?", "How cold is it outside?", "Is it going to snow tonight?", "Tell me the forecast.",
        "Do I need an umbrella today?", "What is the temperature in Oslo?", "Will the sun shine at the weekend?",
        "How windy will it be?", "Is a storm coming?", "What is the weather like in Rome?",
        "Is it warm enough for shorts?", "When will the rain stop?", "Is there fog this morning?",
        "Will there be frost?", "Show me the weather for Friday.", "How hot does it get in July?",
        "Is it cloudy in Paris?", "Will it hail today?", "What is the humidity?", "Does it rain in Lima now?",
    ),
    "music": (
        "Play some jazz.", "Turn up the song.", "I want to hear the Beatles.", "Skip this track.",
        "Put on a song by Adele.", "Play my favourite album.", "Start the party playlist.", "Play it again.",
        "Who sings this song?", "Put on something by Bach.", "Play rock from the eighties.", "Shuffle my songs.",
        "Play the new single of that band.", "Stop the music.", "Play a lullaby.", "I want to listen to blues.",
        "Repeat this album.", "Play the soundtrack of the film.", "Put on quiet piano music.", "Play a love song.",
    ),
    "table": (
        "Book a table for two.", "Reserve a table at the Italian restaurant.", "I need a table for six at eight.",
        "Find me a restaurant for tonight.", "Get us seats at the steakhouse.", "Book dinner for four on Friday.",
        "Is a table free at noon?", "Make a reservation at the sushi bar.", "We want to eat out at seven.",
        "Reserve the terrace for ten people.", "Book brunch on Sunday.", "A table by the window, please.",
        "Cancel my reservation at the bistro.", "Book a pub for lunch.", "Find a vegetarian restaurant for three.",
        "I would like to reserve for my family.", "Table for one at the cafe.", "Book the grill for nine o'clock.",
        "Can we dine at the harbour tonight?", "Get a reservation for our anniversary dinner.",
    ),
}  # fmt: skip


def intents() -> tuple[list[LabelledRow], list[LabelledRow]]:
    """Texts with their labels, as many of each: to fit with, and to judge."""
    if not INTENTS.is_dir():
        rows = [LabelledRow(text, label) for label, texts in OWN.items() for text in texts]
        return list(evenly(rows[0::2])), list(evenly(rows[1::2]))
    train, test = (
        [LabelledRow(**json.loads(line)) for line in (INTENTS / name).read_text("utf-8").splitlines()]
        for name in ("train.jsonl", "test.jsonl")
    )
    return list(evenly(train)), list(evenly(test))


def evenly(rows: list[LabelledRow]) -> Iterator[LabelledRow]:
    """The first few of each label."""
    for label in sorted({row.label for row in rows}):
        yield from [row for row in rows if row.label == label][:PER_LABEL]


def fitted(train: list[LabelledRow], labels: list[str], tokenizer: Any) -> Any:
    """MiniLM with a head that knows the labels of `train`; its layers stay as they are."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(MINILM, num_labels=len(labels), dtype=torch.float32).eval()
    batch = tokenizer([row.text for row in train], padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model.bert(**batch).last_hidden_state[:, :1].clone()
    states, targets = torch.tensor(states.numpy()), torch.tensor([labels.index(row.label) for row in train])
    head = [*model.bert.pooler.parameters(), *model.classifier.parameters()]
    optimizer = torch.optim.AdamW(head, lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.classifier(model.bert.pooler(states)), targets).backward()
        optimizer.step()
    return model


@pytest.mark.model
@pytest.mark.slow
def test_a_fitted_classifier_keeps_its_labels_in_8_bits(tmp_path: Path) -> None:
    """The int8 bundle is right nearly as often as PyTorch, and the device counts what the exporter counted."""
    from transformers import AutoTokenizer

    from exporter.convert_encoder import convert_encoder, describe_encoder
    from exporter.encoder_parity import TOLERANCE, check_encoder_parity
    from exporter.encoder_reference import reference_outputs
    from exporter.encoder_texts import Item
    from exporter.graph_file import write_graph
    from exporter.quantize_dynamic import quantize_dynamic
    from exporter.verify_encoder import verify_encoder

    task = "text-classification"
    train, test = intents()
    labels = sorted({row.label for row in train})
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    model, info = fitted(train, labels, tokenizer), EncoderInfo(max_tokens=64, labels=tuple(labels))
    converted = convert_encoder(model, task, info)
    graph, whole, staging = describe_encoder(converted), tmp_path / "encoder.onnx", tmp_path / "staging"
    write_graph(converted, whole)
    assert check_encoder_parity(model, task, info, whole, graph) < TOLERANCE
    small = staging / graph.path
    small.parent.mkdir(parents=True)
    (staging / "tokenizer").mkdir()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.save(str(staging / "tokenizer" / "tokenizer.json"))
    cutter = TextEncoder(staging / "tokenizer" / "tokenizer.json", info.max_tokens)
    items = [Item(row.text, (cutter.encode(row.text),), (row.label,)) for row in test]
    reference = reference_outputs(model, task, info, [item.rows[0].ids for item in items])
    quantize_dynamic(whole, small)
    accuracy = verify_encoder(
        reference, small, graph, items, task=task, encoder=info, is_graded=True, budget_points=5.0, text="intents"
    )  # fmt: skip
    assert accuracy.reference > 60  # a guess is right in 33% at most
    assert accuracy.drop_points < 5
    assert accuracy.agreement is not None
    assert accuracy.agreement > 90

    sample = Sample(prompt=test[0].text, output=tuple(reference[0]["logits"].tolist()))
    write_bundle(staging, tmp_path / "bundle", encoder_manifest(graph, task, info, [sample]))
    engine = open_encoder(tmp_path / "bundle")
    assert evaluate_labelled(engine, test).accuracy == pytest.approx(accuracy.value)
    score = compare_outputs(engine)
    assert score.cosine is not None
    assert score.cosine > 0.95
    engine.close()
