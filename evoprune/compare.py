"""Many runs side by side: method x sparsity x seed, resumable, judged once on the test split, as tables and a picture."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoprune import seeds as streams
from evoprune.errors import EvopruneError, InputError, TrainingFailed, UnknownName
from evoprune.files import atomic_write
from evoprune.masks.space import check_sparsity
from evoprune.methods.registry import METHODS, Method
from evoprune.problems.problem import Problem
from evoprune.runs import (
    Arguments,
    RunFolder,
    empty_folder,
    entries,
    logging_to,
    make_folder,
    read_json,
    remove_folders,
    run,
    write_csv,
    write_json,
)
from evoprune.training.options import Training

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cell", "Comparison", "compare"]

FORMAT = 1
SETUP, RESULTS, SUMMARY, LOG, RUNS = "compare.json", "results.csv", "summary.csv", "log.txt", "runs"
COLUMNS = (
    *("method", "sparsity", "seed", "sparsity_obtained", "survivors", "prunable", "data", "model", "epochs", "metric"),
    *("val_score", "test_score", "val_accuracy", "test_accuracy", "samples", "survivor_updates", "dense_equivalent_epochs"),
    *("evaluation_samples", "configurations", "device", "engine", "mask_hash", "folder"),
)

Progress = Callable[[int, int], object]
log = logging.getLogger("evoprune")


@dataclass(frozen=True)
class Cell:
    """One run of a comparison. sparsity: None where the method prunes nothing or leaves it open."""

    method: str
    sparsity: float | None
    seed: int
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of its folder, and for people."""
        asked = "" if self.sparsity is None else f"-{self.sparsity!r}"
        return f"{self.method}{asked}-seed{self.seed}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What `run` is called with."""
        asked = {} if self.sparsity is None else {"sparsity": self.sparsity}
        return {**self.options, **asked, "seed": self.seed}


@dataclass(frozen=True)
class Comparison:
    """What `compare` gives. results: one row a run. summary: one row a method and sparsity. failures: why runs are missing."""

    folder: Path
    results: pd.DataFrame
    summary: pd.DataFrame
    failures: dict[str, str]
    files: tuple[Path, ...]


def compare(
    methods: Sequence[str],
    problem: Problem,
    *,
    sparsities: Sequence[float] = (0.95,),
    seeds: int | Sequence[int] = 5,
    out: str | os.PathLike[str] | None = None,
    test: bool = True,
    workers: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Run every method at every sparsity and seed, and write `results.csv`, `summary.csv` and a picture into `out`.

    problem: model and data; each seed draws its own initial weights. seeds: how many (0, 1, …), or which. out: a folder that
    is absent, empty, or of a comparison with the same problem and options, whose finished runs are kept; None takes
    `runs/<time>-compare-<hash>`. test: open the test split once, when all runs are there. workers: processes (1: none but
    this one); None takes cores // threads. threads: of each worker; the same number gives the same results for any workers.
    progress: called with (finished, all) runs. options: epochs and the like; each goes to the methods that know it.

    Raises `InputError` before any work where it can, and as soon as a run refuses its arguments; `TrainingFailed` when no run
    came to an end. A run that fails otherwise is reported in `failures`, and the others are kept.
    """
    cells = _cells(methods, problem, sparsities, _seeds(seeds), options)
    workers = _workers(workers, threads, len(cells))
    setup = _setup(methods, problem, options)
    folder = _folder(out, cells, setup)
    missing = _missing(folder, problem, cells)
    fresh, made = not entries(folder), make_folder(folder)
    try:
        write_json(folder / SETUP, setup)
        with logging_to(folder / LOG), _pool(min(workers, max(len(missing), 1)), threads) as pool:
            failures = _train(pool, folder, problem, missing, len(cells), progress, threads)
            finished = [cell for cell in cells if cell.name not in failures]
            if not finished:
                raise TrainingFailed(f"none of {len(cells)} runs came to an end; {next(iter(failures.values()))}")
            if test:
                _open_test(pool, folder, problem, finished, threads)
            return _report(folder, problem, finished, failures, test=test)
    except InputError:
        if fresh:
            _withdraw(folder, made)
        raise


# ---- what is to be run -------------------------------------------------------------------------------------------


def _cells(
    names: Sequence[str], problem: Problem, sparsities: Sequence[float], seeds: Sequence[int], options: Mapping[str, Any]
) -> list[Cell]:
    """Every run, seed by seed, so that whatever is finished can be compared."""
    methods = [METHODS[name] for name in names]
    if not methods or len(set(names)) != len(methods):
        raise InputError(f"methods {', '.join(names) or '(none)'} cannot be compared: name at least one, and each once")
    asked_for = [float(check_sparsity(value)) for value in sparsities]
    if not asked_for or len(set(asked_for)) != len(asked_for):
        raise InputError(f"sparsities {list(sparsities)} are not usable: give at least one, and each once")
    own = {method.name: _own_options(method, methods, options) for method in methods}
    cells = []
    for seed in seeds:
        for method in methods:
            asked = Arguments.of(method, problem, {**own[method.name], "seed": seed}).options["sparsity"]
            fixed = not method.sparse or asked is None
            cells += [Cell(method.name, value, seed, own[method.name]) for value in ((None,) if fixed else asked_for)]
    return cells


def _own_options(method: Method, methods: Sequence[Method], options: Mapping[str, Any]) -> dict[str, Any]:
    common = {"epochs", *Training.__dataclass_fields__}
    known = common.union(*(each.options for each in methods))
    for name in options:
        if name not in known:
            raise UnknownName("option of these methods", name, known)
    return {name: value for name, value in options.items() if name in common or name in method.options}


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, int) and (isinstance(seeds, bool) or seeds < 1):
        raise InputError(f"seeds={seeds!r} is not usable: give how many, at least 1")
    chosen = [streams.check_seed(seed) for seed in (range(seeds) if isinstance(seeds, int) else seeds)]
    if not chosen or len(set(chosen)) != len(chosen):
        raise InputError(f"seeds {chosen} are not usable: give at least one, and each once")
    return chosen


def _workers(workers: int | None, threads: int, cells: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name, value in (("workers", 1 if workers is None else workers), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r} is not usable: give a whole number >= 1")
    most = max(1, cores // threads)
    if workers is not None and workers * threads > max(cores, threads):
        raise InputError(f"{workers} workers x {threads} threads do not fit on {cores} cores: give at most {most} workers")
    return min(workers or most, cells)


def _setup(methods: Sequence[str], problem: Problem, options: Mapping[str, Any]) -> dict[str, Any]:
    """What all runs share, for recognising the folder; an option at its default is as good as none."""
    described = problem.with_seed(0).describe()
    chosen = {name: value for name, value in options.items() if name == "epochs" or not _default(methods, name, value)}
    return {"format": FORMAT, "problem": described, "options": json.loads(json.dumps(chosen, default=repr))}


def _default(methods: Sequence[str], name: str, value: object) -> bool:
    """Whether `value` changes nothing for any of the methods."""
    own = [METHODS[method].options[name] for method in methods if name in METHODS[method].options]
    return all(value == default for default in own or [getattr(Training(), name)])


def _folder(out: str | os.PathLike[str] | None, cells: Sequence[Cell], setup: Mapping[str, Any]) -> Path:
    """Where the comparison lies. Raises `InputError` for a folder that holds something else; touches nothing."""
    if out is None:
        identity = json.dumps([setup, [cell.name for cell in cells]], sort_keys=True).encode()
        hashed = hashlib.blake2b(identity, digest_size=4).hexdigest()
        return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-compare-{hashed}"
    folder = Path(out)
    names = entries(folder)
    if not names:
        return folder
    if SETUP not in names:
        held = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise InputError(f"{folder} is not a folder of a comparison (it holds {held}): choose another one with --out")
    found = read_json(folder / SETUP, lost="what was compared")
    for part in ("problem", "options"):
        before = dict(found.get(part) or {})
        for name in {**setup[part], **before}:
            if before.get(name) != setup[part].get(name):
                difference = f"{name}={before.get(name)!r}, not {setup[part].get(name)!r}"
                raise InputError(f"{folder} holds another comparison ({difference}): choose another folder with --out")
    return folder


def _missing(folder: Path, problem: Problem, cells: Sequence[Cell]) -> list[Cell]:
    """The runs that are not finished yet. Raises `InputError` for a run of other arguments among them."""
    seeded = {seed: problem.with_seed(seed) for seed in {cell.seed for cell in cells}}
    return [cell for cell in cells if _run_folder(folder, seeded[cell.seed], cell).result() is None]


def _run_folder(folder: Path, problem: Problem, cell: Cell) -> RunFolder:
    return RunFolder(folder / RUNS / cell.name, Arguments.of(METHODS[cell.method], problem, cell.arguments))


def _withdraw(folder: Path, made: list[Path]) -> None:
    """A refused comparison leaves nothing behind, unless runs of more than one seed are finished.

    Every method and sparsity has its turn in the first seed, so arguments are refused there; what goes wrong later is not
    worth a night's runs.
    """
    finished = {path.parent.name.rpartition("-seed")[2] for path in (folder / RUNS).glob("*/result.json")}
    if len(finished) > 1:
        return
    empty_folder(folder)
    remove_folders(made)


# ---- running it --------------------------------------------------------------------------------------------------


def _train(
    pool: Executor | None,
    folder: Path,
    problem: Problem,
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
    for cell, error in _each(pool, _train_cell, missing, folder, problem, threads):
        if isinstance(error, InputError):
            raise error
        if error is not None:
            failures[cell.name] = f"{cell.name}: {_said(error)}"
            log.error("%s", failures[cell.name])
        done += 1
        if progress:
            progress(done, total)
    return {cell.name: failures[cell.name] for cell in missing if cell.name in failures}


def _open_test(pool: Executor | None, folder: Path, problem: Problem, finished: Sequence[Cell], threads: int) -> None:
    """Open the test split, for every ticket that has not been judged yet."""
    unjudged = [cell for cell in finished if _result(folder, cell)["test_score"] is None]
    if unjudged:
        log.info("test split of %s opened once, for %d tickets", problem.data_name, len(unjudged))
    for _, error in _each(pool, _test_cell, unjudged, folder, problem, threads):
        if error is not None:
            raise error


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, EvopruneError) else f"{type(error).__name__}: {error}"


Work = Callable[[Path, Problem | bytes, Cell, int], Exception | None]


def _each(
    pool: Executor | None, work: Work, cells: Sequence[Cell], folder: Path, problem: Problem, threads: int
) -> Iterator[tuple[Cell, Exception | None]]:
    """Each cell with the error of its work, as they finish; in this process when there is no pool."""
    if pool is None:
        for cell in cells:
            yield cell, work(folder, problem, cell, threads)
        return
    packed = _packed(problem)
    futures: dict[Future[Exception | None], Cell] = {pool.submit(work, folder, packed, cell, threads): cell for cell in cells}
    for future in as_completed(futures):
        try:
            yield futures[future], future.result()
        except BrokenProcessPool:
            yield futures[future], EvopruneError("a worker process was killed (out of memory?): run again with fewer --workers")


def _packed(problem: Problem) -> bytes:
    """For another process. Whole, since torch's own way there keeps a file open for every tensor."""
    try:
        return pickle.dumps(problem)
    except Exception as error:
        raise InputError(
            f"{problem!r} cannot be sent to other processes ({error}): define its model at the top of a module, or use workers=1"
        ) from error


def _seeded(problem: Problem | bytes, seed: int) -> Problem:
    whole: Problem = pickle.loads(problem) if isinstance(problem, bytes) else problem
    return whole.with_seed(seed)


def _train_cell(folder: Path, problem: Problem | bytes, cell: Cell, threads: int) -> Exception | None:
    try:
        with _torch_threads(threads):
            run(cell.method, _seeded(problem, cell.seed), out=folder / RUNS / cell.name, **cell.arguments)
    except Exception as error:
        return _portable(error)
    return None


def _test_cell(folder: Path, problem: Problem | bytes, cell: Cell, threads: int) -> Exception | None:
    try:
        with _torch_threads(threads):
            seeded = _seeded(problem, cell.seed)
            _run_folder(folder, seeded, cell).test(seeded, "compare, after the last run")
    except Exception as error:
        return _portable(error)
    return None


def _portable(error: Exception) -> Exception:
    """The error without what may not survive the way between processes."""
    if isinstance(error, InputError):
        return InputError(str(error))
    return EvopruneError(_said(error))


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[Executor | None]:
    """Spawned processes that keep to `threads` threads and end with this one, however it ends; None for a single worker."""
    if workers == 1:
        yield None
        return
    alive, held = Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(alive,))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    with _environment({name: str(threads) for name in names}):
        try:
            yield pool
        except BaseException:
            held.close()  # running workers see the end of the pipe, and stop at once
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            held.close()
            alive.close()


def _start_worker(alive: Connection) -> None:
    """Leave Ctrl-C to the parent, and end when the parent lets go of the pipe or is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        with suppress(EOFError, OSError):
            alive.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Processes started in this block inherit `values`."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# ---- what came out -----------------------------------------------------------------------------------------------


def _result(folder: Path, cell: Cell) -> dict[str, Any]:
    return read_json(folder / RUNS / cell.name / "result.json", lost="the result")


def _report(folder: Path, problem: Problem, finished: Sequence[Cell], failures: dict[str, str], *, test: bool) -> Comparison:
    """Write tables and picture; they depend on the finished runs alone, not on when or where they ran."""
    import pandas as pd

    from evoprune.evidence.tables import summarise

    rows = []
    for cell in sorted(finished, key=_order(finished)):
        result = _result(folder, cell)
        row = {**result, **result["ledger"], "epochs": result["arguments"]["options"]["epochs"], "folder": f"{RUNS}/{cell.name}"}
        if not test:
            row |= {"test_score": None, "test_accuracy": None}
        rows.append({name: row[name] for name in COLUMNS})
    results = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = ["sparsity", "val_score", "test_score", "val_accuracy", "test_accuracy"]
    results[numbers] = results[numbers].astype(float)
    summary = summarise(results)
    write_csv(folder / RESULTS, results)
    write_csv(folder / SUMMARY, summary)
    files = (folder / RESULTS, folder / SUMMARY, *_draw(folder, results))
    return Comparison(folder, results, summary, failures, files)


def _order(cells: Sequence[Cell]) -> Callable[[Cell], tuple[int, float, int]]:
    methods = list(dict.fromkeys(cell.method for cell in cells))
    return lambda cell: (methods.index(cell.method), -1.0 if cell.sparsity is None else cell.sparsity, cell.seed)


def _draw(folder: Path, results: pd.DataFrame) -> list[Path]:
    """Score against sparsity, as PNG and SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    from evoprune.evidence.plots import plot_accuracy

    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    plot_accuracy(results, figure.subplots())
    paths = []
    for kind in ("png", "svg"):
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "evoprune"}):
            figure.savefig(content, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
        paths.append(atomic_write(folder / f"{results['metric'].iloc[0]}.{kind}", content.getvalue()))
    return paths
