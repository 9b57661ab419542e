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
    pixels,
    out_width,
    samples,
    delta_owner,
    line_step,
    GATED: tl.constexpr,
    ENTRIES: tl.constexpr,
    WIDTH: tl.constexpr,
    SUM: tl.constexpr,
):
    unit, owner, tile = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    row, pixel = unit // pixels, unit % pixels
    lanes = tile * WIDTH + tl.arange(0, WIDTH)
    inside = lanes < samples
    start = tl.load(first + owner)
    begin = tl.load(pointers + owner * (rows + 1) + row)
    end = tl.load(pointers + owner * (rows + 1) + row + 1)
    shift = (pixel // out_width) * line_step + pixel % out_width
    source = delta + owner * delta_owner + shift.to(tl.int64) * samples
    total = tl.zeros((WIDTH,), SUM)
    for at in range(begin, end, ENTRIES):
        entry = at + tl.arange(0, ENTRIES)
        known = entry < end
        run = tl.load(indices + start + entry, mask=known, other=0).to(tl.int64)
        own = tl.load(order + start + entry, mask=known, other=0)
        weight = tl.load(weights + start + own, mask=known, other=0).to(SUM)
        tiles = source + run[:, None] * samples + lanes[None, :]
        values = tl.load(tiles, mask=known[:, None] & inside[None, :], other=0).to(SUM)
        total += tl.sum(weight[:, None] * values, axis=0)
    target = (owner * rows * pixels + unit) * samples + lanes
    if GATED:
        total = tl.where(tl.load(gate + target, mask=inside, other=0) > 0, total, 0)
    tl.store(out + target, total, mask=inside)
