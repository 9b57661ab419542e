"""Losses with their gradients, on batch-last outputs: what stands between the forward and the backward pass of one individual,
or ends its evaluation.

Counted for C outputs and B samples: cross-entropy about 25·C·B operations, most of them exp's; C·B numbers read three times
and written twice, all in the nearest cache. Squared error 5·C·B operations, 2·C·B numbers read, C·B written.
"""

from __future__ import annotations

import math
from typing import Any

from evoprune.training.engines.kernels.runtime import address64, addressd, double, inline, kernel, move, number, pointer
from evoprune.training.engines.kernels.softmax import softmax_lanes

__all__ = ["cross_entropy", "squared_error"]

OUT, DELTA, TARGETS, SCRATCH, LOSS, FEATURES, SAMPLES, BLOCK, LANES, SCALE, HITS = 0, 4, 8, 12, 16, 17, 18, 19, 20, 21, 22
WORDS = 23


@inline
def hit(outputs: Any, features: Any, width: Any, wanted: Any) -> Any:
    """1 where `wanted` is the first of a sample's largest outputs, and none of them is NaN; else 0."""
    largest = outputs[wanted * width]
    for feature in range(features):
        output = outputs[feature * width]
        if math.isnan(output) or output > largest or (output == largest and feature < wanted):
            return 0
    return 1


@kernel
def cross_entropy(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """delta = scale · (softmax(out) - one at the class); loss[row] += scale · sum of -log softmax(out) at the class.

    TARGETS holds one int64 class a sample. Samples beyond the batch get zeros. The logarithms of one vector of samples are taken
    together, of the product of their sums of exponentials. HITS, unless 0: hits[row] += samples whose class is the largest.
    """
    out, delta = pointer(args, kind, OUT, row, slot, block), pointer(args, kind, DELTA, row, slot, block)
    largest = pointer(args, kind, SCRATCH, row, slot, block)
    features, width, lanes, scale = args[FEATURES], args[BLOCK], args[LANES], double(args[SCALE])
    factor, sums = number(kind, scale), move(largest, lanes)
    classes = address64(args[TARGETS] + block * width * 8)
    valid = min(width, args[SAMPLES] - block * width)
    total, right = 0.0, 0
    for first in range(0, valid, lanes):
        softmax_lanes(move(out, first), move(delta, first), features, width, factor, largest, sums)
        product = 1.0
        for lane in range(min(lanes, valid - first)):
            at = classes[first + lane] * width + first + lane
            delta[at] -= factor
            total += largest[lane] - out[at]
            product *= sums[lane]
            if args[HITS] != 0:
                right += hit(move(out, first + lane), features, width, classes[first + lane])
        total += math.log(product)
    for feature in range(features):
        for sample in range(valid, width):
            delta[feature * width + sample] = 0
    losses = addressd(args[LOSS])
    losses[row] += scale * total
    if args[HITS] != 0:
        hits = addressd(args[HITS])
        hits[row] += right


@kernel
def squared_error(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """delta = 2 · scale · (out - target); loss[row] += scale · sum of (out - target)^2; zeros beyond the batch."""
    out, delta = pointer(args, kind, OUT, row, slot, block), pointer(args, kind, DELTA, row, slot, block)
    target = pointer(args, kind, TARGETS, row, slot, block)
    features, width, scale = args[FEATURES], args[BLOCK], double(args[SCALE])
    factor = number(kind, 2 * scale)
    valid = min(width, args[SAMPLES] - block * width)
    total = 0.0
    for feature in range(features):
        own, line = move(out, feature * width), number(kind, 0.0)
        goal, change = move(target, feature * width), move(delta, feature * width)
        for sample in range(valid):
            difference = own[sample] - goal[sample]
            change[sample] = factor * difference
            line += difference * difference
        for sample in range(valid, width):
            change[sample] = 0
        total += line
    losses = addressd(args[LOSS])
    losses[row] += scale * total
