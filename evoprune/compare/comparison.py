"""A comparison from its cells to its tables; stopped at any time, the same call goes on and gives the same."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from evoprune.compare.cells import EPOCHS, cells_of, check_seeds, named_problems
from evoprune.compare.costs import Costs, check_target, equalised
from evoprune.compare.folder import LOG, SETUP, find_folder, finished_runs, merged, missing_cells, setup_of, withdraw, written
from evoprune.compare.outcome import Comparison, write_outcome
from evoprune.compare.work import Progress, open_tests, price, train
from evoprune.compare.workers import check_workers, fitting, pool
from evoprune.errors import InputError, TrainingFailed
from evoprune.evolution.executors.cores import tied_to_session
from evoprune.formats import write_json
from evoprune.problems.problem import Problem
from evoprune.runs import logging_to
from evoprune.runs.folder import entries, make_folder
from evoprune.words import counted

__all__ = ["compare"]

log = logging.getLogger("evoprune")


def compare(
    methods: Sequence[str],
    problem: Problem | Sequence[Problem],
    *,
    sparsities: Sequence[float] = (0.95,),
    seeds: int | Sequence[int] = 5,
    out: str | os.PathLike[str] | None = None,
    test: bool = True,
    equal_cost: str | float | None = None,
    workers: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Run every method at every sparsity and seed, and write `results.csv`, `summary.csv`, `pivot.csv` and a picture into `out`.

    problem: model and data, or several; each seed draws its own initial weights. seeds: how many (0, 1, …), or which. out: a
    folder that is absent, empty, or of a comparison with the same options, whose finished runs are kept and tabled too; None
    takes `runs/<time>-compare-<hash>`. test: open the test split once, when all runs are there.

    equal_cost: stretch or shorten the training of the network that each pruning method returns so that ledgers agree, to
    "dearest" (what the dearest method costs at the given epochs, sparsity by sparsity), to what a named method costs, or to so
    many epochs of the dense network. A search that costs more than that by itself keeps as few epochs as it takes; the table
    says by how much costs differ. What methods cost is found with the first seed, and kept in `costs.json`.

    workers: processes (1: none but this one); None takes cores // threads, fewer where memory is short, and 1 where the problem
    refers to what a notebook defines, which other processes cannot import. threads: of each worker; the same number gives the
    same results for any workers. progress: called with (finished, all) runs. options: epochs (10 unless given) and the like;
    each goes to the methods that know it.

    Raises `InputError` before any work where it can, and as soon as a run refuses its arguments (finished runs are kept);
    `TrainingFailed` when no run came to an end. A run that fails otherwise is reported in `failures`, and the others are kept.
    """
    options.setdefault("epochs", EPOCHS)
    problems = named_problems(problem)
    cells = cells_of(methods, problems, sparsities, check_seeds(seeds), options)
    target = check_target(equal_cost, methods)
    most = check_workers(workers, threads, len(cells))
    if workers is None and most > 1 and any(tied_to_session(one) for one in problems.values()):
        log.warning("1 worker in place of %d: the problem refers to what a notebook or a prompt defines", most)
        most = 1
    setup = setup_of(methods, problems, options, target)
    folder = find_folder(out, cells, setup)
    if target is None:
        missing_cells(folder, problems, cells)  # refuses before anything is made
    fresh, made = not entries(folder), make_folder(folder)
    trained, mine = False, None
    try:
        write_json(folder / SETUP, merged(folder, setup))
        mine = written(folder)
        with logging_to(folder / LOG), pool(fitting(most, problems, cells), threads) as executor:
            if target is not None:
                costs = Costs(folder, lambda these: price(executor, problems, these, threads))
                cells = equalised(cells, options["epochs"], target, costs)
            missing = missing_cells(folder, problems, cells)
            failures = train(executor, folder, problems, missing, len(cells), progress, threads)
            trained = True
            if not finished_runs(folder, problems):
                raise TrainingFailed(f"none of {counted(len(cells), 'run')} came to an end; {next(iter(failures.values()))}")
            if test:
                open_tests(executor, folder, problems, threads)
            return write_outcome(folder, problems, cells, failures, test=test)
    except InputError:
        if fresh and not trained:  # what goes wrong with tables or the test split costs no run
            withdraw(folder, made, mine)
        raise
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"finished runs are kept in {folder}: run the same command with --out {folder} to go on")
        raise
