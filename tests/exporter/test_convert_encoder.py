"""An encoder's graph computes what PyTorch computes, for each task, and is laid out for the quantizers."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest

from exporter.convert_encoder import convert_encoder, describe_encoder, takes_token_types
from exporter.encoder_parity import TOLERANCE, check_encoder_parity
from exporter.errors import ConversionError
from tests.exporter.encoder_models import exported_encoder, info_for, random_encoder

CASES = [
    ("Bert", "feature-extraction"),
    ("Roberta", "text-classification"),  # positions count from the padding id, in the ids themselves
    ("DistilBert", "token-classification"),  # no token types
    ("Electra", "question-answering"),  # embeddings narrower than the layers
    ("MPNet", "feature-extraction"),  # an attention of its own, with a relative bias
]


@pytest.mark.parametrize(("family", "task"), CASES)
def test_encoders_equal_pytorch(family: str, task: str) -> None:
    """Alone and in a padded batch, up to the longest row, every output lies within 1e-3 of PyTorch's."""
    case = exported_encoder(family, task)
    assert check_encoder_parity(case.model, task, case.info, case.path, case.graph) < TOLERANCE


def test_attention_is_one_node_and_linear_layers_are_products() -> None:
    """One MultiHeadAttention a layer, norms and activations fused, and no Gemm, which quantizers pass by."""
    case = exported_encoder("Roberta", "text-classification")
    model = ir.load(case.path)
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["MultiHeadAttention"] == 1
    assert kinds["MatMul"] == 6 + 2  # q, k, v, output, up, down; the head's two
    assert kinds["SkipLayerNormalization"] >= 2
    assert kinds["BiasGelu"] == 1
    assert not {"Gemm", "Softmax", "Reshape"} & set(kinds)
    assert (model.opset_imports[""], model.ir_version) == (21, 10)


def test_the_description_is_that_of_the_contract() -> None:
    """Inputs and outputs carry the names of the manifest; token types only where the model knows several."""
    bert = exported_encoder("Bert", "feature-extraction").graph
    assert bert.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert (bert.outputs, bert.path, bert.cache) == (("embedding",), "model/encoder.onnx", None)
    assert exported_encoder("Electra", "question-answering").graph.outputs == ("start_logits", "end_logits")
    assert exported_encoder("DistilBert", "token-classification").graph.inputs == ("input_ids", "attention_mask")
    assert not takes_token_types(random_encoder("Roberta", "feature-extraction", type_vocab_size=1))


@pytest.mark.parametrize(
    ("task", "changes", "info", "words"),
    [
        ("text-classification", {"problem_type": "multi_label_classification"}, {}, "independent scores"),
        ("text-classification", {"num_labels": 1}, {}, "regression"),
        ("feature-extraction", {}, {"pooling": None}, "say how they are pooled"),
        ("feature-extraction", {"is_decoder": True}, {}, "decodes"),
    ],
)
def test_what_the_contract_cannot_say_is_refused_before_the_work(
    task: str, changes: dict[str, object], info: dict[str, object], words: str
) -> None:
    """Several labels at once, a regression, vectors without pooling and decoders are refused with the reason."""
    with pytest.raises(ConversionError, match=words):
        convert_encoder(random_encoder("Bert", task, **changes), task, info_for(task, **info))


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering"])
def test_a_model_without_the_head_of_its_task_is_refused(task: str) -> None:
    """A model without a head, or with another one, is named before anything is traced."""
    with pytest.raises(ConversionError, match=f"BertModel gives .* does not do {task}"):
        convert_encoder(random_encoder("Bert", "feature-extraction"), task, info_for(task))
    other = random_encoder("Bert", "text-classification")
    with pytest.raises(ConversionError, match="BertForSequenceClassification gives logits"):
        convert_encoder(other, "token-classification", info_for("token-classification"))


def test_a_model_that_cannot_be_traced_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause that torch gives stands in one line behind the model's class."""
    import torch

    def fail(*_: object, **__: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("steps\nof the export") from ValueError("a loop\nover data")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ConversionError, match="BertModel cannot be traced: a loop over data"):
        convert_encoder(
            random_encoder("Bert", "feature-extraction"), "feature-extraction", info_for("feature-extraction")
        )


def test_describing_reads_the_graph() -> None:
    """`describe_encoder` says of a loaded graph what it said when it was made."""
    case = exported_encoder("Bert", "feature-extraction")
    assert describe_encoder(ir.load(case.path)) == case.graph
