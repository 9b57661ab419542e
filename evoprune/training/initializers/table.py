"""The table of initializers: from a mask and the problem's weights to those that training starts from."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from evoprune.masks.mask import Mask
from evoprune.problems.problem import Problem
from evoprune.registry import Registry
from evoprune.training.ledger import Ledger

__all__ = ["INITIALIZERS", "Initializer", "Weights"]

Weights = dict[str, Tensor]
Initializer = Callable[[Problem, Mask, Weights, Ledger], Weights]
"""(problem, mask, all parameters and buffers by name) -> the same, some of them replaced; a function of these alone.

What it costs it adds to the ledger."""

INITIALIZERS: Registry[Initializer] = Registry("init")


@INITIALIZERS.register("problem")
def problem_weights(problem: Problem, mask: Mask, weights: Weights, ledger: Ledger) -> Weights:
    """The problem's own initial weights."""
    return weights
