"""What a population does with torch's optimizers: give them the schedule's rate, clear gradients, and move their state along."""

from __future__ import annotations

import torch
from torch import Tensor

from evoprune.training.options import Training
from evoprune.training.parameters import Parameters, Relayout

__all__ = ["set_rate", "transplant", "zero_gradients"]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give the optimizer the learning rate of the step to come, where it stands: on the host, or as a number on the device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def zero_gradients(parameters: Parameters) -> None:
    """Set all gradients to zero in place: chunks hold views of them."""
    torch._foreach_zero_([leaf.grad for leaf in parameters.leaves().values() if leaf.grad is not None])


def transplant(
    optimizer: torch.optim.Optimizer, training: Training, old: Parameters, new: Parameters, relayout: Relayout
) -> torch.optim.Optimizer:
    """An optimizer over the new leaves with the state of the old ones, moved along."""
    leaves = new.leaves()
    moved = training.make_optimizer(leaves.values())
    for name, leaf in old.leaves().items():
        for key, value in optimizer.state.get(leaf, {}).items():
            follows = isinstance(value, Tensor) and value.shape == leaf.shape
            fresh = training.base_lr if key == "step_size" else 0.0  # Rprop's own step of a new survivor
            moved.state[leaves[name]][key] = relayout(name, value, fresh) if follows else value
    return moved
