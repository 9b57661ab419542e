"""Forward product of the block-diagonal network: each output row is a sum of shifted input runs, times survivors.

One program computes one row (a unit, or a channel at one pixel) of one individual for WIDTH samples. It reads ENTRIES survivors
at a time, as a tile of runs. Programs that run at the same time share a tile of samples (its number is the slowest axis of the
grid), so that the inputs of an individual, or the one batch of the first layer, stay in the caches nearest to the units.

Counted for S survivors, R rows, P pixels a row and B samples of an individual, numbers of `size` bytes: operations 2·S·P·B.
Bytes from caches S·P·B·size; from memory, each once, inputs, S·(4 + 4) of structure and weights, and R·P·B·size written.
"""

import triton
import triton.language as tl

__all__ = ["product"]


@triton.jit
def product(
    out,  # (k, rows, pixels, samples)
    data,  # (k or 1, runs, samples)
    weights,  # (survivors of all k,)
    bias,  # (k, rows)
    pointers,  # (k, rows + 1) int32
    indices,  # (survivors of all k,) int32: runs that survivors meet at pixel 0
    first,  # (k + 1,) int64
    rows,
    pixels,
    out_width,  # pixels a line
    samples,
    data_owner,  # numbers from one individual's data to the next's; 0 where all share one batch
    line_step,  # runs from one line to the next
    pixel_step,  # runs from one pixel to the next
    BIASED: tl.constexpr,
    RELU: tl.constexpr,
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
    shift = (pixel // out_width) * line_step + (pixel % out_width) * pixel_step
    source = data + owner * data_owner + shift.to(tl.int64) * samples
    total = tl.zeros((WIDTH,), SUM)
    if BIASED:
        total += tl.load(bias + owner * rows + row).to(SUM)
    for at in range(begin, end, ENTRIES):
        entry = at + tl.arange(0, ENTRIES)
        known = entry < end
        run = tl.load(indices + start + entry, mask=known, other=0).to(tl.int64)
        weight = tl.load(weights + start + entry, mask=known, other=0).to(SUM)
        tiles = source + run[:, None] * samples + lanes[None, :]
        values = tl.load(tiles, mask=known[:, None] & inside[None, :], other=0).to(SUM)
        total += tl.sum(weight[:, None] * values, axis=0)
    if RELU:
        total = tl.where(total < 0, 0, total)  # a NaN stays one
    tl.store(out + (owner * rows * pixels + unit) * samples + lanes, total, mask=inside)
