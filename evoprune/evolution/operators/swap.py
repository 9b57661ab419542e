"""mutSwap: some survivors of a layer off, as many of its pruned weights on."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from evoprune.evolution.operators.lineage import mutate
from evoprune.evolution.operators.numbers import counts_of, heavy_tailed, pick
from evoprune.evolution.operators.registry import operator
from evoprune.evolution.operators.sets import swapped, with_layers
from evoprune.masks.mask import Mask
from evoprune.values import whole

__all__ = ["drawn_layer", "mutSwap"]


def swap(draw: np.random.Generator, mask: Mask, *, swaps: int | None) -> tuple[Mask]:
    """The rule of `mutSwap`."""
    drawn = drawn_layer(draw, mask, swaps)
    if drawn is None:
        return (mask,)
    layer, number = drawn
    return (with_layers(mask, {layer: swapped(mask.survivors[layer], mask.space.sizes[layer], number, draw)}),)


def drawn_layer(draw: np.random.Generator, mask: Mask, swaps: int | None) -> tuple[int, int] | None:
    """A layer drawn in proportion to its survivors and the number of swaps in it; None when every layer is full or empty."""
    counts, sizes = counts_of(mask.counts), counts_of(mask.space.sizes)
    room = np.minimum(counts, sizes - counts)
    if not room.any():
        return None
    layer = pick(draw, np.where(room > 0, counts, 0))
    limit = int(room[layer])
    return layer, heavy_tailed(draw, limit) if swaps is None else min(swaps, limit)


@operator("mutate", swap)
def mutSwap(individual: Any, *, swaps: int | None = None, rng: random.Random | None = None) -> tuple[Any]:
    """Turn `swaps` survivors of one layer off and as many pruned weights of it on, at random.

    The layer is drawn in proportion to its survivors. swaps: at most what the layer has room for; without it the number s is
    heavy-tailed, P(s) proportional to s^-1.5 on 1 … min(survivors, pruned).
    [Doerr 2017, Fast genetic algorithms, arXiv:1703.03334]
    """
    return mutate("mutSwap", individual, rng, swaps=None if swaps is None else whole("swaps", swaps))
