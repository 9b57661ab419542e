"""Arithmetic of sorted index sets, in time proportional to the sets and never to the layer."""

from __future__ import annotations

import numpy as np

from evoprune.masks.mask import Indices, Mask
from evoprune.masks.sampling import Flags, random_subset

__all__ = [
    "added",
    "changed",
    "changed_by_rank",
    "count_common",
    "exchanged",
    "lost",
    "membership",
    "merged",
    "outside",
    "swapped",
    "union",
    "with_layers",
]

NONE = np.zeros(0, dtype=np.int64)


def swapped(survivors: Indices, size: int, number: int, draw: np.random.Generator) -> Indices:
    """`survivors` with `number` random ones exchanged for indices that were not among them, sorted."""
    leaving = random_subset(draw, len(survivors), number)
    return changed_by_rank(survivors, leaving, random_subset(draw, size - len(survivors), number))


def lost(survivors: Indices, number: int, draw: np.random.Generator) -> Indices:
    """`survivors` without `number` random ones."""
    return changed_by_rank(survivors, random_subset(draw, len(survivors), number), NONE)


def added(survivors: Indices, size: int, number: int, draw: np.random.Generator) -> Indices:
    """`survivors` with `number` random indices more."""
    return changed_by_rank(survivors, NONE, random_subset(draw, size - len(survivors), number))


def changed_by_rank(survivors: Indices, leaving: Indices, ranks: Indices) -> Indices:
    """`survivors` without those at the sorted positions `leaving`, and with the indices at `ranks` among all others."""
    from evoprune.evolution.operators import kernels

    out = np.empty(len(survivors) - len(leaving) + len(ranks), dtype=np.int64)
    kernels.changed_by_rank(survivors, leaving, ranks, out)
    return out


def changed(survivors: Indices, leaving: Indices, entering: Indices) -> Indices:
    """`survivors` without those at the sorted positions `leaving`, and with the sorted new indices `entering`."""
    from evoprune.evolution.operators import kernels

    out = np.empty(len(survivors) - len(leaving) + len(entering), dtype=np.int64)
    kernels.changed(survivors, leaving, entering, out)
    return out


def outside(survivors: Indices, ranks: Indices) -> Indices:
    """The indices that stand at the sorted `ranks` among those not in `survivors`."""
    from evoprune.evolution.operators import kernels

    out = np.empty(len(ranks), dtype=np.int64)
    kernels.outside(survivors, ranks, out)
    return out


def count_common(a: Indices, b: Indices) -> int:
    """How many indices stand in both."""
    from evoprune.evolution.operators import kernels

    return kernels.count_common(a, b)


def exchanged(a: Indices, b: Indices, leave_a: Flags, leave_b: Flags) -> tuple[Indices, Indices]:
    """`a` and `b` after those flagged went over: one flag for each index that only `a` has, and that only `b` has, in order."""
    from evoprune.evolution.operators import kernels

    change = int(np.count_nonzero(leave_b)) - int(np.count_nonzero(leave_a))
    out_a, out_b = np.empty(len(a) + change, dtype=np.int64), np.empty(len(b) - change, dtype=np.int64)
    kernels.exchange(a, b, leave_a, leave_b, out_a, out_b)
    return out_a, out_b


def union(a: Indices, b: Indices) -> tuple[Indices, Flags]:
    """The union, and which of its entries stand in one of the two only."""
    from evoprune.evolution.operators import kernels

    size = len(a) + len(b) - kernels.count_common(a, b)
    out, one = np.empty(size, dtype=np.int64), np.empty(size, dtype=bool)
    kernels.union(a, b, out, one)
    return out, one


def merged(a: Indices, b: Indices) -> Indices:
    """The union of two sets without a common index."""
    both = np.concatenate([a, b])
    both.sort(kind="stable")  # merges the two runs
    return both


def membership(indices: Indices, survivors: Indices) -> tuple[Flags, Indices]:
    """Whether each of `indices`, in any order, is in the sorted `survivors`, and if so where it stands there."""
    if indices is survivors or np.array_equal(indices, survivors):
        return np.ones(len(indices), dtype=bool), np.arange(len(indices))
    places = np.searchsorted(survivors, indices).clip(max=max(len(survivors) - 1, 0))
    if not len(survivors):
        return np.zeros(len(indices), dtype=bool), places
    found: Flags = survivors[places] == indices
    return found, places


def with_layers(mask: Mask, layers: dict[int, Indices]) -> Mask:
    """`mask` with other survivors in some layers."""
    return Mask._trusted(mask.space, [layers.get(layer, old) for layer, old in enumerate(mask.survivors)])
