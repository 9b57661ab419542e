"""Dynamic sparse training, the parts: the smallest survivors of a layer leave, as many others enter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from evoprune import seeds
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.ranking import largest
from evoprune.masks.sampling import complement
from evoprune.training.population import Population
from evoprune.training.trace import Floats
from evoprune.values import share, whole

__all__ = ["ROUNDING", "annealed", "check_period", "check_share", "magnitudes", "rewire", "steepest"]

ROUNDING = 1e-6
"""Added to a share of a number of steps or epochs before it is cut: 0.29 · 100 is a little less than 29."""

Choice = Callable[[int, int, Indices, Indices, int], Indices]
"""(row, layer, survivors before, survivors that stay, how many enter) -> distinct indices outside those that stay."""


def magnitudes(generation: Population, row: int) -> list[Floats]:
    """abs(w) of the survivors of one network, one array a layer; 0 for what is not finite, so that a failed row gets on."""
    parameters = generation.parameters
    values = (parameters.survivors[name][parameters.span(name, row, row + 1)] for name in parameters.space.names)
    return [np.nan_to_num(np.abs(value.detach().cpu().double().numpy()), posinf=0.0) for value in values]


def rewire(generation: Population, fraction: float, enter: Choice) -> None:
    """In every layer of every network the share `fraction` nearest zero leaves and as many of `enter` come, with value 0.

    One that leaves and is chosen to come at once stays as it was.
    """
    masks = []
    for row, mask in enumerate(generation.masks):
        survivors = []
        for layer, (own, size) in enumerate(zip(magnitudes(generation, row), mask.space.sizes, strict=True)):
            before = mask.survivors[layer]
            count = min(int(fraction * len(own)), size - len(own))
            stay = before[largest(own, len(own) - count)]
            survivors.append(np.union1d(stay, enter(row, layer, before, stay, count)) if count else before)
        masks.append(Mask(mask.space, survivors))
    generation.grow(masks)


def steepest(generation: Population, *, noise: str | None = None) -> Choice:
    """Those enter whose dense gradient is largest in size, on the batch that the next step will see.

    noise: name of a random stream whose uniform numbers multiply the gradients, so that not only the very largest enter.
    """
    gradients = list(generation.dense_gradient().values())

    def enter(row: int, layer: int, before: Indices, stay: Indices, count: int) -> Indices:
        free = complement(stay, generation.problem.space.sizes[layer])
        slope = gradients[layer][row].abs().flatten().nan_to_num(nan=0.0, posinf=0.0).cpu().double().numpy()[free]
        if noise is not None:
            individual = generation.trace.individuals[row]  # its place in the first generation: selection does not change it
            slope *= seeds.generator(generation.seed, noise, generation.steps, individual, layer).random(len(free))
        return free[largest(slope, count)]

    return enter


def annealed(fraction: float, step: int, end: int) -> float:
    """The share fraction/2·(1 + cos(pi·step/end)), which falls from `fraction` to 0.  [Evci 2020, arXiv:1911.11134, eq. 1]"""
    return fraction / 2 * (1 + math.cos(math.pi * step / end))


def check_share(**shares: float) -> None:
    """Refuse shares outside (0, 1]. Raises `InputError`."""
    for name, value in shares.items():
        share(name, value)


def check_period(every: int | None) -> None:
    """Refuse a period that is no whole number of steps. Raises `InputError`."""
    if every is not None:
        whole("every", every, 1, give="a whole number of steps")
