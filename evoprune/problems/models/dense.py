"""Fully connected models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from math import prod

from torch import nn

from evoprune.errors import InputError
from evoprune.problems.models.entry import FAMILIES, ModelEntry, Shape, model

__all__ = ["autoencoder", "hidden", "lenet_300_100", "mlp"]

WIDEST = 1_000_000


def hidden(*widths: int) -> Iterator[nn.Module]:
    """Linear layers from each width to the next, each with a ReLU."""
    for fan_in, fan_out in pairwise(widths):
        yield nn.Linear(fan_in, fan_out)
        yield nn.ReLU()


def mlp(widths: tuple[int, ...], inputs: Shape, outputs: int) -> nn.Module:
    """Hidden layers of `widths` with ReLU on the flattened input, and a linear output."""
    return nn.Sequential(nn.Flatten(), *hidden(prod(inputs), *widths), nn.Linear(widths[-1], outputs))


@model("lenet-300-100")
def lenet_300_100(inputs: Shape, outputs: int) -> nn.Module:
    """fully connected, 300-100 hidden units, ReLU"""
    return mlp((300, 100), inputs, outputs)


@model("mlp:W1-W2-…", example="mlp:300-100")
def _example(inputs: Shape, outputs: int) -> nn.Module:
    """fully connected, hidden units as in the name (mlp:300-100), ReLU"""
    return mlp((300, 100), inputs, outputs)


def _read(name: str) -> ModelEntry:
    sizes = name.removeprefix("mlp:")
    widths = tuple(_width(part, name) for part in sizes.split("-"))
    return ModelEntry(name, partial(mlp, widths), f"fully connected, {sizes} hidden units, ReLU")


def _width(part: str, name: str) -> int:
    if not (part.isascii() and part.isdigit() and 0 < int(part) <= WIDEST):
        raise InputError(f"model {name!r} has the width {part!r}: give whole numbers from 1 to {WIDEST:,}, as in mlp:300-100")
    return int(part)


FAMILIES["mlp"] = _read


@model("autoencoder", task="reconstruction")
def autoencoder(inputs: Shape, outputs: int) -> nn.Module:
    """fully connected autoencoder, 300-100-32-100-300, ReLU, linear code and output"""
    size = prod(inputs)
    encoder = [nn.Flatten(), *hidden(size, 300, 100), nn.Linear(100, 32)]
    return nn.Sequential(*encoder, *hidden(32, 100, 300), nn.Linear(300, size))
