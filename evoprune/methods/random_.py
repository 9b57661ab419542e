"""One random mask, the control that every search has to beat."""

from __future__ import annotations

from typing import Any

from evoprune.masks.allocation import Allocation
from evoprune.masks.sampling import random_mask
from evoprune.methods.registry import method
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["random_"]


@method(reference="Liu 2022, The unreasonable effectiveness of random pruning, arXiv:2202.02643")
def random_(
    problem: Problem, *, sparsity: float = 0.95, epochs: int = 10, allocation: Allocation = "erk", seed: int = 0, **training: Any
) -> Ticket:
    """Train one random mask: static random pruning, the control."""
    mask = random_mask(problem.space, sparsity=sparsity, allocation=allocation, seed=seed)
    return Population(problem, [mask], horizon=epochs, seed=seed, **training).train(epochs).ticket()
