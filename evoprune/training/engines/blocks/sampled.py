"""Sampled product: the gradient of every survivor, one dot product of its output row's delta with the run that it multiplies.

One program computes the survivors of one row of one individual, ENTRIES at a time, over some of the lines and all samples;
gradients of pruned weights are never formed. Parts are added up afterwards, in a fixed order. The gradient of the bias is the
sum of the same delta.

Counted as `product`: operations 2·S·P·B; bytes from caches S·P·B·size, and R·P·B·size for every ENTRIES survivors of a row; from
memory, each once, inputs, deltas, 4·S of structure, and S·size written for every part.
"""

import triton
import triton.language as tl

__all__ = ["sampled"]


@triton.jit
def sampled(
    out,  # (parts, survivors of all k)
    bias,  # (parts, k, rows)
    delta,  # (k, rows, pixels, samples)
    data,  # (k or 1, runs, samples)
    pointers,  # (k, rows + 1) int32
    indices,  # (survivors of all k,) int32
    first,  # (k + 1,) int64
    survivors,  # of all k
    rows,
    lines,  # of a row
    part,  # lines a part
    out_width,
    samples,
    data_owner,
    line_step,
    pixel_step,
    STRIDED: tl.constexpr,
    BIASED: tl.constexpr,
    ENTRIES: tl.constexpr,
    WIDTH: tl.constexpr,
    SUM: tl.constexpr,
):
    row, owner, number = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    start = tl.load(first + owner)
    begin = tl.load(pointers + owner * (rows + 1) + row)
    end = tl.load(pointers + owner * (rows + 1) + row + 1)
    low = tl.program_id(2) * part
    high = tl.minimum(low + part, lines)
    span = out_width * samples
    own = delta + (owner * rows + row) * lines * span
    source = data + owner * data_owner
    for at in range(begin, end, ENTRIES):
        entry = at + tl.arange(0, ENTRIES)
        known = entry < end
        run = tl.load(indices + start + entry, mask=known, other=0).to(tl.int64)
        total = tl.zeros((ENTRIES, WIDTH), SUM)
        for line in range(low, high):
            for begins in range(0, span, WIDTH):
                lanes = begins + tl.arange(0, WIDTH)
                inside = lanes < span
                where = (lanes // samples) * (pixel_step * samples) + lanes % samples if STRIDED else lanes
                change = tl.load(own + line * span + lanes, mask=inside, other=0).to(SUM)
                tiles = source + (run + line * line_step)[:, None] * samples + where[None, :]
                values = tl.load(tiles, mask=known[:, None] & inside[None, :], other=0).to(SUM)
                total += change[None, :] * values
        tl.store(out + number * survivors + start + entry, tl.sum(total, axis=1), mask=known)
    if BIASED:
        gathered = tl.zeros((WIDTH,), SUM)
        for line in range(low, high):
            for begins in range(0, span, WIDTH):
                lanes = begins + tl.arange(0, WIDTH)
                gathered += tl.load(own + line * span + lanes, mask=lanes < span, other=0).to(SUM)
        owners = tl.num_programs(1)
        tl.store(bias + (number * owners + owner) * rows + row, tl.sum(gathered, axis=0))
