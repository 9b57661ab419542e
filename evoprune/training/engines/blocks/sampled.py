"""Sampled product: the gradient of every survivor, one dot product of its output row's delta with the run that it multiplies.

One program computes the survivors of one row of one individual, ENTRIES at a time, over a part of the pixels and all samples;
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
    pixels,
    part,  # pixels a part
    out_width,
    samples,
    data_owner,
    line_step,
    pixel_step,
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
    high = tl.minimum(low + part, pixels)
    own = delta + (owner * rows + row) * pixels * samples
    source = data + owner * data_owner
    for at in range(begin, end, ENTRIES):
        entry = at + tl.arange(0, ENTRIES)
        known = entry < end
        run = tl.load(indices + start + entry, mask=known, other=0).to(tl.int64)
        total = tl.zeros((ENTRIES,), SUM)
        for pixel in range(low, high):
            shift = (pixel // out_width) * line_step + (pixel % out_width) * pixel_step
            for begins in range(0, samples, WIDTH):
                lanes = begins + tl.arange(0, WIDTH)
                inside = lanes < samples
                change = tl.load(own + pixel * samples + lanes, mask=inside, other=0).to(SUM)
                tiles = source + (run + shift)[:, None] * samples + lanes[None, :]
                values = tl.load(tiles, mask=known[:, None] & inside[None, :], other=0).to(SUM)
                total += tl.sum(change[None, :] * values, axis=1)
        tl.store(out + number * survivors + start + entry, total, mask=known)
    if BIASED:
        gathered = tl.zeros((WIDTH,), SUM)
        for pixel in range(low, high):
            for begins in range(0, samples, WIDTH):
                lanes = begins + tl.arange(0, WIDTH)
                gathered += tl.load(own + pixel * samples + lanes, mask=lanes < samples, other=0).to(SUM)
        owners = tl.num_programs(1)
        tl.store(bias + (number * owners + owner) * rows + row, tl.sum(gathered, axis=0))
