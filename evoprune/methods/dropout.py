"""Dropping weights at random in every step, the baseline that prunes nothing."""

from __future__ import annotations

from typing import Any

from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.methods.registry import method
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["dropout"]


@method(reference="Wan 2013, Regularization of neural networks using DropConnect", sparse=False)
def dropout(
    problem: Problem, *, sparsity: float = 0.0, epochs: int = 10, rate: float = 0.5, seed: int = 0, **training: Any
) -> Ticket:
    """Drop prunable weights at random in every step (DropConnect); nothing is pruned, `sparsity` is accepted and ignored."""
    if "drop_rate" in training:
        raise InputError("the method dropout calls its drop_rate rate=: give that alone")
    if training.get("optimizer", "sgd") != "sgd":
        raise InputError(
            f"dropout needs optimizer='sgd', not {training['optimizer']!r}: others divide out the scale of its steps"
        )
    mask = Mask.full(problem.space)
    return Population(problem, [mask], horizon=epochs, seed=seed, drop_rate=rate, **training).train(epochs).ticket()
