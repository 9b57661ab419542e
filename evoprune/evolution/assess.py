"""From a trace to DEAP fitnesses, and the first population."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import torch

from evoprune.criteria import CRITERIA
from evoprune.evolution.individual import Individual, fitness_class
from evoprune.masks.allocation import Allocation
from evoprune.masks.sampling import random_masks
from evoprune.masks.space import MaskSpace
from evoprune.training.memory import check_memory
from evoprune.training.trace import Floats, Trace

__all__ = ["assess", "initial_population"]

INDEX_BYTES = 8
"""Of a survivor in a mask."""


def initial_population(
    space: MaskSpace, k: int, *, sparsity: float | str | Decimal, allocation: Allocation = "erk", seed: int = 0
) -> list[Individual]:
    """k individuals with random masks of the asked sparsity; individual i does not depend on k.

    Raises `NotEnoughMemory` for more than this machine can hold, before the first is drawn.
    """
    if isinstance(k, int):  # what is no number is refused by name below
        check_memory(k, k * space.budget(sparsity) * INDEX_BYTES, torch.device("cpu"))
    return [Individual(mask) for mask in random_masks(space, k, sparsity=sparsity, allocation=allocation, seed=seed)]


def assess(individuals: Sequence[Any], trace: Trace, criterion: str) -> Floats:
    """Give each individual (one a current row of the trace) the criterion as its fitness; returns the values `(K,)`.

    The fitness has the criterion's direction, a failed row gets the worst value, and the trace keeps the column.
    """
    rule = CRITERIA[criterion]
    values = rule(trace, trace.parameters.masks)
    for individual, value, failed in zip(individuals, values, trace.failed, strict=True):
        individual.fitness = fitness_class((rule.weight,))((float(value),))
        individual.failed = bool(failed)
    trace.add(trace.epoch, {criterion: values})
    return values
