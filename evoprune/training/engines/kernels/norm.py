"""Batch normalisation of one individual, with ReLU and a residual addition fused; statistics over all pixels and samples.

In training a barrier over the blocks of the batch stands between `moments` and `normalise`, and between `moments_back` and
`normalise_back`: each sums while the block that was just computed is in the cache, and the blocks follow each other in order,
so that the bits depend on nothing else. With the statistics of evaluation no barrier is needed.

Sums run over one image line in the element type, over lines and blocks in float64. The variance is taken around a pivot, the
mean of the batch's first line: as a part f of all numbers it lies within sqrt(1/f - 1) standard deviations of the mean, so that
no digit that matters cancels. Samples beyond the batch count neither forward nor backward.
Counted for N numbers: N read (moments), N read, N written (normalise; 2 N read with an addition); 2 N read (moments_back), 2 N
read, N written (normalise_back). About 7 N and 10 N operations.
"""

from __future__ import annotations

import math
from typing import Any

from evoprune.training.engines.kernels.runtime import (
    address,
    address64,
    addressd,
    double,
    inline,
    kernel,
    move,
    number,
    pointer,
    zero,
)

__all__ = ["PER_CHANNEL", "SUMS_PER_CHANNEL", "moments", "moments_back", "normalise", "normalise_back"]

IN, OUT, DELTA_OUT, DELTA_IN, OTHER, SAVED, SUMS = 0, 4, 8, 12, 16, 20, 24
CHANNELS, LINES, WIDTH, BLOCK, SAMPLES, BATCH_STATISTICS, GATED, ADD, SIZE = 28, 29, 30, 31, 32, 33, 34, 35, 36
WEIGHT, BIAS, MEAN, VARIANCE, TRACKED, WEIGHT_GRADIENT, BIAS_GRADIENT = 37, 38, 39, 40, 41, 42, 43
EPSILON, MOMENTUM = 44, 45  # bits of float64; a negative momentum stands for the mean over all batches
STRIDES = 46  # channel and line strides of the five buffers
AGAIN = 56
WORDS = 57

PER_CHANNEL = 7
"""Numbers of a channel in SAVED: mean, 1 / standard deviation; scale and shift; the gradient's scale, slope and shift."""

SUMS_PER_CHANNEL = 3
"""Float64 of a channel in SUMS: pivot, sums of differences and squares; backward sums of gradients and of their products."""


@inline
def line_mean(values: Any, width: Any, block: Any, valid: Any) -> Any:
    """Mean of one image line over the samples that count."""
    total = zero(values)
    for pixel in range(width):
        for sample in range(valid):
            total += values[pixel * block + sample]
    return total / (width * valid)


@inline
def line_moments(values: Any, pivot: Any, width: Any, block: Any, valid: Any) -> Any:
    """Sums of the distances from `pivot` and of their squares."""
    total, squares = zero(values), zero(values)
    if valid == block:
        for at in range(width * block):
            distance = values[at] - pivot
            total += distance
            squares += distance * distance
    else:
        for pixel in range(width):
            for sample in range(valid):
                distance = values[pixel * block + sample] - pivot
                total += distance
                squares += distance * distance
    return total, squares


@inline
def line_dots(changes: Any, values: Any, centre: Any, length: Any) -> Any:
    """Sums of changes and of changes · (values - centre)."""
    total, along = zero(values), zero(values)
    for at in range(length):
        total += changes[at]
        along += changes[at] * (values[at] - centre)
    return total, along


@inline
def line_scale(target: Any, source: Any, scale: Any, shift: Any, length: Any, gated: Any) -> None:
    """target = source · scale + shift, then ReLU if gated."""
    if gated:
        nil = zero(target)
        for at in range(length):
            value = source[at] * scale + shift
            target[at] = nil if value <= 0 else value
    else:
        for at in range(length):
            target[at] = source[at] * scale + shift


@inline
def line_scale_plus(target: Any, source: Any, other: Any, scale: Any, shift: Any, length: Any, gated: Any) -> None:
    """target = source · scale + shift + other, then ReLU if gated."""
    if gated:
        nil = zero(target)
        for at in range(length):
            value = source[at] * scale + shift + other[at]
            target[at] = nil if value <= 0 else value
    else:
        for at in range(length):
            target[at] = source[at] * scale + shift + other[at]


@inline
def line_back(target: Any, delta: Any, source: Any, scale: Any, slope: Any, shift: Any, length: Any, add: Any) -> None:
    """target = delta · scale + source · slope + shift (+ target)."""
    if add:
        for at in range(length):
            target[at] += delta[at] * scale + source[at] * slope + shift
    else:
        for at in range(length):
            target[at] = delta[at] * scale + source[at] * slope + shift


@kernel
def moments(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """Adds this block to the sums of every channel."""
    source = pointer(args, kind, IN, row, slot, block)
    sums = addressd(args[SUMS] + row * args[SUMS + 1] + slot * args[SUMS + 2])
    lines, width, size = args[LINES], args[WIDTH], args[BLOCK]
    valid = min(size, args[SAMPLES] - block * size)
    for channel in range(args[CHANNELS]):
        values, own = move(source, channel * args[STRIDES]), channel * SUMS_PER_CHANNEL
        if block == 0:
            sums[own] = line_mean(values, width, size, valid)
            sums[own + 1] = sums[own + 2] = 0.0
        pivot = number(kind, sums[own])
        for line in range(lines):
            total, squares = line_moments(move(values, line * args[STRIDES + 1]), pivot, width, size, valid)
            sums[own + 1] += total
            sums[own + 2] += squares


@inline
def settle(args: Any, kind: Any, saved: Any, sums: Any, row: Any) -> None:
    """Scale and shift of every channel from the sums, or from the running statistics; these move on in training."""
    channels = args[CHANNELS]
    offset, own = row * channels * args[SIZE], args[BATCH_STATISTICS] != 0
    weight, bias = address(kind, args[WEIGHT] + offset), address(kind, args[BIAS] + offset)
    running, spread = address(kind, args[MEAN] + offset), address(kind, args[VARIANCE] + offset)
    epsilon, momentum = double(args[EPSILON]), double(args[MOMENTUM])
    count = args[LINES] * args[WIDTH] * args[SAMPLES]
    if args[TRACKED] != 0 and own:
        tracked = address64(args[TRACKED])
        tracked[row] += 1
        if momentum < 0:
            momentum = 1.0 / tracked[row]
    for channel in range(channels):
        if own:
            at = channel * SUMS_PER_CHANNEL
            away = sums[at + 1] / count
            mean, total = sums[at] + away, sums[at + 2] - away * sums[at + 1]
            total = 0.0 if total < 0 else total
            variance = total / count
            if args[MEAN] != 0:
                running[channel] = (1 - momentum) * running[channel] + momentum * mean
                spread[channel] = (1 - momentum) * spread[channel] + momentum * (total / (count - 1))
        else:
            mean, variance = running[channel] + 0.0, spread[channel] + 0.0
        inverse = 1 / math.sqrt(variance + epsilon)
        scale = inverse * weight[channel] if args[WEIGHT] != 0 else inverse
        at = channel * PER_CHANNEL
        saved[at], saved[at + 1] = mean, inverse  # rounded to the element type
        saved[at + 2], saved[at + 3] = scale, (bias[channel] if args[BIAS] != 0 else 0.0) - mean * scale


@kernel
def normalise(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """out = (in - mean) / sqrt(variance + epsilon) · weight + bias (+ other), then ReLU if GATED; AGAIN: with known ones."""
    source, target = pointer(args, kind, IN, row, slot, block), pointer(args, kind, OUT, row, slot, block)
    other, saved = pointer(args, kind, OTHER, row, slot, block), pointer(args, kind, SAVED, row, slot, block)
    length, gated = args[WIDTH] * args[BLOCK], args[GATED] != 0
    if block == 0 and args[AGAIN] == 0:
        settle(args, kind, saved, addressd(args[SUMS] + row * args[SUMS + 1] + slot * args[SUMS + 2]), row)
    for channel in range(args[CHANNELS]):
        scale, shift = saved[channel * PER_CHANNEL + 2], saved[channel * PER_CHANNEL + 3]
        for line in range(args[LINES]):
            here = move(target, channel * args[STRIDES + 2] + line * args[STRIDES + 3])
            there = move(source, channel * args[STRIDES] + line * args[STRIDES + 1])
            if args[OTHER] != 0:
                along = move(other, channel * args[STRIDES + 8] + line * args[STRIDES + 9])
                line_scale_plus(here, there, along, scale, shift, length, gated)
            else:
                line_scale(here, there, scale, shift, length, gated)


@kernel
def moments_back(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """Adds this block to the sums of every channel's gradients."""
    source, delta = pointer(args, kind, IN, row, slot, block), pointer(args, kind, DELTA_OUT, row, slot, block)
    saved = pointer(args, kind, SAVED, row, slot, block)
    sums = addressd(args[SUMS] + row * args[SUMS + 1] + slot * args[SUMS + 2])
    length, first = args[WIDTH] * args[BLOCK], block == 0 or args[BATCH_STATISTICS] == 0
    for channel in range(args[CHANNELS]):
        own, mean = channel * SUMS_PER_CHANNEL, saved[channel * PER_CHANNEL]
        if first:
            sums[own + 1] = sums[own + 2] = 0.0
        for line in range(args[LINES]):
            here = move(delta, channel * args[STRIDES + 4] + line * args[STRIDES + 5])
            there = move(source, channel * args[STRIDES] + line * args[STRIDES + 1])
            total, along = line_dots(here, there, mean, length)
            sums[own + 1] += total
            sums[own + 2] += along


@inline
def settle_back(args: Any, kind: Any, saved: Any, sums: Any, row: Any) -> None:
    """Gradients of weight and bias, and the three numbers a channel that the gradient of its input takes."""
    channels = args[CHANNELS]
    offset, own = row * channels * args[SIZE], args[BATCH_STATISTICS] != 0
    weight, count = address(kind, args[WEIGHT] + offset), args[LINES] * args[WIDTH] * args[SAMPLES]
    d_weight, d_bias = address(kind, args[WEIGHT_GRADIENT] + offset), address(kind, args[BIAS_GRADIENT] + offset)
    for channel in range(channels):
        at = channel * PER_CHANNEL
        total, along = sums[channel * SUMS_PER_CHANNEL + 1], sums[channel * SUMS_PER_CHANNEL + 2]
        mean, inverse = saved[at], saved[at + 1] + 0.0
        if args[WEIGHT_GRADIENT] != 0:
            d_weight[channel] += along * inverse
        if args[BIAS_GRADIENT] != 0:
            d_bias[channel] += total
        scale = inverse * weight[channel] if args[WEIGHT] != 0 else inverse
        slope = -scale * inverse * inverse * along / count if own else 0.0
        saved[at + 4], saved[at + 5] = scale, slope
        saved[at + 6] = -scale * total / count - slope * mean if own else 0.0


@kernel
def normalise_back(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """Gradients of input, weight and bias."""
    source, delta = pointer(args, kind, IN, row, slot, block), pointer(args, kind, DELTA_OUT, row, slot, block)
    target, saved = pointer(args, kind, DELTA_IN, row, slot, block), pointer(args, kind, SAVED, row, slot, block)
    width, size = args[WIDTH], args[BLOCK]
    valid = min(size, args[SAMPLES] - block * size)
    if block == 0 or args[BATCH_STATISTICS] == 0:
        settle_back(args, kind, saved, addressd(args[SUMS] + row * args[SUMS + 1] + slot * args[SUMS + 2]), row)
    for channel in range(args[CHANNELS] if args[DELTA_IN] != 0 else 0):
        at = channel * PER_CHANNEL
        scale, slope, shift = saved[at + 4], saved[at + 5], saved[at + 6]
        for line in range(args[LINES]):
            here = move(target, channel * args[STRIDES + 6] + line * args[STRIDES + 7])
            change = move(delta, channel * args[STRIDES + 4] + line * args[STRIDES + 5])
            before = move(source, channel * args[STRIDES] + line * args[STRIDES + 1])
            line_back(here, change, before, scale, slope, shift, width * size, args[ADD] != 0)
            if valid < size:
                for pixel in range(width):
                    for sample in range(valid, size):
                        here[pixel * size + sample] = 0
