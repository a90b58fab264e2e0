"""Which task a checkpoint is exported for."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import SourceError
from exporter.task import TASKS, model_class, resolve_task


def config_of(name: str, *architectures: str, **changes: Any) -> Any:
    import transformers

    return getattr(transformers, f"{name}Config")(architectures=list(architectures) or None, **changes)


@pytest.mark.parametrize(
    ("name", "architecture", "task"),
    [
        ("Llama", "LlamaForCausalLM", "text-generation"),
        ("GPT2", "GPT2LMHeadModel", "text-generation"),
        ("Bert", "BertModel", "feature-extraction"),
        ("Roberta", "RobertaForSequenceClassification", "text-classification"),
        ("DistilBert", "DistilBertForTokenClassification", "token-classification"),
        ("Electra", "ElectraForQuestionAnswering", "question-answering"),
    ],
)
def test_auto_takes_the_task_of_the_saved_class(name: str, architecture: str, task: str) -> None:
    """The class that a checkpoint was saved from says what it is for."""
    assert resolve_task("m", "auto", config_of(name, architecture), has_modules=False) == task


def test_modules_mean_features() -> None:
    """What sentence-transformers saved gives features, whatever class its weights had."""
    assert resolve_task("m", "auto", config_of("MPNet", "MPNetForMaskedLM"), has_modules=True) == "feature-extraction"


@pytest.mark.parametrize(
    ("name", "architecture", "asked", "named"),
    [
        ("Bert", "BertForMaskedLM", "auto", "BertForMaskedLM, made for fill-mask"),
        ("Bert", "BertForPreTraining", "auto", "BertForPreTraining, whose task is not known"),
        ("Bert", "NeverHeardOf", "auto", "NeverHeardOf, whose task is not known"),
        ("Bert", "", "auto", "does not say what class"),
        ("T5", "T5ForConditionalGeneration", "auto", "made for text2text-generation"),
        ("T5", "T5ForConditionalGeneration", "feature-extraction", "t5 model: .* takes encoders"),
        ("Llama", "LlamaForSequenceClassification", "auto", "llama model: text-classification takes encoders"),
        ("T5", "", "text-generation", "t5 model, which cannot do text-generation"),
        ("Bert", "BertModel", "text-to-image", "'text-to-image' is no task"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(name: str, architecture: str, asked: str, named: str) -> None:
    """Model and task are named, and what to give instead."""
    with pytest.raises(SourceError, match=named):
        resolve_task("m", asked, config_of(name, *[architecture] * bool(architecture)), has_modules=False)


def test_every_task_has_a_class_that_loads_it() -> None:
    """Each task of the exporter is one that optimum maps to a class of transformers."""
    assert [model_class(task).__name__ for task in TASKS] == [
        "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForTokenClassification",
        "AutoModelForQuestionAnswering", "AutoModel",
    ]  # fmt: skip
