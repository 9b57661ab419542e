"""Forward product of the block-diagonal network: each output row is a sum of shifted input runs, times survivors.

One program computes WIDTH numbers of one line of one row (a unit, or a channel) of one individual: the pixels of a line, each
with its samples, lie side by side in memory, and so do the runs that they read where the stride is 1. It takes ENTRIES survivors
at a time, as a tile of runs. Programs that run at the same time share a tile (its number is the slowest axis of the grid), so
that the inputs of an individual, or the one batch of the first layer, stay in the caches nearest to the units.

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
    lines,  # of a row
    out_width,  # pixels a line
    samples,
    data_owner,  # numbers from one individual's data to the next's; 0 where all share one batch
    line_step,  # runs from one line to the next
    pixel_step,  # runs from one pixel to the next
    STRIDED: tl.constexpr,  # pixel_step is not 1
    BIASED: tl.constexpr,
    RELU: tl.constexpr,
    ENTRIES: tl.constexpr,
    WIDTH: tl.constexpr,
    SUM: tl.constexpr,
):
    unit, owner, tile = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    row, line = unit // lines, unit % lines
    span = out_width * samples
    lanes = tile * WIDTH + tl.arange(0, WIDTH)
    inside = lanes < span
    where = (lanes // samples) * (pixel_step * samples) + lanes % samples if STRIDED else lanes
    start = tl.load(first + owner)
    begin = tl.load(pointers + owner * (rows + 1) + row)
    end = tl.load(pointers + owner * (rows + 1) + row + 1)
    source = data + owner * data_owner + (line * line_step).to(tl.int64) * samples
    total = tl.zeros((ENTRIES, WIDTH), SUM)
    for at in range(begin, end, ENTRIES):
        entry = at + tl.arange(0, ENTRIES)
        known = entry < end
        run = tl.load(indices + start + entry, mask=known, other=0).to(tl.int64)
        weight = tl.load(weights + start + entry, mask=known, other=0).to(SUM)
        tiles = source + run[:, None] * samples + where[None, :]
        values = tl.load(tiles, mask=known[:, None] & inside[None, :], other=0).to(SUM)
        total += weight[:, None] * values
    result = tl.sum(total, axis=0)
    if BIASED:
        result += tl.load(bias + owner * rows + row).to(SUM)
    if RELU:
        result = tl.where(result < 0, 0, result)  # a NaN stays one
    tl.store(out + (owner * rows * lines + unit) * span + lanes, result, mask=inside)
