"""Pooling of one individual: the largest of a window, with where it was; the mean of a region.

Counted for N numbers in, M numbers out and windows of T taps: max T·M read, M written, M bytes of positions; backward M read
twice, N written. Mean T·M read, M written; backward M read, N written. One operation a number.
"""

from __future__ import annotations

from typing import Any

from evoprune.training.engines.kernels.runtime import address8, address64, kernel, move, number, pointer, zero

__all__ = ["largest", "largest_back", "mean", "mean_back"]

IN, OUT, DELTA_OUT, DELTA_IN, TAPS = 0, 4, 8, 12, 16
CHANNELS, LINES, WIDTH, BLOCK, ADD, GATED = 20, 21, 22, 23, 24, 25
IN_LINES, IN_WIDTH, TALL, WIDE, STEP_DOWN, STEP_RIGHT, PAD_DOWN, PAD_RIGHT = 26, 27, 28, 29, 30, 31, 32, 33
TOP, BOTTOM, LEFT, RIGHT, DIVISOR = 34, 35, 36, 37, 38
STRIDES = 39  # channel and line strides of the four buffers
WORDS = 47


@kernel
def largest(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """out = largest of the window (the first of equals, NaN above all); the tap it came from is kept."""
    source, target = pointer(args, kind, IN, row, slot, block), pointer(args, kind, OUT, row, slot, block)
    taps = address8(args[TAPS] + row * args[TAPS + 1] + slot * args[TAPS + 2] + block * args[TAPS + 3])
    size, tall, wide = args[BLOCK], args[TALL], args[WIDE]
    for channel in range(args[CHANNELS]):
        for line in range(args[LINES]):
            for pixel in range(args[WIDTH]):
                result = move(target, channel * args[STRIDES + 2] + line * args[STRIDES + 3] + pixel * size)
                from_tap = move(taps, ((channel * args[LINES] + line) * args[WIDTH] + pixel) * size)
                first = True
                for i in range(tall):
                    down = line * args[STEP_DOWN] + i - args[PAD_DOWN]
                    for j in range(wide):
                        right = pixel * args[STEP_RIGHT] + j - args[PAD_RIGHT]
                        if 0 <= down < args[IN_LINES] and 0 <= right < args[IN_WIDTH]:
                            values = move(source, channel * args[STRIDES] + down * args[STRIDES + 1] + right * size)
                            tap = i * wide + j
                            if first:
                                for sample in range(size):
                                    result[sample] = values[sample]
                                    from_tap[sample] = tap
                            else:
                                for sample in range(size):
                                    value, best = values[sample], result[sample]
                                    take = (value > best) | (value != value)
                                    result[sample] = value if take else best
                                    from_tap[sample] = tap if take else from_tap[sample]
                            first = False


@kernel
def largest_back(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """delta_in = delta_out at the tap that was largest; zero elsewhere, and where out <= 0 if GATED."""
    target, delta = pointer(args, kind, OUT, row, slot, block), pointer(args, kind, DELTA_OUT, row, slot, block)
    result = pointer(args, kind, DELTA_IN, row, slot, block)
    taps = address8(args[TAPS] + row * args[TAPS + 1] + slot * args[TAPS + 2] + block * args[TAPS + 3])
    size, tall, wide, gated = args[BLOCK], args[TALL], args[WIDE], args[GATED] != 0
    nil = zero(kind)
    tiled = args[ADD] == 0 and tall == args[STEP_DOWN] and wide == args[STEP_RIGHT]
    tiled = tiled and args[LINES] * tall == args[IN_LINES] and args[WIDTH] * wide == args[IN_WIDTH]
    for channel in range(args[CHANNELS]):
        if args[ADD] == 0 and not tiled:
            for line in range(args[IN_LINES]):
                here = move(result, channel * args[STRIDES + 6] + line * args[STRIDES + 7])
                for number in range(args[IN_WIDTH] * size):
                    here[number] = 0
        for line in range(args[LINES]):
            for pixel in range(args[WIDTH]):
                change = move(delta, channel * args[STRIDES + 4] + line * args[STRIDES + 5] + pixel * size)
                best = move(target, channel * args[STRIDES + 2] + line * args[STRIDES + 3] + pixel * size)
                from_tap = move(taps, ((channel * args[LINES] + line) * args[WIDTH] + pixel) * size)
                for i in range(tall):
                    down = line * args[STEP_DOWN] + i - args[PAD_DOWN]
                    for j in range(wide):
                        right = pixel * args[STEP_RIGHT] + j - args[PAD_RIGHT]
                        if 0 <= down < args[IN_LINES] and 0 <= right < args[IN_WIDTH]:
                            here = move(result, channel * args[STRIDES + 6] + down * args[STRIDES + 7] + right * size)
                            tap = i * wide + j
                            if tiled and gated:
                                for sample in range(size):
                                    kept = (from_tap[sample] == tap) & (not best[sample] <= 0)
                                    here[sample] = change[sample] if kept else nil
                            elif tiled:
                                for sample in range(size):
                                    here[sample] = change[sample] if from_tap[sample] == tap else nil
                            else:
                                for sample in range(size):
                                    kept = (from_tap[sample] == tap) & ((not gated) | (not best[sample] <= 0))
                                    here[sample] += change[sample] if kept else nil


@kernel
def mean(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """out = sum over the region / its divisor."""
    source, target = pointer(args, kind, IN, row, slot, block), pointer(args, kind, OUT, row, slot, block)
    top, bottom, left, right = address64(args[TOP]), address64(args[BOTTOM]), address64(args[LEFT]), address64(args[RIGHT])
    divisor, size = address64(args[DIVISOR]), args[BLOCK]
    for channel in range(args[CHANNELS]):
        for line in range(args[LINES]):
            for pixel in range(args[WIDTH]):
                result = move(target, channel * args[STRIDES + 2] + line * args[STRIDES + 3] + pixel * size)
                for sample in range(size):
                    result[sample] = 0
                for down in range(top[line], bottom[line]):
                    for across in range(left[pixel], right[pixel]):
                        values = move(source, channel * args[STRIDES] + down * args[STRIDES + 1] + across * size)
                        for sample in range(size):
                            result[sample] += values[sample]
                factor = number(kind, 1 / divisor[line * args[WIDTH] + pixel])
                for sample in range(size):
                    result[sample] *= factor


@kernel
def mean_back(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """delta_in = sum of delta_out / divisor over the regions that a pixel lies in."""
    delta, result = pointer(args, kind, DELTA_OUT, row, slot, block), pointer(args, kind, DELTA_IN, row, slot, block)
    top, bottom, left, right = address64(args[TOP]), address64(args[BOTTOM]), address64(args[LEFT]), address64(args[RIGHT])
    divisor, size = address64(args[DIVISOR]), args[BLOCK]
    for channel in range(args[CHANNELS]):
        if args[ADD] == 0:
            for line in range(args[IN_LINES]):
                here = move(result, channel * args[STRIDES + 6] + line * args[STRIDES + 7])
                for at in range(args[IN_WIDTH] * size):
                    here[at] = 0
        for line in range(args[LINES]):
            for pixel in range(args[WIDTH]):
                change = move(delta, channel * args[STRIDES + 4] + line * args[STRIDES + 5] + pixel * size)
                factor = number(kind, 1 / divisor[line * args[WIDTH] + pixel])
                for down in range(top[line], bottom[line]):
                    for across in range(left[pixel], right[pixel]):
                        here = move(result, channel * args[STRIDES + 6] + down * args[STRIDES + 7] + across * size)
                        for sample in range(size):
                            here[sample] += change[sample] * factor
