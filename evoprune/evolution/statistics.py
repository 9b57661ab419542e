"""DEAP statistics over a population, without those that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from deap import tools

from evoprune.evolution.individual import has_failed

__all__ = ["statistics"]


class _Sound(tools.Statistics):  # type: ignore[misc]
    """Leaves failed individuals out; NaN when nobody is left."""

    def compile(self, data: Sequence[Any]) -> dict[str, Any]:
        sound = [individual for individual in data if not has_failed(individual)]
        if not sound:
            return dict.fromkeys(self.functions, np.nan)
        compiled: dict[str, Any] = super().compile(sound)
        return compiled


def statistics(*, objective: int = 0) -> tools.Statistics:
    """min, mean, max and std of one objective over a population, failed individuals left out; for `stats=` of any loop."""
    made = _Sound(lambda individual: individual.fitness.values[objective])
    for name in ("min", "mean", "max", "std"):
        made.register(name, getattr(np, name))
    return made
