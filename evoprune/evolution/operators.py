"""Operators in DEAP's form: they change individuals in place, return tuples, never touch a fitness, and keep the count.

Each draws one 64-bit seed a call from `rng` (the global `random` by default), so that `random.seed` rules.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from evoprune.errors import InputError
from evoprune.masks.allocation import Allocation, allocate
from evoprune.masks.mask import Indices, Mask, common_space
from evoprune.masks.sampling import random_of_counts, random_subset
from evoprune.masks.space import MaskSpace
from evoprune.registry import Registry

__all__ = ["OPERATORS", "cxSetUniform", "initSparse", "mutSwap", "stream"]

OPERATORS: Registry[Any] = Registry("operator")


def stream(rng: random.Random | None = None) -> np.random.Generator:
    """A numpy generator from one 64-bit draw of `rng`, by default of the global `random`."""
    seed = random.getrandbits(64) if rng is None else rng.getrandbits(64)
    return np.random.Generator(np.random.PCG64(seed))


@OPERATORS.register("initSparse")
def initSparse(
    icls: type[Any], space: MaskSpace, *, sparsity: float = 0.95, allocation: Allocation = "erk", rng: random.Random | None = None
) -> Any:
    """An individual of class `icls` with an exact random subset of every layer."""
    return icls(random_of_counts(space, allocate(space, sparsity, allocation), stream(rng)))


@OPERATORS.register("mutSwap")
def mutSwap(individual: Any, *, swaps: int | None = None, rng: random.Random | None = None) -> tuple[Any]:
    """Turn `swaps` survivors of one layer off and as many pruned weights of it on.

    The layer is drawn in proportion to its survivors. Without `swaps` their number s is heavy-tailed, P(s) proportional
    to s^-1.5 on 1 … min(survivors, pruned).  [Doerr 2017, Fast genetic algorithms, arXiv:1703.03334]
    """
    mask, draw = individual.mask, stream(rng)
    free = np.minimum(mask.counts, np.array(mask.space.sizes) - mask.counts)
    chances = np.where(free > 0, mask.counts, 0)
    if not chances.any():
        return (individual,)  # every layer is full or empty: there is nothing to swap
    layer = int(draw.choice(len(chances), p=chances / chances.sum()))
    number = heavy_tailed(draw, int(free[layer])) if swaps is None else min(_count("swaps", swaps), int(free[layer]))
    individual.mask = _with_layer(mask, layer, swapped(mask.survivors[layer], mask.space.sizes[layer], number, draw))
    return (individual,)


@OPERATORS.register("cxSetUniform")
def cxSetUniform(ind1: Any, ind2: Any, *, indpb: float = 0.5, rng: random.Random | None = None) -> tuple[Any, Any]:
    """Keep the common survivors, exchange equal numbers of the others, each pair with probability `indpb`.

    Layer by layer, so each child has the layer counts of its own parent, also where the parents' differ.
    """
    common_space(ind1.mask, ind2.mask)
    draw = stream(rng)
    pairs = [_exchange(a, b, indpb, draw) for a, b in zip(ind1.mask.survivors, ind2.mask.survivors, strict=True)]
    space = ind1.mask.space
    ind1.mask = Mask._trusted(space, [first for first, _ in pairs])
    ind2.mask = Mask._trusted(space, [second for _, second in pairs])
    return ind1, ind2


# ---- pieces ------------------------------------------------------------------------------------------------------


def heavy_tailed(draw: np.random.Generator, limit: int) -> int:
    """A number with P(s) proportional to s^-1.5 on 1 … limit (by rejection, which is exact)."""
    while (number := int(draw.zipf(1.5))) > limit:
        pass
    return number


def swapped(survivors: Indices, size: int, number: int, draw: np.random.Generator) -> Indices:
    """`survivors` with `number` of them exchanged for indices that were not among them, sorted."""
    leaving = random_subset(draw, len(survivors), number)
    entering = outside(survivors, random_subset(draw, size - len(survivors), number))
    staying = np.delete(survivors, leaving)
    return np.insert(staying, np.searchsorted(staying, entering), entering)


def outside(survivors: Indices, ranks: Indices) -> Indices:
    """The indices that stand at `ranks` among those not in `survivors` (both sorted).

    Survivor j has survivors[j] - j smaller non-survivors, so a bisection over j finds how many survivors to step over;
    it reads len(ranks) · log(len(survivors)) entries and writes no array of the layer's size.
    """
    low, high = np.zeros(len(ranks), dtype=np.int64), np.full(len(ranks), len(survivors), dtype=np.int64)
    while (open_ := low < high).any():
        middle = (low + high) >> 1
        step_over = np.zeros(len(ranks), dtype=bool)
        step_over[open_] = survivors[middle[open_]] - middle[open_] <= ranks[open_]
        low, high = np.where(open_ & step_over, middle + 1, low), np.where(open_ & ~step_over, middle, high)
    return ranks + low


def _exchange(a: Indices, b: Indices, indpb: float, draw: np.random.Generator) -> tuple[Indices, Indices]:
    shared_a, shared_b = _membership(a, b), _membership(b, a)
    only_a, only_b = np.flatnonzero(~shared_a), np.flatnonzero(~shared_b)
    pairs = min(len(only_a), len(only_b))
    number = int(draw.binomial(pairs, indpb)) if pairs else 0
    if not number:
        return a, b
    from_a = only_a[random_subset(draw, len(only_a), number)]
    from_b = only_b[random_subset(draw, len(only_b), number)]
    return _replaced(a, from_a, b[from_b]), _replaced(b, from_b, a[from_a])


def _membership(a: Indices, b: Indices) -> np.typing.NDArray[np.bool_]:
    """Whether each entry of `a` is in `b`; both sorted and distinct."""
    if not len(b):
        return np.zeros(len(a), dtype=bool)
    found: np.typing.NDArray[np.bool_] = b[np.searchsorted(b, a).clip(max=len(b) - 1)] == a
    return found


def _replaced(survivors: Indices, leaving: Indices, entering: Indices) -> Indices:
    staying = np.delete(survivors, leaving)
    return np.insert(staying, np.searchsorted(staying, entering), entering)


def _with_layer(mask: Mask, layer: int, survivors: Indices) -> Mask:
    return Mask._trusted(mask.space, [*mask.survivors[:layer], survivors, *mask.survivors[layer + 1 :]])


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InputError(f"{name}={value!r} is not usable: give a whole number >= 0")
    return int(value)
