"""The table of named models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from evoprune.errors import UnknownName
from evoprune.masks.space import MaskSpace
from evoprune.registry import Registry

__all__ = ["COLOUR", "FAMILIES", "GREY", "MODELS", "Builder", "ModelEntry", "Shape", "find_model", "model", "model_table"]

Shape = tuple[int, ...]
Builder = Callable[[Shape, int], nn.Module]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)


@dataclass(frozen=True)
class ModelEntry:
    """A named model.

    build: from the shape of one sample and the number of outputs to a module. doc: one line. task: `classification` (any
    outputs, as a regression has) or `reconstruction`. reference: shape of the samples that its published size is for.
    example: a usable name, where the entry stands for a family of models.
    """

    name: str
    build: Builder
    doc: str
    task: str = "classification"
    reference: Shape = GREY
    example: str = ""


MODELS: Registry[ModelEntry] = Registry("model")
FAMILIES: dict[str, Callable[[str], ModelEntry]] = {}
"""Models whose name carries their sizes, as in `mlp:300-100`: the part before the colon to a reader of the whole name."""


def model(name: str, *, task: str = "classification", reference: Shape = GREY, example: str = "") -> Callable[[Builder], Builder]:
    """Register a builder under `name`; the first line of its docstring is what `evoprune list models` shows."""

    def register(build: Builder) -> Builder:
        MODELS.add(name, ModelEntry(name, build, (build.__doc__ or "").splitlines()[0], task, reference, example))
        return build

    return register


def find_model(name: str) -> ModelEntry:
    """The entry of a registered name, or of a member of a family. Raises `UnknownName`, or `InputError` on a bad size."""
    family = name.partition(":")[0] if isinstance(name, str) and ":" in name else None
    if family in FAMILIES and name not in MODELS:
        return FAMILIES[family](name)
    if name not in MODELS or MODELS[name].example:  # the family's own name is no model
        raise UnknownName("model", name, [entry.example or entry.name for entry in MODELS.values()])
    return MODELS[name]


def model_table() -> list[dict[str, str | int]]:
    """One row a model: name, doc, task, input (the reference), prunable (weights on it, with 10 classes)."""
    rows: list[dict[str, str | int]] = []
    for entry in MODELS.values():
        with torch.device("meta"):  # only shapes are asked for
            prunable = MaskSpace.of(find_model(entry.example or entry.name).build(entry.reference, 10)).prunable
        size = "x".join(map(str, entry.reference))
        rows.append({"name": entry.name, "doc": entry.doc, "task": entry.task, "input": size, "prunable": prunable})
    return rows
