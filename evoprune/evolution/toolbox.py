"""A DEAP toolbox whose `map` trains a whole generation at once."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

from deap import base, tools

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.evolution.batchmap import BatchMap, parts_of, wraps
from evoprune.evolution.cohort import CohortTrainer
from evoprune.evolution.executors import make_executor
from evoprune.evolution.individual import Individual, fitness_class
from evoprune.evolution.journal import Journal
from evoprune.evolution.objectives import find_objectives
from evoprune.evolution.operators import OPERATORS
from evoprune.evolution.population import Sizes, population
from evoprune.evolution.several import mutate_with_size, select_several
from evoprune.evolution.tournament import ETA, check_eta, check_rungs, criteria_of, rungs_of
from evoprune.evolution.trainer import Trainer
from evoprune.masks.allocation import Allocation
from evoprune.masks.sampling import random_mask
from evoprune.problems.problem import Problem
from evoprune.registry import one_of, programs
from evoprune.training.options import Training
from evoprune.values import whole

__all__ = ["make_toolbox"]

log = logging.getLogger("evoprune")


def make_toolbox(
    problem: Problem,
    *,
    sparsity: float | tuple[float, float] = 0.95,
    epochs: int = 2,
    criterion: str | Sequence[str] = "loss",
    objectives: Sequence[str] | None = None,
    rungs: Sequence[int] | None = None,
    eta: int = ETA,
    allocation: Allocation = "erk",
    mate: str = "cxSetUniform",
    mutate: str | None = None,
    guided: bool | None = None,
    inherit: str | None = None,
    seed: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    executor: Any = None,
    chunk: int | None = None,
    retries: int = 2,
    **training: Any,
) -> base.Toolbox:
    """A toolbox on which `algorithms.eaSimple` and its siblings run unmodified.

    Registered: `individual`, `population(n=)`, `from_mask(mask)`, `evaluate`, `mate` and `mutate` (operators by name),
    `select`, `map`. Any of them can be registered anew.

    sparsity: one number, or the two ends between which the first population is spread and `mutResize` keeps it.
    epochs, criterion: the fitness: so many epochs of training, then the criterion. objectives: instead of it several values:
    criteria, "survivors", "macs". `mutate` is then `mutResize` or `mutSwap` with equal chances where sizes may vary, and
    `select` is selNSGA2 for two or three, selNSGA3 above; else `mutSwap` and selTournament of 3.
    rungs, eta: the generation competes in a tournament of `epochs` (see `tournament`; criterion may be one a rung), and the
    fitness is (rung reached, score), comparable within a generation only; `select` lets those compete anew, all together, that
    come from several. DEAP's loops do not do so for a hall of fame: use that of `generations`, which is of one generation.
    inherit: None trains every mask from the initial weights, "weights" from the trained survivors of the individual it was
    cloned from. guided: whether evaluations tell what `mutGuided` reads; None where that is the `mutate`.
    seed: rules the operators, by a private stream, and the training; None lets operators draw from the global `random` and trains
    with seed 0. Selection and who is varied are DEAP's and draw from the global `random` all the same: `random.seed` rules them.
    training: the options of `Training`.
    journal: file to which every finished evaluation is appended; the same script run again goes on from it, where it makes the
    same masks: it calls `random.seed`.
    executor: None trains in this process; a number starts so many worker processes; or a `ProcessExecutor`, a `RayExecutor`.
    chunk: networks of a sub-batch at most, retries: of an evaluation that raised; neither changes a result.

    Raises `InputError` for a relative criterion, a budget below the floors, or a journal of another configuration.
    """
    sizes = Sizes.of(problem.space, sparsity, allocation)
    epochs = whole("epochs", epochs, 1, give="the epochs of one evaluation,")
    chunk = None if chunk is None else whole("chunk", chunk, 1, give="the networks of a sub-batch,")
    retries, eta = whole("retries", retries), check_eta(eta, rungs)
    if objectives is not None and criterion != "loss":
        log.warning("criterion=%r does nothing beside objectives=, which may name it", criterion)
    training = _training(training, inherit)
    reference = random_mask(problem.space, sparsity=sizes.sparsities[0], allocation=allocation)
    run = (epochs, seeds.check_seed(seed or 0), training, reference)
    if rungs is None:
        if isinstance(criterion, Sequence) and not isinstance(criterion, str):
            raise InputError(f"criterion={criterion!r} is not usable: one a rung needs rungs=, several values need objectives=")
        keep, told = inherit is not None, mutate == "mutGuided" if guided is None else guided
        trainer = Trainer(problem, find_objectives(criterion, objectives), *run, keep, told)
    else:
        if objectives is not None or inherit is not None or guided or mutate == "mutGuided":
            raise InputError("rungs= makes a fitness of its own kind: leave out objectives=, inherit=, guided= and mutGuided")
        criteria = criteria_of(criterion, len(rungs_of(rungs)))
        epochs_of = check_rungs(rungs, epochs, criterion=criteria[0], end=True)
        trainer = CohortTrainer(problem, (), *run, rungs=epochs_of, criteria=criteria, eta=eta)
    rng = None if seed is None else random.Random(seeds.derive(seed, "operators"))
    fitness = fitness_class(trainer.weights)

    def from_mask(mask: Any) -> Individual:
        return Individual(mask, fitness())

    toolbox = base.Toolbox()
    toolbox.register("from_mask", from_mask)
    toolbox.register("individual", sizes.individual, from_mask, rng=rng)
    toolbox.register("population", population, sizes, from_mask, rng=rng)
    toolbox.register("mate", _operator(mate, "mate"), rng=rng)
    if mutate is None and sizes.vary:
        toolbox.register("mutate", mutate_with_size, low=sizes.low, high=sizes.high, rng=rng)
    else:
        bounds = {"low": sizes.low, "high": sizes.high} if mutate == "mutResize" else {}
        toolbox.register("mutate", _operator(mutate or "mutSwap", "mutate"), rng=rng, **bounds)
    if len(trainer.objectives) > 1:
        toolbox.register("select", select_several(len(trainer.objectives)))
    else:
        toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.map = BatchMap(
        trainer,
        executor=make_executor(executor),
        journal=None if journal is None else _journal(journal, parts_of(trainer, inherit), problem.describe()),
        inherit=inherit,
        chunk=chunk,
        retries=retries,
    )
    toolbox.register("evaluate", toolbox.map.evaluator)
    if trainer.whole:
        toolbox.register("select", _select_competitors(toolbox, toolbox.map), tournsize=3)
    return toolbox


def _journal(path: str | os.PathLike[str], parts: dict[str, Any], about: dict[str, Any]) -> Journal:
    """The journal of what decides an evaluation; the programs of criteria, schedules, … stand beside the problem's."""
    return Journal(path, parts, about={**about, "programs": about.get("programs", {}) | programs(parts)})


def _select_competitors(toolbox: base.Toolbox, batch_map: BatchMap) -> Callable[..., list[Any]]:
    """selTournament among individuals that competed with each other: those of several tournaments compete anew first."""

    def selTournament(individuals: Sequence[Any], k: int, tournsize: int) -> list[Any]:
        own = toolbox.map is batch_map and wraps(toolbox.evaluate, batch_map.evaluator)
        if own and not batch_map.competed(individuals):
            for individual, values in zip(individuals, batch_map(toolbox.evaluate, individuals), strict=True):
                individual.fitness.values = values
        return tools.selTournament(individuals, k, tournsize)  # type: ignore[no-any-return]

    return selTournament


def _operator(name: str, kind: str) -> Any:
    """The operator called `name`, which must be of that kind."""
    found = OPERATORS[name]
    if found.kind != kind:
        one_of(f"operator to {kind} with", name, [other for other, entry in OPERATORS.items() if entry.kind == kind])
    return found.function


def _training(options: dict[str, Any], inherit: str | None) -> dict[str, Any]:
    """The options of training as they are taken, refused where a fitness would not belong to its mask."""
    if inherit is not None:
        one_of("inherit", inherit, ("weights",))
    known = Training.of(**options)
    if known.own_weights:
        raise InputError("own_weights gives a network weights by its place in a generation, so no fitness can be kept: drop it")
    if inherit is not None and known.drop_rate:
        raise InputError("drop_rate scales the initial weights, inherited ones too: drop one of them")
    return known.as_dict()
