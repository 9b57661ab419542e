"""The first population: of one sparsity, or spread between two."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from evoprune.errors import InputError
from evoprune.evolution.operators import initSparse
from evoprune.masks.allocation import Allocation, allocate
from evoprune.masks.space import MaskSpace

__all__ = ["Sizes", "population"]

Maker = Any
"""What makes an individual of a mask: a class, or a function."""


@dataclass(frozen=True)
class Sizes:
    """How many survivors individuals may have.

    sparsities: the lowest and the highest. low, high: survivors at least and at most.
    """

    space: MaskSpace
    sparsities: tuple[float, float]
    allocation: Allocation
    low: int
    high: int

    @classmethod
    def of(cls, space: MaskSpace, sparsity: float | tuple[float, float], allocation: Allocation) -> Sizes:
        """From one sparsity or two. Raises `InputError` when they cannot be had, or come in the wrong order."""
        ends = tuple(sparsity) if isinstance(sparsity, (tuple, list)) else (sparsity, sparsity)
        if len(ends) != 2:
            raise InputError(f"sparsity={sparsity!r} is not usable: give one number, or the lowest and the highest")
        high, low = (sum(allocate(space, end, allocation)) for end in ends)
        if low > high or (low == high and isinstance(sparsity, (tuple, list))):
            raise InputError(f"sparsity={sparsity!r} is not usable: give the lower one first, and two that differ")
        return cls(space, ends, allocation, low, high)

    @property
    def vary(self) -> bool:
        """Whether there is more than one size."""
        return self.low < self.high

    def individual(self, make: Maker, *, place: float | None = None, rng: random.Random | None = None) -> Any:
        """A random mask; `place` in [0, 1] between the lowest and the highest sparsity, drawn when None and needed."""
        if not self.vary:
            return initSparse(make, self.space, sparsity=self.sparsities[0], allocation=self.allocation, rng=rng)
        if place is None:
            place = (rng or random).random()
        # equal steps in the logarithm of the survivors: a step is a share, at every size
        survivors = round(float(np.exp((1 - place) * np.log(self.high) + place * np.log(self.low))))
        sparsity = 1 - survivors / self.space.prunable
        return initSparse(make, self.space, sparsity=sparsity, allocation=self.allocation, rng=rng)


def population(sizes: Sizes, make: Maker, n: int, *, rng: random.Random | None = None) -> list[Any]:
    """n random individuals, spread evenly between the two sparsities where there are two."""
    return [sizes.individual(make, place=number / max(1, n - 1), rng=rng) for number in range(n)]
