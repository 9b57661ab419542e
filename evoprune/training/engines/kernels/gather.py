"""The batch out of the data set, in batch-last form: sixteen samples a call.

Counted for B samples of N numbers: B·N numbers read along the samples, B·N written in runs of sixteen.
"""

from __future__ import annotations

from typing import Any

from evoprune.training.engines.kernels.runtime import address, address64, kernel, move
from evoprune.training.engines.kernels.vectors import transpose_tile

__all__ = ["TOGETHER", "gather"]

TOGETHER = 16
"""Samples a call, one cache line of float32."""

DATA, INDICES, TARGET, SAMPLES, BLOCK, BLOCK_NUMBERS, CHANNELS, LINES, WIDTH, ORIGIN, CHANNEL, LINE, LANES, SIZE = tuple(
    range(14)
)
WORDS = 14


@kernel
def gather(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """target[c, y, x, b] = data[indices[b], c, y, x] for the sixteen samples b of group `row`; the rest stays as it is."""
    data, size, width = address(kind, args[DATA]), args[SIZE], args[BLOCK]
    first = row * TOGETHER
    count = min(TOGETHER, args[SAMPLES] - first)
    indices = address64(args[INDICES] + first * 8)
    channels, lines, pixels = args[CHANNELS], args[LINES], args[WIDTH]
    numbers, lanes = channels * lines * pixels, args[LANES]
    own = address(kind, args[TARGET] + (first // width * args[BLOCK_NUMBERS] + args[ORIGIN] + first % width) * size)
    for channel in range(channels):
        for line in range(lines):
            source = move(data, (channel * lines + line) * pixels)
            target = move(own, channel * args[CHANNEL] + line * args[LINE])
            whole = pixels // lanes * lanes if count == TOGETHER else 0
            for pixel in range(0, whole, lanes):
                for sample in range(0, TOGETHER, lanes):
                    part = move(target, pixel * width + sample)
                    transpose_tile(part, width, move(source, pixel), address64(args[INDICES] + (first + sample) * 8), numbers)
            for pixel in range(whole, pixels):
                for sample in range(count):
                    target[pixel * width + sample] = source[indices[sample] * numbers + pixel]
