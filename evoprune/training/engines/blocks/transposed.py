"""Gradient of the input: the product with the transposed weights, closed where the input came out of a shut ReLU.

As `product`, over the entries sorted by the row that they read from in the forward pass. `order` says which survivor each is, so
that the weights are stored once. Every number of the result is written by one program: no atomics, and the same sum every time.

Counted as there, with 4·S more of structure, and R·P·B·size more where the gate is read.
"""

import triton
import triton.language as tl

__all__ = ["transposed"]


@triton.jit
def transposed(
    out,  # (k, rows, pixels, samples): gradient of the input
    delta,  # (k, runs, samples): gradient of the output, stretched and padded for strides and windows
    gate,  # (k, rows, pixels, samples): the input
    weights,  # (survivors of all k,)
    pointers,  # (k, rows + 1) int32
    indices,  # (survivors of all k,) int32: runs of delta that survivors meet at pixel 0
    order,  # (survivors of all k,) int32: position of each among the individual's survivors
    first,  # (k + 1,) int64
    rows,
    lines,  # of a row
    out_width,  # pixels a line
    samples,
    delta_owner,
    line_step,
    GATED: tl.constexpr,
    ENTRIES: tl.constexpr,
    WIDTH: tl.constexpr,
    SUM: tl.constexpr,
):
    unit, owner, tile = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    row, line = unit // lines, unit % lines
    span = out_width * samples
    lanes = tile * WIDTH + tl.arange(0, WIDTH)
    inside = lanes < span
    start = tl.load(first + owner)
    begin = tl.load(pointers + owner * (rows + 1) + row)
    end = tl.load(pointers + owner * (rows + 1) + row + 1)
    source = delta + owner * delta_owner + (line * line_step).to(tl.int64) * samples
    total = tl.zeros((ENTRIES, WIDTH), SUM)
    for at in range(begin, end, ENTRIES):
        entry = at + tl.arange(0, ENTRIES)
        known = entry < end
        run = tl.load(indices + start + entry, mask=known, other=0).to(tl.int64)
        own = tl.load(order + start + entry, mask=known, other=0)
        weight = tl.load(weights + start + own, mask=known, other=0).to(SUM)
        tiles = source + run[:, None] * samples + lanes[None, :]
        values = tl.load(tiles, mask=known[:, None] & inside[None, :], other=0).to(SUM)
        total += weight[:, None] * values
    result = tl.sum(total, axis=0)
    target = (owner * rows * lines + unit) * span + lanes
    if GATED:
        result = tl.where(tl.load(gate + target, mask=inside, other=0) > 0, result, 0)
    tl.store(out + target, result, mask=inside)
