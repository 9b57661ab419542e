"""DropConnect: every step drops weights at random.  [Wan 2013, Regularization of Neural Networks using DropConnect]"""

from __future__ import annotations

import torch

from evoprune import seeds
from evoprune.training.parameters import Parameters

__all__ = ["DropConnect"]


class DropConnect:
    """While open, a random share `rate` of the weights is 0; the same weights in every network, others every step.

    As in the paper a step uses W·M and evaluation the mean (1 - rate)·W. What is stored, evaluated and saved is that mean,
    so a step divides it by (1 - rate), and a gradient step on W is one on the mean times (1 - rate).
    """

    def __init__(self, parameters: Parameters, rate: float, seed: int, step: int) -> None:
        self.parameters, self.rate, self.seed, self.step = parameters, rate, seed, step

    @staticmethod
    def scale_initial(parameters: Parameters, rate: float) -> None:
        """Turn initial weights W into the stored mean (1 - rate)·W."""
        for name, value in parameters.survivors.items() if rate else ():
            value.detach().mul_(1 - rate)
            parameters.initial[name].mul_(1 - rate)

    def __enter__(self) -> None:
        if not self.rate:
            return
        rng = seeds.torch_generator(self.seed, "dropconnect", self.step)
        self.kept, self.before = {}, {}
        for name, value in self.parameters.survivors.items():
            size = self.parameters.space.sizes[self.parameters.space.index[name]]
            dense = torch.rand(size, generator=rng).to(value.device) >= self.rate
            self.kept[name] = dense[self.parameters.indices(name) % size].to(value.dtype)
            self.before[name] = value.detach().clone()
            value.detach().mul_(self.kept[name]).div_(1 - self.rate)

    def __exit__(self, *_: object) -> None:
        if not self.rate:
            return
        for name, value in self.parameters.survivors.items():
            assert value.grad is not None
            value.grad.mul_(self.kept[name]).mul_(1 - self.rate)
            value.detach().copy_(self.before[name])
