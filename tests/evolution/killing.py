"""Searches that are killed with SIGKILL at random moments, run again, and compared with an uninterrupted one.

Each attempt is a forked process that runs a DEAP script on a journal; the parent kills it. Importing torch once, in the
parent, makes an attempt cost what the search costs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from deap import algorithms, tools

import evoprune as ep
from evoprune.evolution.jobs import Finished, Job
from evoprune.evolution.trainer import Trainer

LOOPS = ("eaSimple", "eaMuPlusLambda", "eaMuCommaLambda", "generations")


def search(loop: str, journal: Path, problem: ep.Problem, *, n: int = 6, ngen: int = 4, **options: Any) -> dict[str, Any]:
    """A user's script; what it found, JSON-able."""
    toolbox = ep.make_toolbox(problem, sparsity=0.8, journal=journal, **{"epochs": 2, "chunk": 2, "batch_size": 8, **options})
    random.seed(5)
    hall, stats = tools.HallOfFame(3), ep.statistics()
    population = toolbox.population(n=n)
    if loop == "generations":
        *_, state = ep.generations(population, toolbox, 0.3, 0.5, ngen, mu=n, lambda_=n, halloffame=hall, stats=stats)
        population, log = state.population, state.logbook
    else:
        sizes = {} if loop == "eaSimple" else {"mu": n, "lambda_": n + 2}
        run = getattr(algorithms, loop)
        population, log = run(
            population, toolbox, cxpb=0.3, mutpb=0.5, ngen=ngen, halloffame=hall, stats=stats, verbose=False, **sizes
        )
    ledger = {name: value for name, value in toolbox.map.ledger.as_dict().items() if name != "wall_s"}
    people = [[(one.mask.hash, one.fitness.values) for one in group] for group in (population, hall)]
    return {"population": people[0], "halloffame": people[1], "logbook": list(log), "ledger": ledger, "next": random.random()}


@dataclass
class Campaign:
    """Kills and restarts of one search in `folder`.

    killed: attempts that were still running when the signal came. repeated: finished trainings that were started again.
    """

    loop: str
    problem: ep.Problem
    folder: Path
    options: dict[str, Any]
    killed: int = 0
    cut: int = 0
    repeated: list[str] = field(default_factory=list)

    def whole(self) -> tuple[str, float]:
        """What the uninterrupted search found, and its seconds."""
        self._warm()
        started = time.perf_counter()
        assert self._attempt(self.folder / "whole.jsonl", None) == 0, "the uninterrupted search failed"
        return self._found(self.folder / "whole.jsonl"), time.perf_counter() - started

    def until_done(self, rng: random.Random, seconds: float, kills: int) -> str:
        """Kill and run again, at most `kills` times, then let it finish; what it found in the end."""
        journal = self.folder / "killed.jsonl"
        for _ in range(kills):
            known = set(ids(journal))
            status = self._attempt(journal, rng.uniform(0, seconds))
            self.repeated += sorted(known & set(self._started(journal)))
            self.killed += status != 0
            if status and rng.random() < 0.5 and journal.exists():  # a write that the kill tore
                size = journal.stat().st_size
                os.truncate(journal, size - rng.randint(0, min(size, 400)))
                self.cut += 1
        known = set(ids(journal))
        assert self._attempt(journal, None) == 0, "the resumed search failed"
        self.repeated += sorted(known & set(self._started(journal)))
        return self._found(journal)

    def _warm(self) -> None:
        """Load kernels here, once, on one thread, so that a forked process has them and no pool of threads."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        ep.Population(self.problem, [ep.random_mask(self.problem.space, sparsity=0.8)], horizon=1, batch_size=8).train(1)
        torch.set_num_threads(threads)

    def _attempt(self, journal: Path, kill_after: float | None) -> int:
        """One process; 0 when it finished. kill_after: seconds until SIGKILL."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                with _watched(journal.with_suffix(".started")):
                    found = search(self.loop, journal, self.problem, **self.options)
                journal.with_suffix(".found").write_text(json.dumps(found))
                status = 0
            except BaseException as error:
                journal.with_suffix(".error").write_text(repr(error))
            finally:
                os._exit(status)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        error = journal.with_suffix(".error")
        assert not error.exists(), error.read_text()
        return status

    @staticmethod
    def _found(journal: Path) -> str:
        return journal.with_suffix(".found").read_text()

    @staticmethod
    def _started(journal: Path) -> list[str]:
        path = journal.with_suffix(".started")
        return path.read_text().split() if path.exists() else []


@contextlib.contextmanager
def _watched(path: Path) -> Iterator[None]:
    """Write the id of every training that starts to `path`, at once."""
    train = Trainer.train

    def noted(self: Trainer, jobs: Any) -> list[Finished]:
        job: Job
        for job in jobs:
            file.write(f"{job.key.id}\n".encode())
        return train(self, jobs)

    with io.FileIO(path, "w") as file:
        Trainer.train = noted  # type: ignore[method-assign]
        try:
            yield
        finally:
            Trainer.train = train  # type: ignore[method-assign]


def ids(journal: Path) -> list[str]:
    """The finished evaluations of a journal, in its order."""
    return list(ep.read_journal(journal).get("id", [])) if journal.exists() else []
