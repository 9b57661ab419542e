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

# arguments: buffers take four words each (see `pointer`), the rest one
OUT, IN, GATE, WEIGHTS, BIAS = 0, 4, 8, 12, 13
POINTERS, INDICES, ORDER, FIRST, ROWS, LINES, RUNS, LENGTH = 14, 15, 16, 17, 18, 19, 20, 21
OUT_ROW, OUT_LINE, OUT_RUN, IN_LINE, IN_RUN, GATE_ROW, GATE_LINE, GATE_RUN = 22, 23, 24, 25, 26, 27, 28, 29
UNIT, ADD, GATED, LANES, SIZE = 30, 31, 32, 33, 34
WORDS = 35


def sweep(permuted: bool) -> Any:
    """All runs of all rows, line by line; permuted: with the weights of `order`, and a gate in place of biases."""
    tile_8, tile_4, tile_2, tile_1 = (gather_tile(vectors, permuted) for vectors in (8, 4, 2, 1))

    @inline
    def one_run(
        out: Any, data: Any, indices: Any, weights: Any, order: Any, count: Any, unit: Any, start: Any, add: Any, gate: Any,
        gated: Any, length: Any, width: Any,
    ) -> None:  # fmt: skip
        at = 0
        while at + 8 * width <= length:
            tile_8(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)
            at += 8 * width
        if at + 4 * width <= length:
            tile_4(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)
            at += 4 * width
        if at + 2 * width <= length:
            tile_2(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)
            at += 2 * width
        if at + width <= length:
            tile_1(move(out, at), move(data, at), indices, weights, order, count, unit, start, add, move(gate, at), gated)

    @inline
    def rows_of_lines(
        args: Any, out: Any, data: Any, gate: Any, pointers: Any, indices: Any, weights: Any, order: Any, bias: Any
    ) -> None:
        for line in range(args[LINES]):
            for row in range(args[ROWS]):
                begin = pointers[row]
                count = pointers[row + 1] - begin
                start = 0.0
                if not permuted and args[BIAS] != 0:
                    start = bias[row]
                for run in range(args[RUNS]):
                    one_run(
                        move(out, row * args[OUT_ROW] + line * args[OUT_LINE] + run * args[OUT_RUN]),
                        move(data, line * args[IN_LINE] + run * args[IN_RUN]), move(indices, begin),
                        weights if permuted else move(weights, begin), move(order, begin), count, args[UNIT], start, args[ADD],
                        move(gate, row * args[GATE_ROW] + line * args[GATE_LINE] + run * args[GATE_RUN]), args[GATED],
                        args[LENGTH], args[LANES],
                    )  # fmt: skip

    return rows_of_lines


forward, backward = sweep(False), sweep(True)


@kernel
def product(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """out = bias + sum of weight · shifted input, then ReLU if GATED is 1."""
    out, data = pointer(args, kind, OUT, row, slot, block), pointer(args, kind, IN, row, slot, block)
    rows, first = args[ROWS], address64(args[FIRST])[row]
    weights, bias = address(kind, args[WEIGHTS] + first * args[SIZE]), address(kind, args[BIAS] + row * rows * args[SIZE])
    indices, pointers = address32(args[INDICES] + first * 4), address32(args[POINTERS] + row * (rows + 1) * 4)
    forward(args, out, data, kind, pointers, indices, weights, indices, bias)


@kernel
def transposed(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """Gradient of the input: the product with the transposed weights; where the input came out of a ReLU that was closed
    (gate <= 0) the gradient is zero, if GATED is 2."""
    out, data = pointer(args, kind, OUT, row, slot, block), pointer(args, kind, IN, row, slot, block)
    rows, first = args[ROWS], address64(args[FIRST])[row]
    own = address64(args[BIAS])[row]  # where the survivors' values of this individual begin
    weights, gate = address(kind, args[WEIGHTS] + own * args[SIZE]), pointer(args, kind, GATE, row, slot, block)
    indices, order = address32(args[INDICES] + first * 4), address32(args[ORDER] + first * 4)
    backward(args, out, data, gate, address32(args[POINTERS] + row * (rows + 1) * 4), indices, weights, order, kind)
