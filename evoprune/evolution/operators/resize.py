"""mutResize: more or fewer survivors, for objectives that trade size."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from evoprune.errors import InputError
from evoprune.evolution.operators.lineage import mutate
from evoprune.evolution.operators.numbers import counts_of, deal, deal_shares, heavy_tailed
from evoprune.evolution.operators.registry import operator
from evoprune.evolution.operators.sets import added, lost, with_layers
from evoprune.masks.mask import Mask
from evoprune.values import whole

__all__ = ["mutResize"]


def resize(draw: np.random.Generator, mask: Mask, *, low: int, high: int, number: int | None, floor: int) -> tuple[Mask]:
    """The rule of `mutResize`."""
    counts, sizes = counts_of(mask.counts), counts_of(mask.space.sizes)
    spare, room, total = np.maximum(counts - floor, 0), sizes - counts, mask.count
    fewer, more = min(total - low, int(spare.sum())), min(high, mask.space.prunable) - total
    if max(fewer, more) <= 0:
        return (mask,)
    grows = more > 0 and (fewer <= 0 or bool(draw.integers(2)))
    least = max(low - total, total - high, 1)  # an individual outside of the bounds comes back to them
    limit = more if grows else fewer
    change = max(heavy_tailed(draw, limit) if number is None else min(number, limit), min(least, limit))
    if grows:
        dealt = deal_shares(draw, change, counts, room)
        layers = {
            layer: added(mask.survivors[layer], int(sizes[layer]), int(dealt[layer]), draw) for layer in np.flatnonzero(dealt)
        }
    else:
        dealt = deal(draw, change, spare)
        layers = {layer: lost(mask.survivors[layer], int(dealt[layer]), draw) for layer in np.flatnonzero(dealt)}
    return (with_layers(mask, {int(layer): survivors for layer, survivors in layers.items()}),)


@operator("mutate", resize)
def mutResize(
    individual: Any, *, low: int, high: int, number: int | None = None, floor: int = 1, rng: random.Random | None = None
) -> tuple[Any]:
    """Add or remove `number` survivors, with equal chances, so that the total stays within `low` … `high`.

    Random survivors leave; pruned weights enter in proportion to the layers' survivors, so that neither way changes the
    allocation on average. number: at most what the bounds allow; without it heavy-tailed, P(s) proportional to s^-1.5 (see
    `mutSwap`). floor: survivors that every layer keeps. An individual outside of the bounds comes back to them.
    Raises `InputError` for bounds that no mask of the space meets.
    """
    space = individual.mask.space
    low, high, floor = whole("low", low), whole("high", high), whole("floor", floor)
    least = sum(min(floor, size) for size in space.sizes)
    if not low <= high or high < least or low > space.prunable:
        raise InputError(
            f"bounds of {low} to {high} survivors are not usable: give low <= high within {least} to {space.prunable}"
        )
    given = None if number is None else whole("number", number, 1)
    return mutate("mutResize", individual, rng, low=low, high=high, number=given, floor=floor)
