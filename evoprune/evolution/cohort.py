"""A tournament as the fitness of a generation: individuals compete, and the fitness tells how far each came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from evoprune import seeds
from evoprune.criteria import Criterion
from evoprune.errors import TrainingFailed
from evoprune.evolution.jobs import Finished, Job, Record
from evoprune.evolution.tournament import ETA, race
from evoprune.evolution.trainer import Trainer, cost_of, finite, history_of, repetition_seed

__all__ = ["CohortTrainer"]


@dataclass(frozen=True, eq=False)
class CohortTrainer(Trainer):
    """Fitness (rung reached, score with larger = better), comparable within one generation only.

    rungs, criteria, eta: of the tournament; the last rung is the last epoch.
    """

    rungs: tuple[int, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    eta: int = ETA

    whole: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        return ("rung", "score")

    @property
    def weights(self) -> tuple[float, ...]:
        return (1.0, 1.0)

    def parts(self) -> dict[str, Any]:
        race = {"rungs": list(self.rungs), "criteria": [one.name for one in self.criteria], "eta": self.eta}
        return {**super().parts(), "tournament": race}

    def fitness(self, record: Record) -> tuple[float, ...]:
        rung, score = (record.values[name] for name in self.names)
        return (-np.inf, -np.inf) if record.failed or rung is None or score is None else (rung, score)

    def train(self, jobs: Sequence[Job]) -> list[Finished]:
        """One result a job, in their order."""
        seed = repetition_seed(self.seed, jobs[0].key.repetition)
        with seeds.isolated():
            generation = self._population([job.mask for job in jobs], None, seed)
            error, reached = None, dict.fromkeys(range(len(jobs)), (self.rungs[0], -np.inf))
            try:
                reached = race(generation, self.rungs, self.criteria, eta=self.eta, unfinished=True)
            except TrainingFailed as failure:
                error = str(failure)
            return [self._record(generation, row, job, reached[row], error) for row, job in enumerate(jobs)]

    def _record(self, generation: Any, row: int, job: Job, result: tuple[int, float], error: str | None) -> Finished:
        rung, score = result
        failed, values = score == -np.inf, {"rung": float(rung), "score": finite(score)}
        cost, history = cost_of(generation, job.mask.count, rung) + generation.start_costs[row], history_of(generation, row)
        failure = (error or "training turned NaN") if failed else None
        return Finished(Record(job.key, values, job.mask.count, failed, failure, history, rung, cost.as_dict()))
