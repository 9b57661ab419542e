"""The models that have a name. To add one: a builder `(inputs, outputs) -> Module` under `@model(…)`.

Every model is a plain module without data-dependent control flow: `torch.fx` can trace it and `torch.func.vmap` map it.
Sizes of a model's hidden layers are given by its name alone; `inputs` is the shape of one sample, `outputs` the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod

import torch
from torch import nn

from evoprune.errors import InputError, UnknownName
from evoprune.masks.space import MaskSpace
from evoprune.registry import Registry

__all__ = ["MODELS", "Builder", "ModelEntry", "find_model", "he_normal_", "model_table"]

Shape = tuple[int, ...]
Builder = Callable[[Shape, int], nn.Module]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
WIDEST = 1_000_000


@dataclass(frozen=True)
class ModelEntry:
    """A named model: how to build it, what for, and the input that its published size is for."""

    name: str
    build: Builder
    doc: str
    task: str = "classification"
    reference: Shape = GREY


MODELS: Registry[ModelEntry] = Registry("model")
FAMILY = "mlp:W1-W2-…"


def model(name: str, *, task: str = "classification", reference: Shape = GREY) -> Callable[[Builder], Builder]:
    """Register a builder under `name`; its docstring's first line is shown by `evoprune list models`."""

    def register(build: Builder) -> Builder:
        MODELS.add(name, ModelEntry(name, build, (build.__doc__ or "").splitlines()[0], task, reference))
        return build

    return register


def find_model(name: str) -> ModelEntry:
    """The entry of a registered name, or of `mlp:300-100`. Raises `UnknownName`, or `InputError` on a bad width."""
    if not isinstance(name, str) or not name.startswith("mlp:"):
        entry = MODELS[name]
        if name == FAMILY:
            raise UnknownName("model", name, [*(known for known in MODELS if known != FAMILY), "mlp:300-100"])
        return entry
    widths = tuple(_width(part, name) for part in name.removeprefix("mlp:").split("-"))
    return ModelEntry(name, partial(mlp, widths), f"fully connected, {name.removeprefix('mlp:')} hidden units, ReLU")


def _width(part: str, name: str) -> int:
    if not (part.isascii() and part.isdigit() and 0 < int(part) <= WIDEST):
        raise InputError(f"model {name!r} has the width {part!r}: give whole numbers from 1 to {WIDEST:,}, as in mlp:300-100")
    return int(part)


def model_table() -> list[dict[str, str | int]]:
    """One row a model: name, doc, task, prunable weights on its reference input with 10 classes, and that input."""
    rows: list[dict[str, str | int]] = []
    for entry in MODELS.values():
        name = "mlp:300-100" if entry.name == FAMILY else entry.name
        with torch.device("meta"):  # only shapes are asked for
            prunable = MaskSpace.of(find_model(name).build(entry.reference, 10)).prunable
        size = "x".join(map(str, entry.reference))
        rows.append({"name": entry.name, "doc": entry.doc, "task": entry.task, "prunable": prunable, "input": size})
    return rows


@torch.no_grad()
def he_normal_(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw every Linear and Conv weight from N(0, 2 / fan-in), set biases to 0 and norms to 1 and 0, in place.

    The order is that of `module.modules()`, so one state of `generator` always gives the same weights.  [He et al. 2015]
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            fan_in = prod(layer.weight.shape[1:])
            layer.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
            layer.reset_parameters()
    return module


# ---- fully connected --------------------------------------------------------------------------------------------------------


def mlp(widths: tuple[int, ...], inputs: Shape, outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them, on the flattened input."""
    return nn.Sequential(nn.Flatten(), *_dense(prod(inputs), *widths), nn.Linear(widths[-1], outputs))


def _dense(*widths: int) -> Iterator[nn.Module]:
    for fan_in, fan_out in pairwise(widths):
        yield nn.Linear(fan_in, fan_out)
        yield nn.ReLU()


@model("lenet-300-100")
def lenet_300_100(inputs: Shape, outputs: int) -> nn.Module:
    """fully connected, 300-100 hidden units, ReLU"""
    return mlp((300, 100), inputs, outputs)


@model(FAMILY)
def _any_mlp(inputs: Shape, outputs: int) -> nn.Module:
    """fully connected, hidden units as the name says (mlp:300-100), ReLU"""
    return mlp((300, 100), inputs, outputs)


@model("autoencoder", task="reconstruction")
def autoencoder(inputs: Shape, outputs: int) -> nn.Module:
    """fully connected autoencoder, 300-100-32-100-300, ReLU, linear code and output"""
    size = prod(inputs)
    encoder = [nn.Flatten(), *_dense(size, 300, 100), nn.Linear(100, 32)]
    return nn.Sequential(*encoder, *_dense(32, 100, 300), nn.Linear(300, size))


# ---- convolutional ----------------------------------------------------------------------------------------------------------


def _image(inputs: Shape, name: str, shrink: Callable[[int], int]) -> tuple[int, int, int]:
    """Channels, height and width, of an input that is still an image after `shrink` was applied to its sides."""
    if len(inputs) != 3:
        raise InputError(f"{name} needs images (channels, height, width), the samples have shape {inputs}: take an mlp instead")
    if min(map(shrink, inputs[1:])) < 1:
        least = next(side for side in range(1, 1025) if shrink(side) >= 1)
        raise InputError(f"images too small for {name}: {inputs[1]}x{inputs[2]}, it needs at least {least}x{least}")
    return inputs[0], inputs[1], inputs[2]


def _halved(times: int) -> Callable[[int], int]:
    return lambda side: side >> times


@model("lenet5")
def lenet5(inputs: Shape, outputs: int) -> nn.Module:
    """convolutional, 20 and 50 filters of 5x5 with max-pooling, 500 units, ReLU"""

    def shrink(side: int) -> int:
        return ((side - 4) // 2 - 4) // 2

    channels, height, width = _image(inputs, "lenet5", shrink)
    return nn.Sequential(
        nn.Conv2d(channels, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * shrink(height) * shrink(width), 500),
        nn.ReLU(),
        nn.Linear(500, outputs),
    )
