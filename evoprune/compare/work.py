"""The work of a comparison, cell by cell, here or in other processes: train, find costs, open the test split."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from evoprune.compare.cells import Cell, Problems
from evoprune.compare.folder import RUNS, finished_runs
from evoprune.compare.workers import torch_threads
from evoprune.errors import EvopruneError, InputError
from evoprune.evidence.samples import opened
from evoprune.evolution.executors.cores import packed
from evoprune.methods.registry import METHODS
from evoprune.problems.problem import Problem
from evoprune.runs import open_test, run

__all__ = ["Progress", "WorkerKilled", "each", "open_tests", "price", "said", "train"]

Progress = Callable[[int, int], object]
Work = Callable[[Path, Problem, Cell], Any]

log = logging.getLogger("evoprune")


class WorkerKilled(EvopruneError):
    """A worker process was lost, and the pool with it."""

    def __init__(self) -> None:
        super().__init__("a worker process was killed (out of memory?): run again with fewer --workers")


def train(
    executor: Executor | None,
    folder: Path,
    problems: Problems,
    missing: Sequence[Cell],
    total: int,
    progress: Progress | None,
    threads: int,
) -> dict[str, str]:
    """Train what is missing; returns why runs failed, by name. Raises `InputError` as soon as one refuses its arguments."""
    failures: dict[str, str] = {}
    done = total - len(missing)
    if progress:
        progress(done, total)
    for cell, found in each(executor, _train_cell, missing, folder, problems, threads):
        if isinstance(found, InputError):
            raise InputError(f"{cell.name}: {found}")
        if isinstance(found, Exception):
            failures[cell.name] = f"{cell.name}: {said(found)}"
            log.error("%s", failures[cell.name])
        done += 1
        if progress:
            progress(done, total)
    return {cell.name: failures[cell.name] for cell in missing if cell.name in failures}


def open_tests(executor: Executor | None, folder: Path, problems: Problems, threads: int) -> None:
    """Open the test split for every finished run of the folder that has not been judged yet."""
    unjudged = [cell for cell, result in finished_runs(folder, problems) if not opened(result)]
    if unjudged:
        data = ", ".join(dict.fromkeys(problem.data_name for problem in problems.values()))
        log.info("test split of %s opened once, for %d tickets", data, len(unjudged))
    left = []
    for cell, found in each(executor, _test_cell, unjudged, folder, problems, threads):
        if isinstance(found, WorkerKilled):
            left.append(cell)
        elif isinstance(found, Exception):
            raise found
    for _, found in each(None, _test_cell, left, folder, problems, threads):  # a pool that lost a worker takes no more work
        if isinstance(found, Exception):
            raise found


def price(
    executor: Executor | None, problems: Problems, cells: Sequence[Cell], threads: int
) -> Iterator[tuple[Cell, float | InputError]]:
    """Each cell with what it costs in epochs of the dense network, found by training it, or why its arguments are refused.

    Raises whatever else goes wrong.
    """
    for cell, found in each(executor, _price_cell, cells, Path(), problems, threads):
        if isinstance(found, Exception) and not isinstance(found, InputError):
            raise found
        yield cell, found if isinstance(found, InputError) else float(found)


def each(
    executor: Executor | None, work: Work, cells: Sequence[Cell], folder: Path, problems: Problems, threads: int
) -> Iterator[tuple[Cell, Any]]:
    """Each cell with what its work gives, or the error it raised, as they finish; in this process when there is no executor."""
    if executor is None:
        for cell in cells:
            yield cell, _done(work, folder, problems[cell.problem], cell, threads)
        return
    sent = {name: packed(problem, repr(problem)) for name, problem in problems.items()}
    futures: dict[Future[Any], Cell] = {}
    for cell in cells:
        try:
            futures[executor.submit(_done, work, folder, sent[cell.problem], cell, threads)] = cell
        except BrokenProcessPool:
            yield cell, WorkerKilled()
    for future in as_completed(futures):
        try:
            yield futures[future], future.result()
        except BrokenProcessPool:
            yield futures[future], WorkerKilled()


def said(error: BaseException) -> str:
    """One line about an error."""
    return str(error) if isinstance(error, EvopruneError) else f"{type(error).__name__}: {error}"


# ---- in the process that works --------------------------------------------------------------------------------------


def _done(work: Work, folder: Path, problem: Problem | bytes, cell: Cell, threads: int) -> Any:
    """What the work gives, or the error without what may not survive the way between processes."""
    whole: Problem = pickle.loads(problem) if isinstance(problem, bytes) else problem
    try:
        with torch_threads(threads):
            return work(folder, whole.with_seed(cell.seed), cell)
    except InputError as error:
        return InputError(str(error))
    except Exception as error:
        return EvopruneError(said(error))


def _train_cell(folder: Path, problem: Problem, cell: Cell) -> None:
    run(cell.method, problem, out=folder / RUNS / cell.name, **cell.arguments)


def _test_cell(folder: Path, problem: Problem, cell: Cell) -> None:
    open_test(folder / RUNS / cell.name, problem, "compare, after the last run")


def _price_cell(folder: Path, problem: Problem, cell: Cell) -> float:
    return float(METHODS[cell.method](problem, **cell.arguments).ledger.dense_equivalent_epochs)
