"""Between the batch-last buffers and the tensors that loss and autograd see.

`(k, B, C)` outputs with few features C stay batch-last in memory, as a transposed view, which is also what makes a softmax
over C fast; wide ones are turned into rows.
Counted for C features and B samples: C·B numbers read, C·B written; no operations.
"""

from __future__ import annotations

from typing import Any

from evoprune.training.engines.kernels.runtime import address, kernel, pointer

__all__ = ["absorb", "emit"]

BUFFER, TENSOR, FEATURES, SAMPLES, BLOCK, SIZE, ADD, OF_FEATURE, OF_SAMPLE = 0, 4, 5, 6, 7, 8, 9, 10, 11
WORDS = 12


@kernel
def emit(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """tensor[row, b, c] = buffer[c, b] for the samples of this block."""
    source = pointer(args, kind, BUFFER, row, slot, block)
    features, samples, width = args[FEATURES], args[SAMPLES], args[BLOCK]
    f, s = args[OF_FEATURE], args[OF_SAMPLE]
    target = address(kind, args[TENSOR] + (row * samples * features + block * width * s) * args[SIZE])
    valid = min(width, samples - block * width)
    if s == 1:
        for feature in range(features):
            for sample in range(valid):
                target[feature * f + sample] = source[feature * width + sample]
    else:
        for sample in range(valid):
            for feature in range(features):
                target[sample * s + feature] = source[feature * width + sample]


@kernel
def absorb(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """buffer[c, b] = tensor[row, b, c] (+ buffer if ADD), and zero where the block reaches beyond the batch."""
    target = pointer(args, kind, BUFFER, row, slot, block)
    features, samples, width = args[FEATURES], args[SAMPLES], args[BLOCK]
    f, s = args[OF_FEATURE], args[OF_SAMPLE]
    source = address(kind, args[TENSOR] + (row * samples * features + block * width * s) * args[SIZE])
    valid = min(width, samples - block * width)
    if args[ADD] == 0:
        for number in range(features * width):
            target[number] = 0
    if s == 1:
        for feature in range(features):
            for sample in range(valid):
                target[feature * width + sample] += source[feature * f + sample]
    else:
        for sample in range(valid):
            for feature in range(features):
                target[feature * width + sample] += source[sample * s + feature]
