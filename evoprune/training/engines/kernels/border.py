"""Between the batch-last buffers and the `(k, B, …)` tensors that loss and autograd see.

Counted for C features and B samples: C·B numbers read, C·B written; no operations.
"""

from __future__ import annotations

from evoprune.training.engines.kernels.runtime import address, kernel, pointer

__all__ = ["absorb", "emit"]

BUFFER, TENSOR, FEATURES, SAMPLES, BLOCK, SIZE, ADD = 0, 4, 5, 6, 7, 8, 9
WORDS = 10


@kernel
def emit(args, kind, row, slot, block):  # type: ignore[no-untyped-def]
    """tensor[row, b, c] = buffer[c, b] for the samples of this block."""
    source = pointer(args, kind, BUFFER, row, slot, block)
    features, samples, width = args[FEATURES], args[SAMPLES], args[BLOCK]
    target = address(kind, args[TENSOR] + (row * samples + block * width) * features * args[SIZE])
    for sample in range(min(width, samples - block * width)):
        for feature in range(features):
            target[sample * features + feature] = source[feature * width + sample]


@kernel
def absorb(args, kind, row, slot, block):  # type: ignore[no-untyped-def]
    """buffer[c, b] = tensor[row, b, c] (+ buffer if ADD), and zero where the block reaches beyond the batch."""
    target = pointer(args, kind, BUFFER, row, slot, block)
    features, samples, width = args[FEATURES], args[SAMPLES], args[BLOCK]
    source = address(kind, args[TENSOR] + (row * samples + block * width) * features * args[SIZE])
    valid = min(width, samples - block * width)
    if args[ADD] == 0:
        for number in range(features * width):
            target[number] = 0
    for sample in range(valid):
        for feature in range(features):
            target[feature * width + sample] += source[sample * features + feature]
