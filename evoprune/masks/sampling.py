"""Exact uniform random subsets and masks, in time proportional to survivors."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.allocation import Allocation, allocate
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.space import MaskSpace

__all__ = ["random_mask", "random_masks", "random_of_counts", "random_subset"]


def random_subset(rng: np.random.Generator, size: int, count: int) -> Indices:
    """`count` distinct indices within [0, size), sorted; every subset is equally likely.

    Draws with replacement until `count` values are distinct, which takes the first distinct ones of an endless sequence;
    more than half is drawn as the complement. Time and memory follow `count`, not `size`.
    """
    if count > size:
        raise InputError(f"{count} of {size} indices cannot be drawn: ask for at most {size}")
    if 2 * count > size:
        return complement(random_subset(rng, size, size - count), size)
    chosen = _distinct(rng.integers(size, size=count, dtype=np.int64))
    while len(chosen) < count:
        more = rng.integers(size, size=count - len(chosen), dtype=np.int64)
        chosen = _distinct(np.concatenate([chosen, more]))
    return chosen


def _distinct(values: Indices) -> Indices:
    """The sorted distinct values; sorts in place (faster than np.unique, which hashes)."""
    values.sort()
    keep = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=keep[1:])
    return values[keep]


def complement(indices: Indices, size: int) -> Indices:
    """The sorted indices of [0, size) that are not in `indices`."""
    keep = np.ones(size, dtype=bool)
    keep[indices] = False
    return np.flatnonzero(keep)


def random_of_counts(space: MaskSpace, counts: Sequence[int], rng: np.random.Generator) -> Mask:
    """A uniformly random mask with exactly `counts` survivors in the layers."""
    return Mask._trusted(space, (random_subset(rng, size, count) for size, count in zip(space.sizes, counts, strict=True)))


def random_masks(
    space: MaskSpace, k: int, *, sparsity: float | str | Decimal, allocation: Allocation = "erk", seed: int = 0, floor: int = 1
) -> list[Mask]:
    """k independent random masks with the same layer counts; mask i does not depend on k."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k={k!r} is not usable: give the number of masks, >= 1")
    counts = allocate(space, sparsity, allocation, floor=floor)
    return [random_of_counts(space, counts, seeds.generator(seed, "mask", index)) for index in range(int(k))]


def random_mask(
    space: MaskSpace, *, sparsity: float | str | Decimal, allocation: Allocation = "erk", seed: int = 0, floor: int = 1
) -> Mask:
    """A uniformly random mask with exactly the asked survivors, spread over the layers by `allocation`.

    Raises `InputError` for a sparsity outside [0, 1) or a budget below the floors.
    """
    return random_masks(space, 1, sparsity=sparsity, allocation=allocation, seed=seed, floor=floor)[0]
