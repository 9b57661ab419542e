"""Pooling of one individual: the largest of a window, with where it was; the mean of a region.

Counted for N numbers in, M numbers out and windows of T taps: max T·M read, M written, M bytes of positions; backward M read
twice, N written. Mean T·M read, M written; backward M read, N written. One operation a number.
"""

from __future__ import annotations

from typing import Any

from evoprune.training.engines.kernels.runtime import address8, address64, kernel, move, number, pointer
from evoprune.training.engines.kernels.windows import largest_of, spread_to

__all__ = ["largest", "largest_back", "mean", "mean_back"]

IN, OUT, DELTA_OUT, DELTA_IN, TAPS = 0, 4, 8, 12, 16
CHANNELS, LINES, WIDTH, BLOCK, ADD, GATED = 20, 21, 22, 23, 24, 25
IN_LINES, IN_WIDTH, TALL, WIDE, STEP_DOWN, STEP_RIGHT, PAD_DOWN, PAD_RIGHT = 26, 27, 28, 29, 30, 31, 32, 33
TOP, BOTTOM, LEFT, RIGHT, DIVISOR = 34, 35, 36, 37, 38
STRIDES = 39  # channel and line strides of the four buffers
PLAIN, TILED = 47, 48  # windows of 2 x 2 that are all inside; windows that meet every pixel once
WORDS = 49


largest_2, largest_any, spread_2, spread_any = largest_of(2), largest_of(0), spread_to(2), spread_to(0)


@kernel
def largest(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """out = largest of the window (the first of equals, NaN above all); the tap it came from is kept."""
    source, target = pointer(args, kind, IN, row, slot, block), pointer(args, kind, OUT, row, slot, block)
    taps = args[TAPS] + row * args[TAPS + 1] + slot * args[TAPS + 2] + block * args[TAPS + 3]
    lines, width, size, tall, wide = args[LINES], args[WIDTH], args[BLOCK], args[TALL], args[WIDE]
    step_down, step_right, pad_down, pad_right = args[STEP_DOWN], args[STEP_RIGHT], args[PAD_DOWN], args[PAD_RIGHT]
    in_lines, in_width, in_channel, in_line = args[IN_LINES], args[IN_WIDTH], args[STRIDES], args[STRIDES + 1]
    out_channel, out_line = args[STRIDES + 2], args[STRIDES + 3]
    plain = args[PLAIN] != 0
    for channel in range(args[CHANNELS]):
        for line in range(lines):
            down = line * step_down - pad_down
            top, bottom = max(0, -down), min(tall, in_lines - down)
            data = move(source, channel * in_channel + down * in_line)
            result = move(target, channel * out_channel + line * out_line)
            kept = taps + (channel * lines + line) * width * size
            if plain:
                largest_2(result, address8(kept), data, width, step_right * size, size, in_line, size, 2, 0, 2, 0, 2)
            else:
                for pixel in range(width):
                    across = pixel * step_right - pad_right
                    left, right = max(0, -across), min(wide, in_width - across)
                    largest_any(
                        move(result, pixel * size), address8(kept + pixel * size), move(data, across * size), 1, 0, size,
                        in_line, size, wide, top, bottom, left, right,
                    )  # fmt: skip


@kernel
def largest_back(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """delta_in = delta_out at the tap that was largest; zero elsewhere, and where out <= 0 if GATED."""
    target, delta = pointer(args, kind, OUT, row, slot, block), pointer(args, kind, DELTA_OUT, row, slot, block)
    result = pointer(args, kind, DELTA_IN, row, slot, block)
    taps = args[TAPS] + row * args[TAPS + 1] + slot * args[TAPS + 2] + block * args[TAPS + 3]
    lines, width, size, tall, wide, gated = args[LINES], args[WIDTH], args[BLOCK], args[TALL], args[WIDE], args[GATED]
    step_down, step_right, pad_down, pad_right = args[STEP_DOWN], args[STEP_RIGHT], args[PAD_DOWN], args[PAD_RIGHT]
    in_lines, in_width, in_channel, in_line = args[IN_LINES], args[IN_WIDTH], args[STRIDES + 6], args[STRIDES + 7]
    out_channel, out_line, delta_channel, delta_line = args[STRIDES + 2], args[STRIDES + 3], args[STRIDES + 4], args[STRIDES + 5]
    plain, tiled = args[PLAIN] != 0, args[TILED] != 0 and args[ADD] == 0
    add = 0 if tiled else 1
    for channel in range(args[CHANNELS]):
        if args[ADD] == 0 and not tiled:
            for line in range(in_lines):
                here = move(result, channel * in_channel + line * in_line)
                for number in range(in_width * size):
                    here[number] = 0
        for line in range(lines):
            down = line * step_down - pad_down
            top, bottom = max(0, -down), min(tall, in_lines - down)
            here = move(result, channel * in_channel + down * in_line)
            change = move(delta, channel * delta_channel + line * delta_line)
            best = move(target, channel * out_channel + line * out_line)
            kept = taps + (channel * lines + line) * width * size
            if plain:
                spread_2(
                    here, address8(kept), change, best, width, step_right * size, size, gated, add, in_line, size, 2, 0, 2, 0, 2,
                )  # fmt: skip
            else:
                for pixel in range(width):
                    across = pixel * step_right - pad_right
                    left, right = max(0, -across), min(wide, in_width - across)
                    spread_any(
                        move(here, across * size), address8(kept + pixel * size), move(change, pixel * size),
                        move(best, pixel * size), 1, 0, size, gated, add, in_line, size, wide, top, bottom, left, right,
                    )  # fmt: skip


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
