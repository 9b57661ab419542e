"""Dynamic sparse training, the parts: the smallest survivors of a layer leave, as many others enter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evoprune.errors import InputError
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.ranking import largest
from evoprune.training.population import Population
from evoprune.training.trace import Floats

__all__ = ["check_period", "check_share", "magnitudes", "rewire"]

Choice = Callable[[int, int, Indices, Indices, int], Indices]
"""(row, layer, survivors before, survivors that stay, how many enter) -> distinct indices outside those that stay."""


def magnitudes(generation: Population, row: int) -> list[Floats]:
    """abs(w) of the survivors of one network, one array a layer; 0 for what is not finite, so that a failed row gets on."""
    parameters = generation.parameters
    values = (parameters.survivors[name][parameters.span(name, row, row + 1)] for name in parameters.space.names)
    return [np.nan_to_num(np.abs(value.detach().cpu().double().numpy()), posinf=0.0) for value in values]


def rewire(generation: Population, fraction: float, enter: Choice) -> None:
    """In every layer of every network the share `fraction` nearest zero leaves and as many of `enter` come, with value 0."""
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


def check_share(**shares: float) -> None:
    """Refuse shares outside (0, 1]. Raises `InputError`."""
    for name, value in shares.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise InputError(f"{name}={value!r} is not usable: give a number in (0, 1]")


def check_period(every: int | None) -> None:
    """Refuse a period that is no whole number of steps. Raises `InputError`."""
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise InputError(f"every={every!r} is not usable: give a whole number of steps >= 1")
