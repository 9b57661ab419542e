"""A random mask made together with exactly orthogonal weights.  [Nowak 2024, arXiv:2406.01755]"""

from __future__ import annotations

from typing import Any

from evoprune.errors import InputError
from evoprune.masks.allocation import Allocation
from evoprune.methods.registry import method
from evoprune.problems.problem import Problem
from evoprune.training.initializers.exact_orthogonal import eoi as exact_orthogonal
from evoprune.training.initializers.exact_orthogonal import gain_of
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from evoprune.values import positive

__all__ = ["eoi"]


@method(reference="Nowak 2024, arXiv:2406.01755, algorithm 1", unset={"gain": "√2 for a network with ReLUs, else 1"})
def eoi(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    epochs: int = 10,
    gain: float | None = None,
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Train a random mask with sparse weights of WᵀW = gain²·I, composed of random Givens rotations.

    gain: √2 for a network with ReLUs, else 1. Cost: no pass over data. For a mask that is chosen already see the training
    option init="eoi".
    """
    for name in ("init", "rescale", "own_weights"):
        if training.pop(name, None) not in (None, False, "problem"):
            raise InputError(f"{name}= would undo the weights of the method eoi: leave it out")
    if gain is not None:
        positive("gain", gain)
    sigma = gain_of(problem) if gain is None else gain
    mask, weights = exact_orthogonal(problem.space, sparsity, allocation, seed, gain=sigma)
    start = {**problem.initial_weights(), **weights}
    return Population(problem, [mask], horizon=epochs, seed=seed, weights=[start], **training).train(epochs).ticket()
