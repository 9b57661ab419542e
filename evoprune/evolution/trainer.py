"""What a worker does: train the masks of a chunk together and say what came of each. Picklable, holds the problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from evoprune import seeds
from evoprune.errors import TrainingFailed
from evoprune.evolution.jobs import Finished, Job, Record
from evoprune.evolution.objectives import Objective
from evoprune.evolution.store import Start, Trained
from evoprune.masks.mask import Indices, Mask
from evoprune.problems.problem import Problem
from evoprune.training.capacity import largest_population
from evoprune.training.initializers import INITIALIZERS
from evoprune.training.ledger import Ledger
from evoprune.training.options import Training
from evoprune.training.population import Population

__all__ = ["HISTORY", "Trainer", "cost_of", "finite", "history_of", "repetition_seed"]

HISTORY = ("train_loss", "val_loss", "val_accuracy")


def repetition_seed(seed: int, repetition: int) -> int:
    """The seed of batches and dropout of one repetition: the run's own for the first."""
    return seed if repetition == 0 else seeds.derive(seed, "repetition", repetition)


@dataclass(frozen=True, eq=False)
class Trainer:
    """`epochs` of training, then the objectives.

    reference: a mask of the least sparsity asked, to choose the engine by. keep: whether trained networks are handed back.
    guided: whether they come with the pruned weights of the largest gradients (one dense gradient each, which the cost counts).
    Rows are independent, so a result does not depend on its chunk.
    """

    whole: ClassVar[bool] = False
    """Whether the jobs of one call compete, so that they cannot be split."""

    problem: Problem
    objectives: tuple[Objective, ...]
    epochs: int
    seed: int
    training: dict[str, Any]
    reference: Mask
    keep: bool = False
    guided: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the objectives."""
        return tuple(one.name for one in self.objectives)

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the fitness: +1 to maximise, -1 to minimise."""
        return tuple(one.weight for one in self.objectives)

    def parts(self) -> dict[str, Any]:
        """What decides an evaluation, JSON-able."""
        training = Training.of(**self.training).as_dict()
        if not training["compile"]:
            del training["compile"]  # a journal from before this option goes on
        return {
            "problem": self.problem.fingerprint,
            "training": training,
            "objectives": list(self.names),
            "epochs": self.epochs,
            "seed": self.seed,
            "guided": self.guided,
            "tournament": None,
        }

    def fitness(self, record: Record) -> tuple[float, ...]:
        """A record as a fitness; the worst values for a failed one."""
        found = [None if record.failed else record.values[one.name] for one in self.objectives]
        return tuple(one.worst if value is None else value for one, value in zip(self.objectives, found, strict=True))

    def plan(self) -> tuple[str, int]:
        """The engine, decided from device, model and sparsity, and the networks of a sub-batch: what one of its chunks holds,
        on a GPU no more than fits into its memory.

        Several chunks one after the other are no faster than several sub-batches, and trying them takes its time.
        """
        one = self._population([self.reference], None, self.seed)
        most = max(8, one.engine.rows)
        if one.device.type == "cuda":
            most = largest_population(self.problem, self.reference, most=most, **self.training)
        return one.engine.name, most

    def on(self, engine: str) -> Trainer:
        """The same on that engine."""
        return replace(self, training={**self.training, "engine": engine})

    def train(self, jobs: Sequence[Job]) -> list[Finished]:
        """One result a job, in their order; all have the same repetition."""
        seed = repetition_seed(self.seed, jobs[0].key.repetition)
        with seeds.isolated():
            starts, costs = self._starts(jobs)
            generation = self._population([job.mask for job in jobs], starts, seed)
            costs = costs or generation.start_costs
            failure = self._advance(generation)
            values = {one.name: one.values(generation.trace, generation.masks) for one in self.objectives}
            finished = [self._finished(generation, row, job, values, failure, costs[row]) for row, job in enumerate(jobs)]
            if self.guided and failure is None:
                look_for_growth(generation, finished)
            return finished

    def _population(self, masks: Sequence[Mask], starts: list[Start] | None, seed: int) -> Population:
        return Population(self.problem, masks, horizon=self.epochs, seed=seed, weights=starts, **self.training)

    def _starts(self, jobs: Sequence[Job]) -> tuple[list[Start] | None, tuple[Ledger, ...]]:
        """Starting weights where some are inherited, and what it cost to make the others."""
        if all(job.start is None for job in jobs):
            return None, ()
        costs = tuple(Ledger() for _ in jobs)
        initial, rescale = self.problem.initial_weights(), bool(self.training.get("rescale", False))
        make = INITIALIZERS[self.training.get("init", "problem")]
        made = [make(self.problem, job.mask, initial, cost) for job, cost in zip(jobs, costs, strict=True)]
        return [Start(job.mask, own, job.start, rescale=rescale) for job, own in zip(jobs, made, strict=True)], costs

    def _advance(self, generation: Population) -> str | None:
        """Train, where an objective or who comes after needs it; why all networks failed, if they did."""
        if not (self.keep or self.guided or any(one.trained for one in self.objectives)):
            return None
        try:
            generation.train(self.epochs, record={need for one in self.objectives for need in one.needs})
        except TrainingFailed as error:
            return str(error)
        return None

    def _finished(
        self, generation: Population, row: int, job: Job, values: dict[str, Any], failure: str | None, start: Ledger
    ) -> Finished:
        failed = bool(generation.trace.failed[row])
        record = Record(
            job.key,
            {name: finite(column[row]) for name, column in values.items()},
            job.mask.count,
            failed=failed,
            error=(failure or "training turned NaN") if failed else None,
            epochs=history_of(generation, row),
            cost=(cost_of(generation, job.mask.count, generation.epoch) + start).as_dict(),
        )
        kept = (self.keep or self.guided) and not failed
        return Finished(record, Trained.of(generation.parameters, row) if kept else None)


def cost_of(generation: Population, survivors: int, epochs: int) -> Ledger:
    """What one network of a population cost that trained for `epochs`; of the seconds it gets its share of the updates."""
    whole, problem = generation.ledger, generation.problem
    own = Ledger(device=whole.device, engine=whole.engine, configurations=1)
    samples = generation.batches.per_epoch * generation.batches.size * epochs
    own.train(samples, [survivors], 3 * problem.prunable * len(problem.split("train")))
    own.evaluation_samples = epochs * len(problem.split("validation"))
    own.wall_s = round(whole.wall_s * own.survivor_updates / max(1, whole.survivor_updates), 6)
    return own


def history_of(generation: Population, individual: int) -> dict[str, list[float | None]]:
    """What the trace tells of each epoch of an individual."""
    history = generation.trace.history(individual)
    return {name: [finite(entry.get(name)) for entry in history] for name in HISTORY}


def finite(value: Any) -> float | None:
    """`value` as JSON can hold it."""
    return float(value) if value is not None and math.isfinite(value) else None


def look_for_growth(generation: Population, finished: Sequence[Finished]) -> None:
    """Add to each network the pruned weights of the largest gradient on the next batch, as many a layer as it has survivors."""
    before = replace(generation.ledger)
    gradients = generation.dense_gradient()
    samples = (generation.ledger.samples - before.samples) // len(finished)
    dense_epoch = 3 * generation.problem.prunable * len(generation.problem.split("train"))
    for row, one in enumerate(finished):
        cost = Ledger(**one.record.cost)
        cost.train(samples, [generation.problem.prunable], dense_epoch)
        one.record.cost = cost.as_dict()
        if one.trained is not None:
            for layer, name in enumerate(one.trained.mask.space.names):
                size = gradients[name][row].abs().flatten().cpu().numpy()
                one.trained.grown[name] = largest(size, one.trained.mask.survivors[layer])


def largest(size: npt.NDArray[Any], survivors: Indices) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The pruned weights of largest `size`, at most as many as there are survivors: sorted indices, and their sizes."""
    free = np.ones(len(size), dtype=bool)
    free[survivors] = False
    candidates = np.flatnonzero(free)
    number = min(len(survivors), len(candidates))
    order = np.argsort(-size[candidates], kind="stable")[:number]  # ties go to the lower index
    chosen = np.sort(candidates[order])
    return chosen, size[chosen]
