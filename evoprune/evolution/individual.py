"""A mask as a DEAP individual, and ordinary, picklable fitness classes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from deap import base

from evoprune.errors import InputError
from evoprune.masks.mask import Mask

__all__ = ["FitnessMax", "FitnessMin", "Individual", "fitness_class", "has_failed"]


class FitnessMin(base.Fitness):  # type: ignore[misc]
    """One value, smaller is fitter."""

    weights = (-1.0,)


class FitnessMax(base.Fitness):  # type: ignore[misc]
    """One value, larger is fitter."""

    weights = (1.0,)


def fitness_class(weights: Sequence[float]) -> type[base.Fitness]:
    """The fitness class of `weights` (+1 to maximise, -1 to minimise each value); the same class for the same weights.

    It is a module-level class, so that individuals pickle and `creator` is not needed.
    """
    key = tuple(float(weight) for weight in weights)
    if not key or any(weight == 0 or weight != weight for weight in key):
        raise InputError(f"fitness weights {weights!r} are not usable: give one number other than 0 for each value")
    if key == (-1.0,):
        return FitnessMin
    if key == (1.0,):
        return FitnessMax
    return _made("Fitness_" + "_".join(_spelled(weight) for weight in key))


def _spelled(weight: float) -> str:
    """Every digit of a weight in letters that a class name may have."""
    return repr(weight).removesuffix(".0").replace("-", "m").replace(".", "p").replace("+", "")


def _made(name: str) -> type[base.Fitness]:
    """The class whose name spells its weights; made once, then found as an attribute of this module."""
    if name not in globals():
        words = name.removeprefix("Fitness_").split("_")
        weights = tuple(float(word.replace("em", "e-").replace("m", "-").replace("p", ".")) for word in words)
        globals()[name] = type(name, (base.Fitness,), {"weights": weights, "__module__": __name__})
    made: type[base.Fitness] = globals()[name]
    return made


def __getattr__(name: str) -> Any:
    if name.startswith("Fitness_"):  # a pickle from another process names a class that was not made here yet
        with suppress(ValueError):
            return _made(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Individual:
    """A mask with a fitness, a lineage and any attribute that a user or `tools.History` hangs on it.

    mask: the genome; operators replace it. fitness: a DEAP fitness. lineage: parents' mask hashes and the operator.
    failed: whether its training failed; a clone carries the mark on (see `has_failed`). Equal when the masks are equal; hashable
    by identity is not offered, since operators change individuals in place.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, mask: Mask, fitness: base.Fitness | None = None) -> None:
        if not isinstance(mask, Mask):
            raise InputError(
                f"an individual is made from a Mask, not from {type(mask).__name__}: use random_mask, or toolbox.individual()"
            )
        self.mask = mask
        made = self.__dict__.get("fitness")  # DEAP's creator sets its own before this runs
        self.fitness = fitness if fitness is not None else FitnessMin() if made is None else made
        self.lineage: dict[str, Any] = {}
        self.failed = False

    def __eq__(self, other: object) -> bool:
        return self.mask == other.mask if isinstance(other, Individual) else NotImplemented

    def __len__(self) -> int:
        return self.mask.count

    def __repr__(self) -> str:
        return f"Individual({self.mask!r}, fitness {self.fitness.values if self.fitness.valid else 'not known'})"

    def _repr_html_(self) -> str:
        return f"<code>{self!r}</code>"


def has_failed(individual: Any) -> bool:
    """Whether an individual is one whose training failed: it is marked, and its fitness is the infinite one of a failure.

    A child carries the mark of the parent that it was cloned from, and keeps it where its own value comes from elsewhere: from a
    penalty, or from an `evaluate` of the user's.
    """
    return bool(getattr(individual, "failed", False)) and not np.isfinite(individual.fitness.wvalues).all()
