"""The optimizer's step of one individual, on its gradient while that is still in the cache; the gradient is zero afterwards.

Counted for S numbers: 6·S operations; S values, gradients and momenta read and written once.
"""

from __future__ import annotations

from typing import Any

from evoprune.training.engines.kernels.runtime import address, address64, double, inline, kernel, number

__all__ = ["sgd"]

VALUES, GRADIENTS, MOMENTA, BOUNDS, SIZE, RATE, MOMENTUM, DECAY, NESTEROV, SUM, SUM_OF_SIZES = tuple(range(11))
WORDS = 11


@inline
def collect(gradients: Any, total: Any, count: Any, sizes: Any) -> None:
    """total += gradient, or its size."""
    for at in range(count):
        gradient = gradients[at]
        total[at] += abs(gradient) if sizes else gradient


@inline
def descend(values: Any, gradients: Any, count: Any, rate: Any, decay: Any) -> None:
    """A step without momentum."""
    for at in range(count):
        value = values[at]
        values[at] = value - rate * (gradients[at] + decay * value)
        gradients[at] = 0


@inline
def roll(values: Any, gradients: Any, momenta: Any, count: Any, rate: Any, momentum: Any, decay: Any, ahead: Any) -> None:
    """A step with momentum; `ahead` in Nesterov's form."""
    for at in range(count):
        value = values[at]
        gradient = gradients[at] + decay * value
        moving = momentum * momenta[at] + gradient
        momenta[at] = moving
        values[at] = value - rate * (gradient + momentum * moving if ahead else moving)
        gradients[at] = 0


@kernel
def sgd(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """v = momentum·v + g + decay·w; w -= rate·v (or rate·(g + decay·w + momentum·v)); g = 0, after it was added to SUM."""
    bounds = address64(args[BOUNDS])
    first, count, size = bounds[row], bounds[row + 1] - bounds[row], args[SIZE]
    values, gradients = address(kind, args[VALUES] + first * size), address(kind, args[GRADIENTS] + first * size)
    if args[SUM] != 0:
        collect(gradients, address(kind, args[SUM] + first * size), count, False)
    if args[SUM_OF_SIZES] != 0:
        collect(gradients, address(kind, args[SUM_OF_SIZES] + first * size), count, True)
    rate, decay = number(kind, double(args[RATE])), number(kind, double(args[DECAY]))
    if args[MOMENTA] == 0:
        descend(values, gradients, count, rate, decay)
    else:
        momenta, momentum = address(kind, args[MOMENTA] + first * size), number(kind, double(args[MOMENTUM]))
        roll(values, gradients, momenta, count, rate, momentum, decay, args[NESTEROV] != 0)
