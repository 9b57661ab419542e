"""The dense network, the ceiling that every table shows."""

from __future__ import annotations

from typing import Any

from evoprune.masks.mask import Mask
from evoprune.methods.registry import method, starts_dense
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["dense"]


@method(reference="the unpruned network", sparse=False)
def dense(problem: Problem, *, sparsity: float = 0.0, epochs: int = 10, seed: int = 0, **training: Any) -> Ticket:
    """Train the whole network; `sparsity` is accepted and ignored, so that it fits into any comparison."""
    starts_dense("dense", training, "rescale")
    return Population(problem, [Mask.full(problem.space)], horizon=epochs, seed=seed, **training).train(epochs).ticket()
