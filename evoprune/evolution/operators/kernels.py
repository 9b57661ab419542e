"""One pass over sorted arrays, compiled: what numpy would do by sorting again. Imported when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types

from evoprune.masks.mask import Indices
from evoprune.masks.sampling import Flags

__all__ = ["changed", "changed_by_rank", "count_common", "exchange", "outside", "union"]

F = TypeVar("F", bound=Callable[..., Any])

READ = types.Array(types.int64, 1, "C", readonly=True)
WRITE = types.Array(types.int64, 1, "C")
FLAGS = types.Array(types.boolean, 1, "C")


def compiled(result: Any, *arguments: Any) -> Callable[[F], F]:
    """Compile for one signature; the machine code is cached on disk."""

    def decorate(function: F) -> F:
        made: F = njit(result(*arguments), cache=True, nogil=True)(function)
        return made

    return decorate


@compiled(types.int64, READ, READ)
def count_common(a: Indices, b: Indices) -> int:
    """How many indices stand in both."""
    i, j, common = 0, 0, 0
    while i < len(a) and j < len(b):
        x, y = a[i], b[j]
        common += x == y
        i += x <= y
        j += y <= x
    return common


@compiled(types.void, READ, READ, FLAGS, FLAGS, WRITE, WRITE)
def exchange(a: Indices, b: Indices, leave_a: Flags, leave_b: Flags, out_a: Indices, out_b: Indices) -> None:
    """Write `a` and `b` with the flagged ones of the indices that only one has (in order) given to the other."""
    i, j, p, q, alone_a, alone_b = 0, 0, 0, 0, 0, 0
    while i < len(a) or j < len(b):
        in_a = i < len(a) and (j >= len(b) or a[i] <= b[j])
        in_b = j < len(b) and (i >= len(a) or b[j] <= a[i])
        value = a[i] if in_a else b[j]
        to_a, to_b = in_a, in_b
        if in_a != in_b:
            if in_a:
                to_b = leave_a[alone_a]
                alone_a += 1
                to_a = not to_b
            else:
                to_a = leave_b[alone_b]
                alone_b += 1
                to_b = not to_a
        if to_a:
            out_a[p] = value
            p += 1
        if to_b:
            out_b[q] = value
            q += 1
        i += in_a
        j += in_b


@compiled(types.void, READ, READ, WRITE, FLAGS)
def union(a: Indices, b: Indices, out: Indices, one: Flags) -> None:
    """Write the union, and which of its entries stand in one of the two only."""
    i, j, p = 0, 0, 0
    while i < len(a) or j < len(b):
        in_a = i < len(a) and (j >= len(b) or a[i] <= b[j])
        in_b = j < len(b) and (i >= len(a) or b[j] <= a[i])
        out[p] = a[i] if in_a else b[j]
        one[p] = in_a != in_b
        p += 1
        i += in_a
        j += in_b


@compiled(types.void, READ, READ, READ, WRITE)
def changed(survivors: Indices, leaving: Indices, entering: Indices, out: Indices) -> None:
    """Write `survivors` without those at the positions `leaving`, with the new indices `entering` in their places."""
    left, entered, p = 0, 0, 0
    for i in range(len(survivors)):
        value = survivors[i]
        while entered < len(entering) and entering[entered] < value:
            out[p] = entering[entered]
            p += 1
            entered += 1
        if left < len(leaving) and leaving[left] == i:
            left += 1
        else:
            out[p] = value
            p += 1
    while entered < len(entering):
        out[p] = entering[entered]
        p += 1
        entered += 1


@compiled(types.void, READ, READ, READ, WRITE)
def changed_by_rank(survivors: Indices, leaving: Indices, ranks: Indices, out: Indices) -> None:
    """As `changed`, with the new indices given by their `ranks` among those not in `survivors`.

    Survivor j has survivors[j] - j smaller non-survivors, so the new index of a rank is the rank and the survivors before it.
    """
    left, entered, p = 0, 0, 0
    for i in range(len(survivors)):
        value = survivors[i]
        while entered < len(ranks) and ranks[entered] < value - i:
            out[p] = ranks[entered] + i
            p += 1
            entered += 1
        if left < len(leaving) and leaving[left] == i:
            left += 1
        else:
            out[p] = value
            p += 1
    while entered < len(ranks):
        out[p] = ranks[entered] + len(survivors)
        p += 1
        entered += 1


@compiled(types.void, READ, READ, WRITE)
def outside(survivors: Indices, ranks: Indices, out: Indices) -> None:
    """Write the indices that stand at `ranks` among those not in `survivors`.

    How many survivors to step over is found by galloping on from the rank before, so a few ranks do not read all survivors.
    """
    low = 0
    for k in range(len(ranks)):
        rank, step = ranks[k], 1
        while low + step <= len(survivors) and survivors[low + step - 1] - (low + step - 1) <= rank:
            low += step
            step *= 2
        high = min(low + step - 1, len(survivors))
        while low < high:
            middle = (low + high) >> 1
            if survivors[middle] - middle <= rank:
                low = middle + 1
            else:
                high = middle
        out[k] = rank + low
