"""Gradients with respect to every prunable weight, pruned ones included, for rules that look at non-survivors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evoprune import seeds
from evoprune.problems.losses import Loss
from evoprune.training.parameters import Parameters

__all__ = ["dense_gradient"]


def dense_gradient(model: nn.Module, parameters: Parameters, loss: Loss, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """`(K, *shape)` by layer name: gradient of the mean loss of a batch in each sparse network.

    model is run in the mode it is in; its own tensors, and the population's, are left as they were.
    """
    collected: dict[str, list[Tensor]] = {name: [] for name in parameters.space.names}
    with seeds.isolated(0):
        for position in range(len(parameters)):
            own = parameters.row(position)
            weights = {name: own[name].requires_grad_() for name in parameters.space.names}
            outputs = functional_call(model, {**own, **weights}, (inputs,))
            mean = loss.per_sample(outputs.unsqueeze(0), targets).mean()
            for name, gradient in zip(weights, torch.autograd.grad(mean, list(weights.values())), strict=True):
                collected[name].append(gradient)
    return {name: torch.stack(gradients) for name, gradients in collected.items()}
