"""mutMoveBudget: survivors of one layer off, as many in another on, so that the allocation evolves."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from evoprune.evolution.operators.lineage import mutate
from evoprune.evolution.operators.numbers import counts_of, heavy_tailed
from evoprune.evolution.operators.registry import operator
from evoprune.evolution.operators.sets import added, lost, with_layers
from evoprune.masks.mask import Mask
from evoprune.values import whole

__all__ = ["mutMoveBudget"]


def move_budget(draw: np.random.Generator, mask: Mask, *, number: int | None, floor: int) -> tuple[Mask]:
    """The rule of `mutMoveBudget`."""
    counts, sizes = counts_of(mask.counts), counts_of(mask.space.sizes)
    most = np.minimum.outer(np.maximum(counts - floor, 0), sizes - counts)  # from row to column
    np.fill_diagonal(most, 0)
    donors, receivers = np.nonzero(most)
    if not len(donors):
        return (mask,)
    chosen = int(draw.integers(len(donors)))
    donor, receiver = int(donors[chosen]), int(receivers[chosen])
    limit = int(most[donor, receiver])
    moved = heavy_tailed(draw, limit) if number is None else min(number, limit)
    layers = {
        donor: lost(mask.survivors[donor], moved, draw),
        receiver: added(mask.survivors[receiver], int(sizes[receiver]), moved, draw),
    }
    return (with_layers(mask, layers),)


@operator("mutate", move_budget)
def mutMoveBudget(individual: Any, *, number: int | None = None, floor: int = 1, rng: random.Random | None = None) -> tuple[Any]:
    """Move `number` survivors from one layer to another: random ones leave, random pruned weights enter; the total stays.

    Every ordered pair of layers between which something can move is equally likely, so that a move and its way back are
    proposed alike. number: at most what fits; without it heavy-tailed, P(s) proportional to s^-1.5 (see `mutSwap`).
    floor: survivors that no layer gives away.
    """
    given = None if number is None else whole("number", number)
    return mutate("mutMoveBudget", individual, rng, number=given, floor=whole("floor", floor))
