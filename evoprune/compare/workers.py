"""Processes that share the cells: as many as fit on the cores and in memory, each with its own number of threads."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any

from evoprune.compare.cells import Cell, Problems
from evoprune.errors import EvopruneError, InputError
from evoprune.evolution.executors.cores import VARIABLES, check_numbers, cores
from evoprune.methods.registry import METHODS
from evoprune.training.memory import available_memory

__all__ = ["check_workers", "fitting", "pool", "torch_threads"]

LIBRARIES = 600 * 2**20
"""Bytes that a process holds before it has loaded anything: the libraries, their compiled kernels."""
A_COPY, A_SURVIVOR, A_GRADIENT = 40, 100, 40
"""Bytes a prunable weight takes, as `benchmarks/memory.py` measures them: the initial and the trained weights of problem and
ticket with the draw of a mask; each time it trains (value, gradient, moments, index, order, the kernels' layout); and each time
its gradient is taken though it is pruned (dense weight, gradient, rank)."""

THREADS = 64
"""As many may be asked of fewer cores, slowly, since a run's numbers belong to its number of threads."""

log = logging.getLogger("evoprune")


def check_workers(workers: int | None, threads: int, cells: int) -> int:
    """How many processes, at most one a cell; None takes cores // threads. Raises `InputError` for more than the cores carry."""
    check_numbers(workers=1 if workers is None else workers, threads=threads)
    if threads > max(THREADS, 4 * cores()):
        raise InputError(f"threads={threads} is not usable: {cores()} cores are here, give at most that many")
    most = max(1, cores() // threads)
    if workers is not None and workers * threads > max(cores(), threads):
        raise InputError(f"{workers} workers x {threads} threads do not fit on {cores()} cores: give at most {most} workers")
    return min(workers or most, cells)


def fitting(workers: int, problems: Problems, cells: Sequence[Cell]) -> int:
    """At most `workers`, as many as the free memory holds; says so when they are fewer."""
    free = available_memory()
    if workers == 1 or free is None or not cells:
        return workers
    size = max(need(problems, cell) for cell in cells)
    fit = max(1, min(workers, int(0.9 * free // size)))
    if fit < workers:
        log.warning("%d workers in place of %d: each may take %.1f GB, and %.1f are free", fit, workers, size / 1e9, free / 1e9)
    return fit


def need(problems: Problems, cell: Cell) -> int:
    """About how many bytes a process takes that trains the cell: libraries, data, and what its method holds at once."""
    problem = problems[cell.problem]
    data = sum(len(problem.split(name)) for name in ("train", "validation"))
    sample = 4
    for length in problem.input_shape:
        sample *= length
    held = METHODS[cell.method].holding(1.0 if cell.sparsity is None else 1 - cell.sparsity, cell.options)
    a_weight = A_COPY + A_SURVIVOR * held.weights + A_GRADIENT * held.gradients
    return LIBRARIES + 2 * data * sample + int(a_weight * problem.prunable)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch keeps to `threads` threads in this block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Pool(ProcessPoolExecutor):
    """Its processes, which a submission starts, never see Ctrl-C: they begin with the signal blocked; here it only waits."""

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        if not hasattr(signal, "pthread_sigmask"):
            return super().submit(*arguments, **options)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(*arguments, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def pool(workers: int, threads: int) -> Iterator[Executor | None]:
    """Spawned processes that keep to `threads` threads and end with this one, however it ends; None for a single worker.

    Raises `EvopruneError` when they cannot start.
    """
    if workers == 1:
        yield None
        return
    alive, held = Pipe(duplex=False)
    executor = _Pool(workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(alive,))
    with _environment({name: str(threads) for name in VARIABLES}):
        try:
            _check_start(executor)
            yield executor
        except BaseException:
            held.close()  # running workers see the end of the pipe, and stop at once
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
            held.close()
            alive.close()


def _check_start(executor: Executor) -> None:
    """Spawned processes run the user's script again, to find its definitions; one that does all its work again ends them."""
    try:
        executor.submit(os.getpid).result()
    except BrokenProcessPool:
        raise EvopruneError(
            "the worker processes cannot start (their message is above): put what the script does under "
            "`if __name__ == '__main__':`, or give workers=1"
        ) from None


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
