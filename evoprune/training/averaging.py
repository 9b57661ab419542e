"""The mean of a network's weights over its last epochs, in place of those that the last step happened to leave."""

from __future__ import annotations

import torch

from evoprune.training.population import Population
from evoprune.values import whole

__all__ = ["train_averaged"]


def train_averaged(generation: Population, epochs: int) -> Population:
    """Train `epochs` more; then every network has the mean of the values that it had at their ends. Returns `generation`.

    The trace's last epoch gets the validation loss and accuracy of the mean; what the optimizer holds stays as it is. Running
    statistics are taken anew (`Population.settle`).  [Izmailov 2018, arXiv:1803.05407, algorithm 1]

    Raises `InputError` for fewer than one epoch, or more than the horizon has left.
    """
    epochs = whole("epochs", epochs, 1)
    leaves = generation.parameters.leaves()
    sums = {name: torch.zeros_like(leaf, dtype=torch.float64, requires_grad=False) for name, leaf in leaves.items()}
    for _ in range(epochs):
        generation.train(1)
        for name, leaf in leaves.items():
            sums[name] += leaf.detach()
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(sums[name] / epochs)
    return generation.settle().measure()
