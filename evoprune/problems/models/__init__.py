"""The models that have a name. To add one: a builder `(inputs, outputs) -> Module` under `@model(name)`.

Every model is a plain module without data-dependent control flow: `torch.fx` can trace it and `torch.func.vmap` map it.
"""

from evoprune.problems.models import convolutional, dense, residual  # importing them fills the registry
from evoprune.problems.models.entry import FAMILIES, MODELS, Builder, ModelEntry, find_model, model, model_table
from evoprune.problems.models.initial import he_normal_

__all__ = [
    "FAMILIES",
    "MODELS",
    "Builder",
    "ModelEntry",
    "convolutional",
    "dense",
    "find_model",
    "he_normal_",
    "model",
    "model_table",
    "residual",
]
