"""Worker processes on one machine. Each holds the problem, sent once; a worker that dies costs the sub-batch it held."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

from evoprune.errors import EvopruneError, InputError
from evoprune.evolution.executors.chunks import Chunk, Chunks, WorkerDied, travelling
from evoprune.evolution.executors.cores import MAIN, VARIABLES, check_numbers, cores, packed
from evoprune.evolution.jobs import Finished, Job
from evoprune.evolution.trainer import Trainer

__all__ = ["ProcessExecutor"]

STARTS = 3
"""How often the workers are started before it is called an error: one may be killed just then."""
HELD = 4
"""Problems that a worker holds: toolboxes that take turns on one executor send each of theirs once."""


@dataclass(frozen=True, eq=False)
class _Parcel:
    """A trainer as it travels, and the name by which workers know it again."""

    data: bytes
    digest: str

    @classmethod
    def of(cls, trainer: Trainer) -> _Parcel:
        data = packed(trainer, "the problem")
        return cls(data, hashlib.sha256(data).hexdigest())


Flying = dict[Future[list[Finished] | None], Chunk]


class ProcessExecutor:
    """`workers` processes of `threads` threads each; together at most the cores of this machine.

    They are spawned, never forked, when they are first needed, and stay until `close` or the end of this process. Toolboxes may
    share them, in turn; the workers hold the problems of the last four.
    Raises `InputError` when workers × threads exceeds the cores.
    """

    def __init__(self, workers: int = 2, *, threads: int = 1) -> None:
        check_numbers(workers=workers, threads=threads)
        if workers * threads > cores():
            raise InputError(
                f"{workers} workers of {threads} threads need {workers * threads} cores, there are {cores()}: lower one of them"
            )
        self.workers, self.threads = workers, threads
        self._pool: ProcessPoolExecutor | None = None
        self._has_main = False

    def plan(self, trainer: Trainer) -> tuple[str, int]:
        return trainer.plan()

    def run(self, trainer: Trainer, chunks: Chunks) -> Generator[list[Finished], None, None]:
        """Keep every worker busy with one sub-batch; see `Executor`."""
        parcel = _Parcel.of(trainer)
        flying: Flying = {}
        suspects: deque[Chunk] = deque()
        try:
            while chunks or flying or suspects:
                while suspects and not flying:
                    self._submit(parcel, suspects.popleft(), flying, suspects)
                while chunks and not suspects and len(flying) < self.workers:
                    self._submit(parcel, chunks.take(), flying, suspects)
                if not flying:
                    continue
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    if future in flying:  # the others leave together with a broken pool
                        yield from self._collect(parcel, future, flying, chunks, suspects)
        finally:
            if flying:  # the caller has stopped: nobody waits for these
                self.close()

    def _submit(self, parcel: _Parcel, chunk: Chunk, flying: Flying, suspects: deque[Chunk], *, whole: bool = False) -> None:
        """Give a sub-batch to a worker; `whole` with the problem, which it may not hold."""
        try:
            flying[self._start(parcel).submit(_train, parcel.digest, parcel.data if whole else None, chunk.jobs)] = chunk
        except BrokenProcessPool:  # a worker died idle, or with another's sub-batch, which `_collect` will see
            suspects.append(chunk)
            if not flying:
                self.close()

    def _collect(
        self, parcel: _Parcel, future: Future[list[Finished] | None], flying: Flying, chunks: Chunks, suspects: deque[Chunk]
    ) -> Iterator[list[Finished]]:
        chunk = flying.pop(future)
        try:
            results = future.result()
        except BrokenProcessPool:
            self.close()
            if flying:  # whose worker died is not known: each is tried alone, and only who fails alone is to blame
                suspects.extend([chunk, *flying.values()])
                flying.clear()
            else:
                yield from chunks.failed(chunk, WorkerDied("a worker process died (killed, or out of memory)"))
        except Exception as error:
            yield from chunks.failed(chunk, error)
        else:
            if results is None:  # only workers know what they hold: one may have been started in between
                self._submit(parcel, chunk, flying, suspects, whole=True)
            else:
                yield results

    def _start(self, parcel: _Parcel) -> ProcessPoolExecutor:
        """The pool, whose workers hold or can take `parcel`."""
        needs_main = MAIN in parcel.data
        if self._pool is not None and (self._has_main or not needs_main):
            return self._pool
        for _ in range(STARTS):
            self.close()
            with _importable_main(needs_main):
                context, begin = multiprocessing.get_context("spawn"), (parcel.digest, parcel.data, self.threads)
                self._pool = ProcessPoolExecutor(self.workers, context, initializer=_begin, initargs=begin)
                try:
                    wait(started := [self._pool.submit(os.getpid) for _ in range(self.workers)])
                    started[0].result()
                except BrokenProcessPool:
                    continue
            self._has_main = needs_main
            return self._pool
        self.close()
        raise EvopruneError(
            "the worker processes cannot start (their message is above): put what the script does under "
            "`if __name__ == '__main__':`, and what they need at the top level of a module"
        )

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            workers = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
            self._pool = None

    def __repr__(self) -> str:
        return f"ProcessExecutor(workers={self.workers}, threads={self.threads})"


@contextmanager
def _importable_main(needed: bool) -> Iterator[None]:
    """Spawned workers run the user's script again, to find its definitions; spare them that where it is not needed.

    A script then needs no `if __name__ == "__main__":`.
    """
    main = sys.modules["__main__"]
    found = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        if not needed and "__file__" in found:
            del main.__file__
        if not needed:
            main.__spec__ = None
        yield
    finally:
        for name, value in found.items():
            setattr(main, name, value)


# ---- in the worker -----------------------------------------------------------------------------------------------------------

_held: dict[str, Trainer] = {}
"""What this worker holds by digest; the last one used is the last."""


def _begin(digest: str, payload: bytes, threads: int) -> None:
    for name in VARIABLES:
        os.environ[name] = str(threads)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    _held[digest] = pickle.loads(payload)


def _leave_with_parent() -> None:
    """A parent that is killed closes nothing behind it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train(digest: str, payload: bytes | None, jobs: Sequence[Job]) -> list[Finished] | None:
    """Results of the jobs; None where this worker does not hold the problem and it was not sent along."""
    if digest not in _held and payload is None:
        return None
    try:
        return _trainer(digest, payload).train(jobs)
    except Exception as error:
        if (plain := travelling(error)) is error:
            raise
        raise plain from error


def _trainer(digest: str, payload: bytes | None) -> Trainer:
    """The trainer of that digest, which becomes the last to be forgotten."""
    found = _held.pop(digest, None)
    if found is None:
        while len(_held) >= HELD:  # first, since both may not fit
            del _held[next(iter(_held))]
        assert payload is not None
        found = pickle.loads(payload)
    _held[digest] = found
    return found
