"""Successive halving on networks in training: at each rung the worse share leaves, no step is ever trained twice.

Weights and optimizer state are kept, the ranking is over the whole generation, and a fitness (rung reached, score with larger =
better) compares within one generation only.  [Jamieson 2016, arXiv:1502.07943; on masks: METHODS "K-starts"]
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from evoprune.criteria import CRITERIA, Criterion
from evoprune.errors import InputError, TrainingFailed
from evoprune.evolution.individual import fitness_class
from evoprune.training.population import Population
from evoprune.values import is_whole, whole

__all__ = ["ETA", "check_eta", "check_rungs", "criteria_of", "default_rungs", "race", "rungs_of", "tournament"]

log = logging.getLogger("evoprune")

Criteria = str | Sequence[str]
ETA = 2
"""The factor by which a rung cuts, unless another is given."""


def default_rungs(epochs: int, k: int, eta: int = ETA) -> tuple[int, ...]:
    """Epoch 2 (1 where there is no room), then eta times the one before, as far as epochs and k networks go."""
    rungs = [2 if epochs > 2 else 1]
    while rungs[-1] * eta < epochs and k > eta ** len(rungs):
        rungs.append(rungs[-1] * eta)
    return tuple(rungs)


def rungs_of(rungs: object) -> tuple[Any, ...]:
    """Rungs as a tuple, or `InputError` for what is no sequence; `check_rungs` looks at what is in it."""
    if isinstance(rungs, str) or not isinstance(rungs, Sequence):
        raise InputError(f"rungs={rungs!r} are not usable: give epochs in a sequence, as in (2, 4, 8)")
    return tuple(rungs)


def criteria_of(criterion: Criteria, rungs: int) -> tuple[Criterion, ...]:
    """One criterion a rung; of a sequence the last goes on for the rungs that follow. Raises `InputError`, `UnknownName`."""
    names: tuple[Any, ...] = (criterion,) if isinstance(criterion, str) or callable(criterion) else tuple(criterion)
    if not 0 < len(names) <= max(rungs, 1):
        raise InputError(f"{len(names)} criteria for {rungs} rungs: give one a rung at most, the last goes on for the others")
    return tuple(CRITERIA[names[min(rung, len(names) - 1)]] for rung in range(max(rungs, 1)))


def check_rungs(
    rungs: Sequence[int], epochs: int, *, criterion: Criterion, k: int | None = None, eta: int = ETA, end: bool = False
) -> tuple[int, ...]:
    """Rungs as increasing epochs that leave at least one epoch for the winner, or `InputError`.

    criterion: of the first rung. k, eta: a rung must find more than one network. end: the last rung may be the last epoch.
    """
    least, chosen = 1 if criterion.trained else 0, rungs_of(rungs)
    if not all(map(is_whole, chosen)) or not chosen or chosen[0] < least or any(b <= a for a, b in pairwise(chosen)):
        raise InputError(f"rungs {list(chosen)} are not usable: give increasing whole numbers of epochs, the first >= {least}")
    if chosen[-1] > epochs if end else chosen[-1] >= epochs:
        leaves = f"selection after {chosen[-1]} epochs leaves no epoch of {epochs} for the winner"
        raise InputError(f"{leaves}: raise epochs=, or lower selection_epochs= (or rungs=)")
    left = k
    for rung in chosen if left is not None else ():
        if rung != chosen[0] and left == 1:
            raise InputError(
                f"rungs {list(chosen)} are too many for {k} networks: one is left before epoch {rung}; leave some out"
            )
        left = math.ceil((left or 1) / eta)
    return tuple(map(int, chosen))


def check_eta(eta: object, rungs: Sequence[int] | None = ()) -> int:
    """`eta` if it is usable, or `InputError`; a warning where the user gave no rungs, which alone read it."""
    if rungs is None and eta != ETA:
        log.warning("eta=%r does nothing without rungs=", eta)
    return whole("eta", eta, 2, give="the factor by which a rung cuts,")


def race(
    generation: Population,
    rungs: Sequence[int],
    criteria: Sequence[Criterion],
    *,
    eta: int = ETA,
    keep: int = 1,
    unfinished: bool = False,
) -> dict[int, tuple[int, float]]:
    """Train to each rung, keep the fittest share 1/eta there, `keep` at the last; they are what is left of the generation.

    Returns for every individual of the trace the rung it reached and its score there (larger is better). Raises `TrainingFailed`
    when all that are left turn NaN; with `unfinished` it ends there, once a rung has told the others' scores.
    """
    reached: dict[int, tuple[int, float]] = {}
    for number, (rung, criterion) in enumerate(zip(rungs, criteria, strict=True), start=1):
        if generation.epoch < rung:
            try:
                generation.train(rung - generation.epoch, record=criterion.needs)
            except TrainingFailed:
                if not (unfinished and reached):
                    raise
                return reached | dict.fromkeys(generation.trace.individuals, (rung, -math.inf))
        values = criterion(generation.trace, generation.masks)
        generation.trace.add(generation.trace.epoch, {criterion.name: values})
        scores = criterion.weight * values
        reached |= {one: (rung, float(score)) for one, score in zip(generation.trace.individuals, scores, strict=True)}
        left = min(keep, len(generation)) if number == len(rungs) else math.ceil(len(generation) / eta)
        generation.select([int(row) for row in np.argsort(-scores, kind="stable")[:left]])
    return reached


def tournament(
    generation: Population,
    individuals: Sequence[Any],
    rungs: Sequence[int],
    criterion: Criteria,
    *,
    eta: int = ETA,
    keep: int = 1,
) -> Any:
    """`race`, with the result on the individuals (one a current row): fitness (rung, score) and `failed`; returns the winner.

    criterion: one for all rungs, or one a rung. The generation is left with the `keep` fittest, weights and optimizer state kept.
    """
    check_eta(eta)
    people = dict(zip(generation.trace.individuals, individuals, strict=True))
    criteria = criteria_of(criterion, len(rungs))
    for one, (rung, score) in race(generation, rungs, criteria, eta=eta, keep=keep).items():
        people[one].fitness = fitness_class((1.0, 1.0))((rung, score))
        people[one].failed = score == -np.inf
    return people[generation.trace.individuals[0]]
