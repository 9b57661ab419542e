"""Batch normalisation of one individual, with ReLU fused; statistics over all pixels and samples of a channel.

Sums run over one image line in the element type, over lines in float64; the variance is taken around the mean in a second
pass. Samples beyond the batch count neither forward nor backward.
Counted for N numbers: training 3 N read, N written forward (2 N from cache when a channel fits); 4 N read, N written
backward; evaluation N read, N written. About 8 N and 10 N operations.
"""

from __future__ import annotations

import math
from typing import Any

from evoprune.training.engines.kernels.runtime import address, address64, double, inline, kernel, move, pointer, zero

__all__ = ["normalise", "normalise_back"]

IN, OUT, DELTA_OUT, DELTA_IN, SAVED = 0, 4, 8, 12, 16
CHANNELS, LINES, WIDTH, BLOCK, SAMPLES, BATCH_STATISTICS, GATED, ADD, SIZE = 20, 21, 22, 23, 24, 25, 26, 27, 28
WEIGHT, BIAS, MEAN, VARIANCE, TRACKED, WEIGHT_GRADIENT, BIAS_GRADIENT = 29, 30, 31, 32, 33, 34, 35
EPSILON, MOMENTUM = 36, 37  # bits of float64; a negative momentum stands for the mean over all batches
STRIDES = 38  # channel and line strides of the four buffers
WORDS = 46


@inline
def line_sum(values: Any, width: Any, block: Any, valid: Any) -> Any:
    """Sum of one image line over the samples that count."""
    total = zero(values)
    if valid == block:
        for number in range(width * block):
            total += values[number]
    else:
        for pixel in range(width):
            for sample in range(valid):
                total += values[pixel * block + sample]
    return total


@inline
def line_squares(values: Any, centre: Any, width: Any, block: Any, valid: Any) -> Any:
    """Sum of the squared distances from `centre`."""
    total = zero(values)
    if valid == block:
        for number in range(width * block):
            total += (values[number] - centre) * (values[number] - centre)
    else:
        for pixel in range(width):
            for sample in range(valid):
                total += (values[pixel * block + sample] - centre) * (values[pixel * block + sample] - centre)
    return total


@inline
def line_dot(values: Any, others: Any, centre: Any, length: Any) -> Any:
    """Sum of values · (others - centre)."""
    total = zero(values)
    for number in range(length):
        total += values[number] * (others[number] - centre)
    return total


@inline
def line_scale(target: Any, source: Any, scale: Any, shift: Any, length: Any, gated: Any) -> None:
    """target = source · scale + shift, then ReLU if gated."""
    if gated:
        nil = zero(target)
        for number in range(length):
            value = source[number] * scale + shift
            target[number] = nil if value <= 0 else value
    else:
        for number in range(length):
            target[number] = source[number] * scale + shift


@inline
def line_back(target: Any, delta: Any, source: Any, scale: Any, slope: Any, shift: Any, length: Any, add: Any) -> None:
    """target = delta · scale + source · slope + shift (+ target)."""
    if add:
        for number in range(length):
            target[number] += delta[number] * scale + source[number] * slope + shift
    else:
        for number in range(length):
            target[number] = delta[number] * scale + source[number] * slope + shift


@kernel
def normalise(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """out = (in - mean) / sqrt(variance + epsilon) · weight + bias; running statistics move on in training."""
    source, target = pointer(args, kind, IN, row, slot, block), pointer(args, kind, OUT, row, slot, block)
    saved = pointer(args, kind, SAVED, row, slot, block)
    channels, lines, width, size, samples = args[CHANNELS], args[LINES], args[WIDTH], args[BLOCK], args[SAMPLES]
    valid, offset = min(size, samples - block * size), row * channels * args[SIZE]
    weight, bias = address(kind, args[WEIGHT] + offset), address(kind, args[BIAS] + offset)
    running, spread = address(kind, args[MEAN] + offset), address(kind, args[VARIANCE] + offset)
    epsilon, momentum = double(args[EPSILON]), double(args[MOMENTUM])
    count, own = lines * width * valid, args[BATCH_STATISTICS] != 0
    if args[TRACKED] != 0 and own:
        tracked = address64(args[TRACKED])
        tracked[row] += 1
        if momentum < 0:
            momentum = 1.0 / tracked[row]
    for channel in range(channels):
        values, result = move(source, channel * args[STRIDES]), move(target, channel * args[STRIDES + 2])
        if own:
            total = 0.0
            for line in range(lines):
                total += line_sum(move(values, line * args[STRIDES + 1]), width, size, valid)
            mean, total = total / count, 0.0
            saved[2 * channel] = mean
            for line in range(lines):
                total += line_squares(move(values, line * args[STRIDES + 1]), saved[2 * channel], width, size, valid)
            variance = total / count
            if args[MEAN] != 0:
                running[channel] = (1 - momentum) * running[channel] + momentum * mean
                spread[channel] = (1 - momentum) * spread[channel] + momentum * (total / (count - 1))
        else:
            mean, variance = running[channel] + 0.0, spread[channel] + 0.0
            saved[2 * channel] = mean
        inverse = 1 / math.sqrt(variance + epsilon)
        saved[2 * channel + 1] = inverse
        scale = inverse * weight[channel] if args[WEIGHT] != 0 else inverse
        shift = (bias[channel] if args[BIAS] != 0 else 0.0) - mean * scale
        saved[2 * channels] = scale  # rounded to the element type
        saved[2 * channels + 1] = shift
        for line in range(lines):
            line_scale(
                move(result, line * args[STRIDES + 3]), move(values, line * args[STRIDES + 1]), saved[2 * channels],
                saved[2 * channels + 1], width * size, args[GATED] != 0,
            )  # fmt: skip


@kernel
def normalise_back(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """Gradients of input, weight and bias."""
    source, delta = pointer(args, kind, IN, row, slot, block), pointer(args, kind, DELTA_OUT, row, slot, block)
    target, saved = pointer(args, kind, DELTA_IN, row, slot, block), pointer(args, kind, SAVED, row, slot, block)
    channels, lines, width, size, samples = args[CHANNELS], args[LINES], args[WIDTH], args[BLOCK], args[SAMPLES]
    valid, offset = min(size, samples - block * size), row * channels * args[SIZE]
    weight = address(kind, args[WEIGHT] + offset)
    d_weight, d_bias = address(kind, args[WEIGHT_GRADIENT] + offset), address(kind, args[BIAS_GRADIENT] + offset)
    count, own, add = lines * width * valid, args[BATCH_STATISTICS] != 0, args[ADD] != 0
    for channel in range(channels):
        values, change = move(source, channel * args[STRIDES]), move(delta, channel * args[STRIDES + 4])
        result = move(target, channel * args[STRIDES + 6])
        mean, inverse = saved[2 * channel], saved[2 * channel + 1] + 0.0
        total, along = 0.0, 0.0
        for line in range(lines):
            here = move(change, line * args[STRIDES + 5])
            total += line_sum(here, width, size, valid)
            along += line_dot(here, move(values, line * args[STRIDES + 1]), mean, width * size)
        if args[WEIGHT_GRADIENT] != 0:
            d_weight[channel] += along * inverse
        if args[BIAS_GRADIENT] != 0:
            d_bias[channel] += total
        if args[DELTA_IN] != 0:
            scale = inverse * weight[channel] if args[WEIGHT] != 0 else inverse
            slope = -scale * inverse * inverse * along / count if own else 0.0
            shift = -scale * total / count - slope * mean if own else 0.0
            saved[2 * channels] = scale
            saved[2 * channels + 1] = slope
            saved[2 * channels + 2] = shift
            for line in range(lines):
                here, before = move(result, line * args[STRIDES + 7]), move(values, line * args[STRIDES + 1])
                line_back(
                    here, move(change, line * args[STRIDES + 5]), before, saved[2 * channels], saved[2 * channels + 1],
                    saved[2 * channels + 2], width * size, add,
                )  # fmt: skip
                if valid < size:
                    for pixel in range(width):
                        for sample in range(valid, size):
                            here[pixel * size + sample] = 0
