"""Sampled product of one individual: the gradient of every survivor, and of the biases.

The gradient of a survivor is one dot product: the delta of its output row with the input run that it multiplies, over all
pixels and samples. The gradients of pruned weights are never formed. Results are added to what is there.

Counted for an individual with S survivors, R rows, P pixels a row and B samples: 2·S·P·B operations; bytes: (1 + 1/8)·S·P·B
reads of numbers from cache (a row's delta stays in registers for Linear, and is read once for eight survivors otherwise),
S numbers read and written. Images go line by line through all rows, so that the lines of all input channels that the window
meets stay in the cache; one vector of partial sums a survivor waits in a buffer meanwhile. The bias gradient reads R·P·B
numbers that the cache holds already.
"""

from __future__ import annotations

from typing import Any

from evoprune.training.engines.kernels.runtime import address, address32, address64, inline, kernel, move, pointer, zero
from evoprune.training.engines.kernels.vectors import dot_tile, dots_line, lane_sum, lane_sums

__all__ = ["sampled"]

dots_8, dots_4, dots_2, dots_1 = (dot_tile(width) for width in (8, 4, 2, 1))
line_8, line_7, line_6, line_5, line_4, line_3, line_2, line_1 = (dots_line(together) for together in range(8, 0, -1))

DELTA, IN, WEIGHTS, BIAS, POINTERS, INDICES, FIRST = 0, 4, 8, 9, 10, 11, 12
ROWS, LINES, RUNS, LENGTH, DELTA_ROW, DELTA_LINE, DELTA_RUN, IN_LINE, IN_RUN, UNIT, LANES, SIZE = tuple(range(13, 25))
SUMS = 25
WORDS = 29


@inline
def run_sum(data: Any, length: Any) -> Any:
    """Sum of a run."""
    total = zero(data)
    for number in range(length):
        total += data[number]
    return total


@inline
def one_run(result: Any, delta: Any, data: Any, indices: Any, count: Any, unit: Any, length: Any, width: Any) -> None:
    """All survivors of a row whose delta is a single run, tile by tile."""
    at = 0
    while at + 8 * width <= length:
        dots_8(result, move(delta, at), move(data, at), indices, count, unit)
        at += 8 * width
    if at + 4 * width <= length:
        dots_4(result, move(delta, at), move(data, at), indices, count, unit)
        at += 4 * width
    if at + 2 * width <= length:
        dots_2(result, move(delta, at), move(data, at), indices, count, unit)
        at += 2 * width
    if at + width <= length:
        dots_1(result, move(delta, at), move(data, at), indices, count, unit)


@inline
def one_line(
    sums: Any,
    delta: Any,
    data: Any,
    indices: Any,
    count: Any,
    unit: Any,
    runs: Any,
    length: Any,
    delta_run: Any,
    in_run: Any,
    width: Any,
) -> None:
    """All survivors of a row on one image line, eight at a time, and the rest together: alone each would wait for its own sum."""
    at = 0
    while at + 8 <= count:
        line_8(move(sums, at * width), delta, data, move(indices, at), unit, runs, length, delta_run, in_run)
        at += 8
    own, which, rest = move(sums, at * width), move(indices, at), count - at
    if rest == 7:
        line_7(own, delta, data, which, unit, runs, length, delta_run, in_run)
    elif rest == 6:
        line_6(own, delta, data, which, unit, runs, length, delta_run, in_run)
    elif rest == 5:
        line_5(own, delta, data, which, unit, runs, length, delta_run, in_run)
    elif rest == 4:
        line_4(own, delta, data, which, unit, runs, length, delta_run, in_run)
    elif rest == 3:
        line_3(own, delta, data, which, unit, runs, length, delta_run, in_run)
    elif rest == 2:
        line_2(own, delta, data, which, unit, runs, length, delta_run, in_run)
    elif rest == 1:
        line_1(own, delta, data, which, unit, runs, length, delta_run, in_run)


@kernel
def sampled(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """weights' gradient += delta · input at every survivor; bias' gradient += sum of delta."""
    delta, data = pointer(args, kind, DELTA, row, slot, block), pointer(args, kind, IN, row, slot, block)
    rows, lines, runs, length, unit, width = args[ROWS], args[LINES], args[RUNS], args[LENGTH], args[UNIT], args[LANES]
    first = address64(args[FIRST])[row]
    result = address(kind, args[WEIGHTS] + first * args[SIZE])
    indices = address32(args[INDICES] + first * 4)
    pointers = address32(args[POINTERS] + row * (rows + 1) * 4)
    bias = address(kind, args[BIAS] + row * rows * args[SIZE])
    single = lines * runs == 1
    if args[WEIGHTS] != 0 and single:
        for unit_row in range(rows):
            begin = pointers[unit_row]
            own = move(delta, unit_row * args[DELTA_ROW])
            one_run(move(result, begin), own, data, move(indices, begin), pointers[unit_row + 1] - begin, unit, length, width)
    elif args[WEIGHTS] != 0:
        count = pointers[rows]
        sums = pointer(args, kind, SUMS, row, slot, block)
        for number in range(count * width):
            sums[number] = 0
        for line in range(lines):
            for unit_row in range(rows):
                begin = pointers[unit_row]
                one_line(
                    move(sums, begin * width), move(delta, unit_row * args[DELTA_ROW] + line * args[DELTA_LINE]),
                    move(data, line * args[IN_LINE]), move(indices, begin), pointers[unit_row + 1] - begin, unit, runs, length,
                    args[DELTA_RUN], args[IN_RUN], width,
                )  # fmt: skip
        at = 0
        while at + 4 <= count:
            lane_sums(move(result, at), move(sums, at * width))
            at += 4
        while at < count:
            lane_sum(move(result, at), move(sums, at * width))
            at += 1
    if args[BIAS] != 0:
        for unit_row in range(rows):
            own = move(delta, unit_row * args[DELTA_ROW])
            for line in range(lines):
                for run in range(runs):
                    bias[unit_row] += run_sum(move(own, line * args[DELTA_LINE] + run * args[DELTA_RUN]), length)
