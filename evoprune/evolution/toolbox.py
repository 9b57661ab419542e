"""A DEAP toolbox whose `map` trains a whole generation at once."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deap import base, tools

from evoprune import seeds
from evoprune.criteria import CRITERIA
from evoprune.errors import InputError
from evoprune.evolution.individual import Individual, fitness_class
from evoprune.evolution.operators import cxSetUniform, initSparse, mutSwap
from evoprune.masks.allocation import Allocation, allocate
from evoprune.problems.problem import Problem
from evoprune.training.ledger import Ledger
from evoprune.training.population import Population

__all__ = ["BatchMap", "Evaluator", "make_toolbox"]

log = logging.getLogger("evoprune")


class Evaluator:
    """Fitness of masks: `epochs` of training, then a criterion.

    Called with one individual it returns a tuple, as DEAP expects; `batch` trains many at once.
    """

    def __init__(self, problem: Problem, *, epochs: int, criterion: str, seed: int, training: dict[str, Any]) -> None:
        self.problem, self.epochs, self.seed, self.training = problem, epochs, seed, training
        self.criterion = CRITERIA[criterion]
        if self.criterion.relative:
            raise InputError(
                f"criterion {criterion!r} depends on the cohort, so no fitness can be kept: choose one of {', '.join(absolute())}"
            )
        self.ledger = Ledger()
        self.trained = 0

    def __call__(self, individual: Any) -> tuple[float, ...]:
        return self.batch([individual])[0]

    def batch(self, individuals: Sequence[Any]) -> list[tuple[float, ...]]:
        """One tuple an individual; identical masks are trained once."""
        unique = {individual.mask.hash: individual.mask for individual in individuals}
        if not unique:
            return []
        with seeds.isolated():
            generation = Population(self.problem, list(unique.values()), horizon=self.epochs, seed=self.seed, **self.training)
            try:
                generation.train(self.epochs, record=self.criterion.needs)
            finally:
                self.ledger += generation.ledger
                self.trained += len(generation)
            values = dict(zip(unique, self.criterion(generation.trace, generation.masks), strict=True))
            failed = dict(zip(unique, generation.trace.failed, strict=True))
        for individual in individuals:
            individual.failed = bool(failed[individual.mask.hash])
        return [(float(values[individual.mask.hash]),) for individual in individuals]


class BatchMap:
    """DEAP's `map`: given the evaluator it trains all individuals at once; given any other function it is the ordinary map.

    trained: networks trained so far. ledger: what that cost.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._told = False

    @property
    def trained(self) -> int:
        return self.evaluator.trained

    @property
    def ledger(self) -> Ledger:
        return self.evaluator.ledger

    def __call__(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterable[Any]:
        if _unwrapped(function) is self.evaluator and len(iterables) == 1:
            individuals = list(iterables[0])
            results = self.evaluator.batch(individuals)
            assert len(results) == len(individuals)
            return results
        if not self._told and getattr(function, "__name__", "") not in ("clone", "deepcopy"):
            log.warning(
                "map: %r is not the toolbox's own evaluator, so it is called for one individual after the other", function
            )
            self._told = True
        return map(function, *iterables)


def make_toolbox(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    epochs: int = 2,
    criterion: str = "loss",
    allocation: Allocation = "erk",
    seed: int | None = None,
    **training: Any,
) -> base.Toolbox:
    """A toolbox on which `algorithms.eaSimple` and its siblings run unmodified.

    Registered: `individual`, `population(n=)`, `evaluate`, `mate` (cxSetUniform), `mutate` (mutSwap), `select`
    (selTournament of 3), `map`. Any of them can be registered anew.
    epochs, criterion: the fitness. seed: a private stream for the operators and the training; None draws from the global
    `random` and trains with seed 0. training: the options of `Training`.
    Raises `InputError` for a relative criterion or a budget below the floors.
    """
    allocate(problem.space, sparsity, allocation)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"epochs={epochs!r} is not usable: give the epochs of one evaluation, >= 1")
    rng = None if seed is None else random.Random(seeds.derive(seed, "operators"))
    evaluator = Evaluator(problem, epochs=epochs, criterion=criterion, seed=seed or 0, training=training)
    fitness = fitness_class((evaluator.criterion.weight,))

    def individual(mask: Any) -> Individual:
        return Individual(mask, fitness())

    toolbox = base.Toolbox()
    toolbox.register("individual", initSparse, individual, problem.space, sparsity=sparsity, allocation=allocation, rng=rng)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", evaluator)
    toolbox.register("mate", cxSetUniform, rng=rng)
    toolbox.register("mutate", mutSwap, rng=rng)
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.map = BatchMap(evaluator)
    return toolbox


def absolute() -> list[str]:
    """The criteria that do not depend on the cohort."""
    return [name for name, rule in CRITERIA.items() if not rule.relative]


def _unwrapped(function: Callable[..., Any]) -> Any:
    while isinstance(function, functools.partial) and not function.args and not function.keywords:
        function = function.func
    return function
