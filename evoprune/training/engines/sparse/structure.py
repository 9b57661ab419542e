"""Where the survivors of a chunk lie: one compressed sparse matrix an individual, and its transpose, for one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evoprune.errors import InputError

__all__ = ["Sparse", "by_column", "by_row"]

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sparse:
    """k sparse matrices of `rows` rows, one after the other.

    pointers: `(k, rows + 1)` where each row's entries begin, counted within the individual. indices: offsets of the runs that
    the entries multiply. order: position of each entry's value among the individual's survivors. first: `(k + 1,)` where each
    individual's entries begin. Everything within one individual is 32-bit, what counts over individuals 64-bit.
    """

    rows: int
    pointers: Ints
    indices: Ints
    order: Ints
    first: Longs


def by_row(survivors: Sequence[Longs], rows: int, offsets: Longs) -> Sparse:
    """Entries in the order of the survivors (C order: sorted by row). offsets: `(weights a row,)` run of each column."""
    width = len(offsets)
    row, column, first = _split(survivors, width)
    indices = _narrow(offsets)[column]
    return Sparse(rows, _pointers(row, first, rows), indices, _counting(first), first)


def by_column(survivors: Sequence[Longs], rows: int, width: int, target: Longs, shift: Longs, step: int) -> Sparse:
    """The transpose: entries sorted by the row of the result that they add to, then by the row that they come from.

    target: `(width,)` result row of each column, or -1 where the entry takes no part. shift: `(width,)` offset of its run
    within the row that it comes from; rows lie `step` apart.
    """
    row, column, first = _split(survivors, width)
    kept = np.flatnonzero(target[column] >= 0)
    owner = np.repeat(np.arange(len(survivors), dtype=np.int64), np.diff(first))[kept]
    goal = target[column[kept]]
    position = _counting(first)[kept]
    source = row[kept] * step + shift[column[kept]]
    order = np.argsort(owner * rows + goal, kind="stable")
    own = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(survivors)))]).astype(np.int64)
    return Sparse(rows, _pointers(goal[order], own, rows), _narrow(source[order]), position[order], own)


def _split(survivors: Sequence[Longs], width: int) -> tuple[Longs, Longs, Longs]:
    flat = np.concatenate(survivors)
    first = np.concatenate([[0], np.cumsum([len(own) for own in survivors])]).astype(np.int64)
    row, column = np.divmod(flat, width)
    return row, column, first


def _pointers(row: Longs, first: Longs, rows: int) -> Ints:
    """`row` is sorted within each individual."""
    owner = np.repeat(np.arange(len(first) - 1, dtype=np.int64), np.diff(first))
    counts = np.bincount(owner * rows + row, minlength=(len(first) - 1) * rows).reshape(-1, rows)
    pointers = np.zeros((len(first) - 1, rows + 1), dtype=np.int64)
    np.cumsum(counts, axis=1, out=pointers[:, 1:])
    return _narrow(pointers)


def _counting(first: Longs) -> Ints:
    """0, 1, 2, … within each individual."""
    counts = np.diff(first)
    return _narrow(np.arange(first[-1], dtype=np.int64) - np.repeat(first[:-1], counts))


def _narrow(values: Longs) -> Ints:
    if values.size and max(-int(values.min()), int(values.max())) >= 2**31:
        raise InputError(f"an index of {int(values.max()):,} overflows 32 bits: the layer is too large, use engine='dense'")
    return values.astype(np.int32)
