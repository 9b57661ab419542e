"""Sparse product of one individual: rows of the output are sums of shifted rows of the input, times survivors.

A row is one unit (Linear) or one channel (Conv2d, and its transposed form), made of `lines` × `runs` runs of contiguous
numbers: the batch for Linear, a whole image line times the batch for a convolution of stride 1, one pixel times the batch
for other strides. A survivor is (offset of its input run in pixels, value), so that no zero is multiplied and nothing is
unfolded.

Counted for an individual with S survivors, R rows, P pixels a row and B samples: 2·S·P·B operations; bytes: S·P·B reads of
numbers from cache (each survivor touches its run once a pixel), R·P·B written once; S·(4 + size) of structure a line.
"""

from __future__ import annotations

from typing import Any

from evoprune.training.engines.kernels.runtime import address, address32, address64, inline, kernel, move, pointer
from evoprune.training.engines.kernels.vectors import gather_tile

__all__ = ["product", "transposed"]

forward_8, forward_4, forward_2, forward_1 = (gather_tile(width, False) for width in (8, 4, 2, 1))
backward_8, backward_4, backward_2, backward_1 = (gather_tile(width, True) for width in (8, 4, 2, 1))

# arguments: buffers take four words each (see `pointer`), the rest one
OUT, IN, GATE, WEIGHTS, BIAS = 0, 4, 8, 12, 13
POINTERS, INDICES, ORDER, FIRST, ROWS, LINES, RUNS, LENGTH = 14, 15, 16, 17, 18, 19, 20, 21
OUT_ROW, OUT_LINE, OUT_RUN, IN_LINE, IN_RUN, GATE_ROW, GATE_LINE, GATE_RUN = 22, 23, 24, 25, 26, 27, 28, 29
UNIT, ADD, GATED, LANES, SIZE = 30, 31, 32, 33, 34
WORDS = 35


@inline
def forward_run(
    out: Any,
    data: Any,
    indices: Any,
    weights: Any,
    order: Any,
    count: Any,
    unit: Any,
    start: Any,
    add: Any,
    gate: Any,
    gated: Any,
    length: Any,
    width: Any,
) -> None:
    """One run of an output row, tile by tile."""
    at = 0
    while at + 8 * width <= length:
        forward_8(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)
        at += 8 * width
    if at + 4 * width <= length:
        forward_4(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)
        at += 4 * width
    if at + 2 * width <= length:
        forward_2(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)
        at += 2 * width
    if at + width <= length:
        forward_1(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)


@inline
def backward_run(
    out: Any,
    data: Any,
    indices: Any,
    weights: Any,
    order: Any,
    count: Any,
    unit: Any,
    start: Any,
    add: Any,
    gate: Any,
    gated: Any,
    length: Any,
    width: Any,
) -> None:
    """The same with the weights of `order`."""
    at = 0
    while at + 8 * width <= length:
        backward_8(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)
        at += 8 * width
    if at + 4 * width <= length:
        backward_4(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)
        at += 4 * width
    if at + 2 * width <= length:
        backward_2(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)
        at += 2 * width
    if at + width <= length:
        backward_1(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)


@kernel
def product(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """out = bias + sum of weight · shifted input, then ReLU if GATED is 1."""
    out, data, gate = pointer(args, kind, OUT, row, slot, block), pointer(args, kind, IN, row, slot, block), kind
    rows, lines, runs, length, unit, width = args[ROWS], args[LINES], args[RUNS], args[LENGTH], args[UNIT], args[LANES]
    first = address64(args[FIRST])[row]
    weights = address(kind, args[WEIGHTS] + first * args[SIZE])
    indices, order = address32(args[INDICES] + first * 4), address32(args[INDICES])
    pointers = address32(args[POINTERS] + row * (rows + 1) * 4)
    biased = args[BIAS] != 0
    bias = address(kind, args[BIAS] + row * rows * args[SIZE])
    for line in range(lines):
        for unit_row in range(rows):
            begin = pointers[unit_row]
            count = pointers[unit_row + 1] - begin
            start = bias[unit_row] if biased else 0.0
            for run in range(runs):
                forward_run(
                    move(out, unit_row * args[OUT_ROW] + line * args[OUT_LINE] + run * args[OUT_RUN]),
                    move(data, line * args[IN_LINE] + run * args[IN_RUN]),
                    move(indices, begin), move(weights, begin), order, count, unit, start, args[ADD], gate, args[GATED],
                    length, width,
                )  # fmt: skip


@kernel
def transposed(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """Gradient of the input: the product with the transposed weights; where the input came out of a ReLU that was closed
    (gate <= 0) the gradient is zero, if GATED is 2."""
    out, data = pointer(args, kind, OUT, row, slot, block), pointer(args, kind, IN, row, slot, block)
    gate = pointer(args, kind, GATE, row, slot, block)
    rows, lines, runs, length, unit, width = args[ROWS], args[LINES], args[RUNS], args[LENGTH], args[UNIT], args[LANES]
    first = address64(args[FIRST])[row]
    own = address64(args[BIAS])[row]  # where the survivors' values of this individual begin
    weights = address(kind, args[WEIGHTS] + own * args[SIZE])
    indices, order = address32(args[INDICES] + first * 4), address32(args[ORDER] + first * 4)
    pointers = address32(args[POINTERS] + row * (rows + 1) * 4)
    for line in range(lines):
        for unit_row in range(rows):
            begin = pointers[unit_row]
            count = pointers[unit_row + 1] - begin
            for run in range(runs):
                backward_run(
                    move(out, unit_row * args[OUT_ROW] + line * args[OUT_LINE] + run * args[OUT_RUN]),
                    move(data, line * args[IN_LINE] + run * args[IN_RUN]),
                    move(indices, begin), weights, move(order, begin), count, unit, 0.0, args[ADD],
                    move(gate, unit_row * args[GATE_ROW] + line * args[GATE_LINE] + run * args[GATE_RUN]), args[GATED],
                    length, width,
                )  # fmt: skip
