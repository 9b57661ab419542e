"""How many survivors each layer gets: integers that sum exactly to the budget.

An allocation names relative densities; one scale makes the total exact, layers above 1 are made dense and their surplus
is given back to the others, no layer falls below its floor, and integers come by largest remainder.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from evoprune.errors import InputError, MaskMismatch
from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from evoprune.registry import Registry, one_of
from evoprune.values import whole

__all__ = ["ALLOCATIONS", "Allocation", "allocate", "is_layerwise", "spread"]

log = logging.getLogger("evoprune")

Floats = npt.NDArray[np.float64]
Allocation = str | Mask | Sequence[int]
"""A registered name, a mask whose layer densities are copied, or the counts themselves."""

ALLOCATIONS: Registry[Callable[[MaskSpace], Floats]] = Registry("allocation")


@ALLOCATIONS.register("uniform")
def uniform(space: MaskSpace) -> Floats:
    """The same density in every layer."""
    return np.ones(len(space))


@ALLOCATIONS.register("erk")
def erk(space: MaskSpace) -> Floats:
    """Erdős-Rényi-Kernel: density proportional to a weight's dimensions, sum over product.  [Evci 2020, arXiv:1911.11134]"""
    return np.array([sum(shape) / size for shape, size in zip(space.shapes, space.sizes, strict=True)])


@ALLOCATIONS.register("smart_ratio")
def smart_ratio(space: MaskSpace) -> Floats:
    """Density proportional to r² + r, r = layers from here to the end; the last layer at 0.3.  [Su 2020, arXiv:2009.11094]"""
    remaining = np.arange(len(space), 0, -1, dtype=np.float64)
    return remaining**2 + remaining


def allocate(
    space: MaskSpace, sparsity: float | str | Decimal, allocation: Allocation = "erk", *, floor: int = 1
) -> tuple[int, ...]:
    """Survivors of each layer; their sum is exactly `space.budget(sparsity)`.

    floor: survivors that no layer may fall below (a layer smaller than that is kept whole).
    Raises `InputError` for a budget below the floors, `UnknownName` for an unknown allocation, `MaskMismatch` for a mask
    or counts of another model.
    """
    budget, floors = space.budget(sparsity), _floors(space, floor)
    if isinstance(allocation, str):
        densities = ALLOCATIONS[allocation](space)
        if allocation == "smart_ratio" and len(space) > 1:
            return _with_last_layer(space, densities, budget, floors, 0.3)
        return spread(space, densities, budget, floors)
    if isinstance(allocation, Mask):
        if allocation.space != space:
            raise MaskMismatch("the allocation's mask belongs to another model: give a mask of this one, or an allocation's name")
        if allocation.count == budget:
            return allocation.counts
        return spread(space, np.array(allocation.counts) / np.array(space.sizes), budget, floors)
    counts = _counts(allocation)
    if len(counts) != len(space) or any(not 0 <= count <= size for count, size in zip(counts, space.sizes, strict=True)):
        raise MaskMismatch(
            f"counts {counts} do not fit layers of {space.sizes} weights: give one count a layer, at most its size"
        )
    if sum(counts) != budget:
        raise InputError(f"counts {counts} sum to {sum(counts)}, sparsity {sparsity} asks for {budget}: change one of them")
    return counts


def is_layerwise(scope: str, allocation: Allocation) -> bool:
    """Whether a ranking of this scope, "global" or "layer", keeps counts; says so where an allocation then has no part."""
    if one_of("scope", scope, ("global", "layer")) == "layer":
        return True
    if not (isinstance(allocation, str) and allocation == "erk"):
        log.warning("scope='global' ranks all layers together, allocation= has no part in it: give scope='layer'")
    return False


def _counts(allocation: object) -> tuple[int, ...]:
    try:
        return tuple(operator.index(count) for count in allocation)  # type: ignore[attr-defined]
    except TypeError:
        raise InputError(
            f"allocation {allocation!r} is not usable: give one of {', '.join(ALLOCATIONS)}, a mask, or whole counts, one a layer"
        ) from None


def spread(space: MaskSpace, densities: Floats, budget: int, floors: Sequence[int] | None = None) -> tuple[int, ...]:
    """Integers that sum to `budget`, proportional to `densities` · layer size, within [floor, size] for every layer."""
    sizes = np.array(space.sizes, dtype=np.float64)
    low = np.zeros(len(space)) if floors is None else np.array(floors, dtype=np.float64)
    if not low.sum() <= budget <= sizes.sum():
        raise InputError(
            f"{budget} survivors cannot be spread over {len(space)} layers of at least {int(low.sum())} in all and "
            f"{int(sizes.sum())} weights: choose a sparsity of at most {1 - low.sum() / sizes.sum():.6g}"
        )
    least = max(float(densities.max()), 1e-300) * 1e-12  # a layer of density 0 is filled last, and the scale stays finite
    exact = _waterfill(np.maximum(densities, least) * sizes, low, sizes, budget)
    counts = np.floor(exact + 1e-9)
    order = np.argsort(counts - exact, kind="stable")  # largest remainder first, ties by layer
    missing = budget - int(counts.sum())
    while missing > 0:
        for layer in order:
            if missing and counts[layer] < sizes[layer]:
                counts[layer] += 1
                missing -= 1
    return tuple(int(count) for count in counts)


def _waterfill(ideal: Floats, low: Floats, high: Floats, budget: int) -> Floats:
    """clip(scale · ideal, low, high) with the one scale whose sum is the budget (bisection on a monotone function)."""
    below, above = 0.0, float((high / ideal).max())
    for _ in range(200):
        middle = (below + above) / 2
        if np.clip(middle * ideal, low, high).sum() < budget:
            below = middle
        else:
            above = middle
    return np.clip(below * ideal, low, high)


def _with_last_layer(space: MaskSpace, densities: Floats, budget: int, floors: Sequence[int], density: float) -> tuple[int, ...]:
    """The last layer at a fixed density as far as the budget allows, the others spread as usual."""
    spread(space, densities, budget, floors)  # refuses an impossible budget
    others = MaskSpace(space.names[:-1], space.shapes[:-1])
    room = budget - sum(floors[:-1]), budget - others.prunable
    last = max(min(round(density * space.sizes[-1]), room[0]), room[1], floors[-1])
    return (*spread(others, densities[:-1], budget - last, floors[:-1]), last)


def _floors(space: MaskSpace, floor: int) -> tuple[int, ...]:
    floor = whole("floor", floor, give="the least number of survivors a layer,")
    return tuple(min(floor, size) for size in space.sizes)
