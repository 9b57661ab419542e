"""Element-wise nonlinearities and their gradients, over whole buffers.

ReLU is fused into the kernels that produce its input; these are the others, and ReLU's gate where no kernel could take it.
Counted for N numbers: forward N read, N written; backward 2 N read (3 N when adding), N written.
"""

from __future__ import annotations

import math
from typing import Any

from evoprune.training.engines.kernels.runtime import inline, kernel, pointer

__all__ = ["KINDS", "activate", "activate_back", "gate"]

KINDS = {"relu": 0, "gelu": 1, "gelu_tanh": 2, "tanh": 3, "sigmoid": 4, "silu": 5}

IN, OUT, DELTA_OUT, DELTA_IN, CHANNELS, LINES, LENGTH, KIND, ADD = 0, 4, 8, 12, 16, 17, 18, 19, 20
STRIDES = 21  # channel and line strides of the four buffers, two words each
WORDS = 29

ROOT_HALF, ROOT_2_OVER_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)
DENSITY = 1 / math.sqrt(2 * math.pi)


@inline
def value(kind: Any, x: Any) -> Any:
    """f(x)."""
    if kind == 0:
        return 0.0 if x <= 0 else x + 0.0
    if kind == 1:
        return 0.5 * x * (1 + math.erf(x * ROOT_HALF))
    if kind == 2:
        return 0.5 * x * (1 + math.tanh(ROOT_2_OVER_PI * (x + 0.044715 * x * x * x)))
    if kind == 3:
        return math.tanh(x)
    if kind == 4:
        return 1 / (1 + math.exp(-x))
    return x / (1 + math.exp(-x))


@inline
def slope(kind: Any, x: Any, y: Any) -> Any:
    """f'(x), given y = f(x)."""
    if kind == 0:
        return 0.0 if y <= 0 else 1.0
    if kind == 1:
        return 0.5 * (1 + math.erf(x * ROOT_HALF)) + x * DENSITY * math.exp(-0.5 * x * x)
    if kind == 2:
        inner = math.tanh(ROOT_2_OVER_PI * (x + 0.044715 * x * x * x))
        return 0.5 * (1 + inner) + 0.5 * x * (1 - inner * inner) * ROOT_2_OVER_PI * (1 + 3 * 0.044715 * x * x)
    if kind == 3:
        return 1 - y * y
    if kind == 4:
        return y * (1 - y)
    logistic = 1 / (1 + math.exp(-x))
    return logistic * (1 + x * (1 - logistic))


@kernel
def activate(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """out = f(in)."""
    source, target = pointer(args, kind, IN, row, slot, block), pointer(args, kind, OUT, row, slot, block)
    which = args[KIND]
    for channel in range(args[CHANNELS]):
        for line in range(args[LINES]):
            left = channel * args[STRIDES] + line * args[STRIDES + 1]
            right = channel * args[STRIDES + 2] + line * args[STRIDES + 3]
            for number in range(args[LENGTH]):
                target[right + number] = value(which, source[left + number])


@kernel
def activate_back(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """delta_in = delta_out · f'(in) (+ delta_in if ADD)."""
    source, target = pointer(args, kind, IN, row, slot, block), pointer(args, kind, OUT, row, slot, block)
    delta, result = pointer(args, kind, DELTA_OUT, row, slot, block), pointer(args, kind, DELTA_IN, row, slot, block)
    which, add = args[KIND], args[ADD] != 0
    for channel in range(args[CHANNELS]):
        for line in range(args[LINES]):
            i = channel * args[STRIDES] + line * args[STRIDES + 1]
            o = channel * args[STRIDES + 2] + line * args[STRIDES + 3]
            d = channel * args[STRIDES + 4] + line * args[STRIDES + 5]
            r = channel * args[STRIDES + 6] + line * args[STRIDES + 7]
            for number in range(args[LENGTH]):
                change = delta[d + number] * slope(which, source[i + number], target[o + number])
                result[r + number] = result[r + number] + change if add else change


@kernel
def gate(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """delta_in = 0 where out <= 0: the gradient of a ReLU that was fused forward."""
    target, result = pointer(args, kind, OUT, row, slot, block), pointer(args, kind, DELTA_IN, row, slot, block)
    for channel in range(args[CHANNELS]):
        for line in range(args[LINES]):
            o = channel * args[STRIDES + 2] + line * args[STRIDES + 3]
            r = channel * args[STRIDES + 6] + line * args[STRIDES + 7]
            for number in range(args[LENGTH]):
                result[r + number] = 0 if target[o + number] <= 0 else result[r + number]
