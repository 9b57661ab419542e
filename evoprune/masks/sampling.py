"""Exact uniform random subsets and masks, in time proportional to survivors."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import numpy as np
import numpy.typing as npt

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.allocation import Allocation, allocate
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.space import MaskSpace
from evoprune.values import whole

__all__ = ["random_flags", "random_mask", "random_masks", "random_of_counts", "random_subset"]

Flags = npt.NDArray[np.bool_]


def random_subset(rng: np.random.Generator, size: int, count: int) -> Indices:
    """`count` distinct indices within [0, size), sorted; every subset is equally likely.

    Few are drawn with replacement until `count` values are distinct, which takes the first distinct ones of an endless
    sequence; from an eighth on by flags, and more than half as the complement. Time and memory follow `count`, not `size`.
    Raises `InputError` for a count above the size.
    """
    if count > size:
        raise InputError(f"{count} of {size} indices cannot be drawn: ask for at most {size}")
    if 2 * count > size:
        return complement(random_subset(rng, size, size - count), size)
    if 8 * count > size:
        return np.flatnonzero(random_flags(rng, size, count))
    chosen = _distinct(_sorted(rng.integers(size, size=count, dtype=np.int64)))
    while len(chosen) < count:
        more = _sorted(rng.integers(size, size=count - len(chosen), dtype=np.int64))
        chosen = _distinct(_sorted(np.concatenate([chosen, more]), kind="stable"))  # merges two sorted runs
    return chosen


def random_flags(rng: np.random.Generator, size: int, count: int) -> Flags:
    """`size` flags of which exactly `count` are set; every such array is equally likely. Takes time proportional to `size`.

    Each flag is set with a probability next to count / size, then the surplus is taken back, or what is missing is set, at
    random: given their number the flags are exchangeable, so the result is exactly uniform.
    """
    if not 0 <= count <= size:
        raise InputError(f"{count} of {size} flags cannot be set: ask for 0 to {size}")
    if 2 * count > size:
        return ~random_flags(rng, size, size - count)
    if 8 * count <= size:
        flags = np.zeros(size, dtype=bool)
        flags[random_subset(rng, size, count)] = True
        return flags
    flags = rng.integers(2**16, size=size, dtype=np.uint16) < 2**16 * count // size
    surplus = int(np.count_nonzero(flags)) - count
    _flip(rng, flags, surplus > 0, abs(surplus))
    return flags


def _flip(rng: np.random.Generator, flags: Flags, value: bool, count: int) -> None:
    """Negate `count` random flags among those that are `value` (at least an eighth of all), in place, by rejection."""
    while count:
        places = rng.integers(len(flags), size=count, dtype=np.int64)
        places = _distinct(_sorted(places[flags[places] == value]))
        flags[places] = not value
        count -= len(places)


def _sorted(values: Indices, kind: Literal["stable"] | None = None) -> Indices:
    """`values`, sorted in place."""
    values.sort(kind=kind)
    return values


def _distinct(values: Indices) -> Indices:
    """The distinct entries of sorted `values` (faster than np.unique, which hashes)."""
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
    k = whole("k", k, 1, give="the number of masks,")
    counts = allocate(space, sparsity, allocation, floor=floor)
    return [random_of_counts(space, counts, seeds.generator(seed, "mask", index)) for index in range(k)]


def random_mask(
    space: MaskSpace, *, sparsity: float | str | Decimal, allocation: Allocation = "erk", seed: int = 0, floor: int = 1
) -> Mask:
    """A uniformly random mask with exactly the asked survivors, spread over the layers by `allocation`.

    Raises `InputError` for a sparsity outside [0, 1) or a budget below the floors.
    """
    return random_masks(space, 1, sparsity=sparsity, allocation=allocation, seed=seed, floor=floor)[0]
