"""Convolutional models without shortcuts."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from evoprune.errors import InputError
from evoprune.problems.models.dense import hidden
from evoprune.problems.models.entry import COLOUR, Shape, model

__all__ = ["conv2", "conv4", "conv6", "halved", "image", "lenet5", "vgg11", "vgg16"]


def image(inputs: Shape, name: str, shrink: Callable[[int], int]) -> tuple[int, int, int]:
    """Channels, height and width, of an input that is still an image after `shrink` was applied to its sides."""
    if len(inputs) != 3:
        raise InputError(f"{name} needs images (channels, height, width), the samples have shape {inputs}: take an mlp instead")
    if min(map(shrink, inputs[1:])) < 1:
        least = next(side for side in range(1, 1025) if shrink(side) >= 1)
        raise InputError(f"images too small for {name}: {inputs[1]}x{inputs[2]}, it needs at least {least}x{least}")
    return inputs[0], inputs[1], inputs[2]


def halved(times: int) -> Callable[[int], int]:
    """What is left of an image's side after so many poolings."""
    return lambda side: side >> times


@model("lenet5")
def lenet5(inputs: Shape, outputs: int) -> nn.Module:
    """convolutional, 20 and 50 filters of 5x5 with max-pooling, 500 units, ReLU"""

    def shrink(side: int) -> int:
        return ((side - 4) // 2 - 4) // 2

    channels, height, width = image(inputs, "lenet5", shrink)
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


def _conv_pairs(inputs: Shape, outputs: int, *widths: int) -> nn.Module:
    """Pairs of padded 3x3 convolutions, each pair with a max-pooling; then 256-256-outputs."""
    channels, height, width = image(inputs, f"conv{2 * len(widths)}", halved(len(widths)))
    layers: list[nn.Module] = []
    for filters in widths:
        layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(), nn.Conv2d(filters, filters, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        channels = filters
    flat = channels * (height >> len(widths)) * (width >> len(widths))
    return nn.Sequential(*layers, nn.Flatten(), *hidden(flat, 256, 256), nn.Linear(256, outputs))


@model("conv2", reference=COLOUR)
def conv2(inputs: Shape, outputs: int) -> nn.Module:
    """convolutional, 64-64 filters of 3x3 and pooling, 256-256 units, ReLU"""
    return _conv_pairs(inputs, outputs, 64)


@model("conv4", reference=COLOUR)
def conv4(inputs: Shape, outputs: int) -> nn.Module:
    """convolutional, 64-64, 128-128 filters of 3x3, pooling after each pair, 256-256 units, ReLU"""
    return _conv_pairs(inputs, outputs, 64, 128)


@model("conv6", reference=COLOUR)
def conv6(inputs: Shape, outputs: int) -> nn.Module:
    """convolutional, 64-64, 128-128, 256-256 filters of 3x3, pooling after each pair, 256-256 units, ReLU"""
    return _conv_pairs(inputs, outputs, 64, 128, 256)


def _vgg(name: str, inputs: Shape, outputs: int, *stages: tuple[int, ...]) -> nn.Module:
    """Stages of 3x3 convolution, batch norm and ReLU, each with a max-pooling; the mean over what is left; one linear head."""
    channels, _, _ = image(inputs, name, halved(len(stages)))
    layers: list[nn.Module] = []
    for stage in stages:
        for filters in stage:
            layers += [nn.Conv2d(channels, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
            channels = filters
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


@model("vgg11", reference=COLOUR)
def vgg11(inputs: Shape, outputs: int) -> nn.Module:
    """VGG-11 with batch norm, 8 convolutions of 64 to 512 filters, one linear head"""
    return _vgg("vgg11", inputs, outputs, (64,), (128,), (256, 256), (512, 512), (512, 512))


@model("vgg16", reference=COLOUR)
def vgg16(inputs: Shape, outputs: int) -> nn.Module:
    """VGG-16 with batch norm, 13 convolutions of 64 to 512 filters, one linear head"""
    return _vgg("vgg16", inputs, outputs, (64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
