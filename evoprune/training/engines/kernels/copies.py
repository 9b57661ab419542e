"""Copies, sums and products of whole buffers of one individual: slices, padding, residual additions, dropout.

Counted for N numbers: a copy N read, N written; a sum 2 N read, N written, N operations; dropout the same.
"""

from __future__ import annotations

from typing import Any

from evoprune.training.engines.kernels.runtime import kernel, move, pointer, zero

__all__ = ["plus", "region", "times"]

TARGET, SOURCE, OTHER = 0, 4, 8
CHANNELS, LINES, WIDTH, BLOCK, ADD, GATED = 12, 13, 14, 15, 16, 17
ALL_CHANNELS, ALL_LINES, ALL_WIDTH, CLEAR = 18, 19, 20, 21
TARGET_OFFSET, SOURCE_OFFSET = 22, 23
STRIDES = 24  # channel, line and pixel strides of target, source and other
WORDS = 33


@kernel
def region(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """A region of target = a (strided) region of source (+ target if ADD); the rest of target = 0 if CLEAR."""
    target, source = pointer(args, kind, TARGET, row, slot, block), pointer(args, kind, SOURCE, row, slot, block)
    size = args[BLOCK]
    if args[CLEAR] != 0:
        for channel in range(args[ALL_CHANNELS]):
            for line in range(args[ALL_LINES]):
                here = move(target, channel * args[STRIDES + 6] + line * args[STRIDES + 7])
                for number in range(args[ALL_WIDTH] * size):
                    here[number] = 0
    target, source = move(target, args[TARGET_OFFSET]), move(source, args[SOURCE_OFFSET])
    width = args[WIDTH]
    if args[STRIDES + 2] == size and args[STRIDES + 5] == size:
        size, width = width * size, 1  # a whole line is one run
    for channel in range(args[CHANNELS]):
        for line in range(args[LINES]):
            for pixel in range(width):
                here = move(target, channel * args[STRIDES] + line * args[STRIDES + 1] + pixel * args[STRIDES + 2])
                there = move(source, channel * args[STRIDES + 3] + line * args[STRIDES + 4] + pixel * args[STRIDES + 5])
                if args[ADD] != 0:
                    for sample in range(size):
                        here[sample] += there[sample]
                else:
                    for sample in range(size):
                        here[sample] = there[sample]


@kernel
def plus(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """target = source + other, then ReLU if GATED."""
    target, source = pointer(args, kind, TARGET, row, slot, block), pointer(args, kind, SOURCE, row, slot, block)
    other = pointer(args, kind, OTHER, row, slot, block)
    length, nil = args[WIDTH] * args[BLOCK], zero(kind)
    for channel in range(args[CHANNELS]):
        for line in range(args[LINES]):
            here = move(target, channel * args[STRIDES] + line * args[STRIDES + 1])
            left = move(source, channel * args[STRIDES + 3] + line * args[STRIDES + 4])
            right = move(other, channel * args[STRIDES + 6] + line * args[STRIDES + 7])
            if args[GATED] != 0:
                for number in range(length):
                    value = left[number] + right[number]
                    here[number] = nil if value <= 0 else value
            else:
                for number in range(length):
                    here[number] = left[number] + right[number]


@kernel
def times(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """target = source · other (+ target if ADD)."""
    target, source = pointer(args, kind, TARGET, row, slot, block), pointer(args, kind, SOURCE, row, slot, block)
    other = pointer(args, kind, OTHER, row, slot, block)
    length = args[WIDTH] * args[BLOCK]
    for channel in range(args[CHANNELS]):
        for line in range(args[LINES]):
            here = move(target, channel * args[STRIDES] + line * args[STRIDES + 1])
            left = move(source, channel * args[STRIDES + 3] + line * args[STRIDES + 4])
            right = move(other, channel * args[STRIDES + 6] + line * args[STRIDES + 7])
            if args[ADD] != 0:
                for number in range(length):
                    here[number] += left[number] * right[number]
            else:
                for number in range(length):
                    here[number] = left[number] * right[number]
