"""Successive halving on networks in training: at each rung the worse share leaves, no step is ever trained twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from deap import tools

from evoprune.criteria import CRITERIA, Criterion
from evoprune.errors import InputError
from evoprune.evolution.assess import assess
from evoprune.training.population import Population

__all__ = ["check_rungs", "tournament"]


def check_rungs(rungs: Sequence[int], epochs: int, *, criterion: Criterion) -> tuple[int, ...]:
    """Rungs as increasing epochs that leave at least one epoch for the winner, or `InputError`."""
    least = 1 if criterion.trained else 0
    chosen = tuple(rungs)
    whole = all(isinstance(rung, int) and not isinstance(rung, bool) for rung in chosen)
    if not whole or not chosen or chosen[0] < least or any(b <= a for a, b in zip(chosen, chosen[1:], strict=False)):
        raise InputError(f"selection at epochs {list(chosen)} is not usable: give increasing whole numbers, the first >= {least}")
    if chosen[-1] >= epochs:
        raise InputError(
            f"selection after {chosen[-1]} epochs leaves no epoch of {epochs} to train the winner: raise epochs= or select earlier"
        )
    return chosen


def tournament(generation: Population, individuals: Sequence[Any], rungs: Sequence[int], criterion: str, *, eta: int = 2) -> Any:
    """Train to each rung, keep the fittest share 1/eta there, one at the last; returns the winner.

    The generation is left with the winner alone, weights and optimizer state kept.
    """
    if isinstance(eta, bool) or not isinstance(eta, int) or eta < 2:
        raise InputError(f"eta={eta!r} is not usable: give the factor by which a rung cuts, >= 2")
    needs, running = CRITERIA[criterion].needs, list(individuals)
    for rung in rungs:
        if generation.epoch < rung:
            generation.train(rung - generation.epoch, record=needs)
        assess(running, generation.trace, criterion)
        keep = 1 if rung == rungs[-1] else math.ceil(len(running) / eta)
        fittest = tools.selBest(running, keep)
        generation.select([next(i for i, r in enumerate(running) if r is one) for one in fittest])
        running = fittest
    return running[0]
