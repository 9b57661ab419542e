"""initSparse: a random mask with exact layer counts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from evoprune.evolution.operators.lineage import draw_seed, generator, record
from evoprune.evolution.operators.registry import operator
from evoprune.masks.allocation import Allocation, allocate
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_of_counts
from evoprune.masks.space import MaskSpace

__all__ = ["initSparse"]


def fresh(draw: np.random.Generator, space: MaskSpace, *, counts: Sequence[int]) -> tuple[Mask]:
    """A uniformly random mask with `counts` survivors in the layers."""
    return (random_of_counts(space, counts, draw),)


@operator("init", fresh)
def initSparse(
    icls: type[Any], space: MaskSpace, *, sparsity: float = 0.95, allocation: Allocation = "erk", rng: random.Random | None = None
) -> Any:
    """An individual of class `icls` with an exact random subset of every layer.

    icls: called with a `Mask`. Raises `InputError` for a sparsity outside [0, 1) or a budget below the floors.
    """
    counts, seed = allocate(space, sparsity, allocation), draw_seed(rng)
    individual = icls(*fresh(generator(seed), space, counts=counts))
    record(individual, individual.mask, "initSparse", seed, [], {"counts": list(counts)})
    return individual
