"""DropConnect: every step drops weights at random.  [Wan 2013, Regularization of Neural Networks using DropConnect]"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from evoprune import seeds
from evoprune.training.parameters import Parameters

__all__ = ["DropConnect"]


class DropConnect:
    """In a step's block a random share `rate` of the weights is 0; the same weights in every network, others every step.

    As in the paper a step uses W·M and evaluation the mean (1 - rate)·W. What is stored, evaluated and saved is that mean,
    so a step divides it by (1 - rate), and a gradient step on W is one on the mean times (1 - rate). This holds for SGD, with
    momentum and weight decay; optimizers that divide the scale of gradients out would take steps 1 / (1 - rate) times too long.
    """

    def __init__(self, parameters: Parameters, rate: float, seed: int) -> None:
        self.parameters, self.rate, self.seed = parameters, rate, seed
        sizes = dict(zip(parameters.space.names, parameters.space.sizes, strict=True))
        self._weights = {name: parameters.indices(name) % size for name, size in sizes.items()} if rate else {}

    @staticmethod
    def scale_initial(parameters: Parameters, rate: float) -> None:
        """Turn initial weights W into the stored mean (1 - rate)·W."""
        for name, value in parameters.survivors.items() if rate else ():
            value.detach().mul_(1 - rate)
            parameters.initial[name].mul_(1 - rate)

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """The block computes gradients with the weights that step `step` keeps; all are there again whatever happens in it."""
        if not self.rate:
            yield
            return
        rng = seeds.torch_generator(self.seed, "dropconnect", step)
        space, kept, before = self.parameters.space, {}, {}
        try:
            for name, value in self.parameters.survivors.items():
                drawn = torch.rand(space.sizes[space.index[name]], generator=rng, dtype=torch.float32)
                dense = _send(drawn >= self.rate, value.device)
                kept[name] = dense[self._weights[name]].to(value.dtype)
                before[name] = value.detach().clone()
                value.detach().mul_(kept[name]).div_(1 - self.rate)
            yield
        finally:
            for name, saved in before.items():
                self.parameters.survivors[name].detach().copy_(saved)
        for name, value in self.parameters.survivors.items():
            assert value.grad is not None
            value.grad.mul_(kept[name]).mul_(1 - self.rate)


def _send(value: Tensor, device: torch.device) -> Tensor:
    """`value` on the device; a GPU copies it while the host goes on."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)
