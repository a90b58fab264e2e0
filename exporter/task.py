"""Which task does a checkpoint do, and which class of model does that take?

`optimum.exporters.tasks.TasksManager` maps tasks to model classes. Does not open weights: whether a checkpoint has
those of a task's head shows when it is loaded (`source.py`).
"""

from __future__ import annotations

from typing import Any, Final

from exporter.errors import SourceError

GENERATION: Final = "text-generation"
FEATURES: Final = "feature-extraction"
TASKS: Final = (GENERATION, "text-classification", "token-classification", "question-answering", FEATURES)


def resolve_task(where: str, asked: str, config: Any, *, has_modules: bool) -> str:
    """The task to export `where` for: the one asked for, or with "auto" the one that its configuration names.

    `has_modules` says that it is a sentence-transformers directory, which is for feature extraction whatever class its
    weights were saved from. Raises SourceError when the checkpoint does not say, says a task that is not carried, or
    cannot do the task asked for.
    """
    if asked not in (*TASKS, "auto"):
        raise SourceError(f"{asked!r} is no task of this exporter: it has {', '.join(TASKS)}")
    task = _own_task(where, config, has_modules=has_modules) if asked == "auto" else asked
    kind = type(config)
    if kind not in _auto_class(task)._model_mapping:
        raise SourceError(f"{where} is a {config.model_type} model, which cannot do {task}")
    if task != GENERATION and not _is_encoder(config):
        raise SourceError(f"{where} is a {config.model_type} model: {task} takes encoders like BERT, and it is none")
    return task


def model_class(task: str) -> Any:
    """The class whose `from_pretrained` loads a model for `task`."""
    return _auto_class(task)


def _auto_class(task: str) -> Any:
    from optimum.exporters.tasks import TasksManager

    return TasksManager.get_model_class_for_task(task, library="transformers")


def _own_task(where: str, config: Any, *, has_modules: bool) -> str:
    import transformers
    from optimum.exporters.tasks import TasksManager

    if has_modules:
        return FEATURES
    named = (getattr(config, "architectures", None) or [None])[0]
    choice = f"give --task, one of {', '.join(TASKS)}"
    if named is None:
        raise SourceError(f"{where}: its configuration does not say what class of model it is: {choice}")
    try:
        task = str(TasksManager.infer_task_from_model(getattr(transformers, named)))
    except (AttributeError, ValueError):
        raise SourceError(f"{where} is a {named}, whose task is not known: {choice}") from None
    if task not in TASKS:
        raise SourceError(f"{where} is a {named}, made for {task}, which this exporter does not carry: {choice}")
    return task


def _is_encoder(config: Any) -> bool:
    """Whether the model reads in both directions: its family is trained by filling masks, and it has no decoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    decodes = getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False)
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes
