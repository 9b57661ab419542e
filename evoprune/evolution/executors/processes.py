"""Worker processes on one machine. Each holds the problem, sent once; a worker that dies costs the sub-batch it held."""

from __future__ import annotations

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

from evoprune.errors import EvopruneError, InputError
from evoprune.evolution.executors.chunks import Chunk, Chunks, WorkerDied
from evoprune.evolution.executors.cores import VARIABLES, check_numbers, cores, packed
from evoprune.evolution.jobs import Finished, Job
from evoprune.evolution.trainer import Trainer

__all__ = ["ProcessExecutor"]

STARTS = 3
"""How often the workers are started before it is called an error: one may be killed just then."""


class ProcessExecutor:
    """`workers` processes of `threads` threads each; together at most the cores of this machine.

    They are spawned, never forked, when they are first needed, and stay until `close` or the end of this process.
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
        self._sent: bytes = b""

    def plan(self, trainer: Trainer) -> tuple[str, int]:
        return trainer.plan()

    def run(self, trainer: Trainer, chunks: Chunks) -> Generator[list[Finished], None, None]:
        """Keep every worker busy with one sub-batch; see `Executor`."""
        payload = packed(trainer, "the problem")
        flying: dict[Future[list[Finished]], Chunk] = {}
        suspects: deque[Chunk] = deque()
        try:
            while chunks or flying or suspects:
                while suspects and not flying:
                    self._submit(payload, suspects.popleft(), flying, suspects)
                while chunks and not suspects and len(flying) < self.workers:
                    self._submit(payload, chunks.take(), flying, suspects)
                if not flying:
                    continue
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    if future in flying:  # the others leave together with a broken pool
                        yield from self._collect(future, flying, chunks, suspects)
        finally:
            if flying:  # the caller has stopped: nobody waits for these
                self.close()

    def _submit(self, payload: bytes, chunk: Chunk, flying: dict[Future[list[Finished]], Chunk], suspects: deque[Chunk]) -> None:
        try:
            flying[self._start(payload).submit(_train, chunk.jobs)] = chunk
        except BrokenProcessPool:  # a worker died idle, or with another's sub-batch, which `_collect` will see
            suspects.append(chunk)
            if not flying:
                self.close()

    def _collect(
        self, future: Future[list[Finished]], flying: dict[Future[list[Finished]], Chunk], chunks: Chunks, suspects: deque[Chunk]
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
            yield results

    def _start(self, payload: bytes) -> ProcessPoolExecutor:
        """The pool whose workers hold `payload`."""
        if self._pool is not None and payload == self._sent:
            return self._pool
        for _ in range(STARTS):
            self.close()
            with _importable_main(payload):
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.workers, context, initializer=_begin, initargs=(payload, self.threads))
                try:
                    wait(started := [self._pool.submit(os.getpid) for _ in range(self.workers)])
                    started[0].result()
                except BrokenProcessPool:
                    continue
            self._sent = payload
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
def _importable_main(payload: bytes) -> Iterator[None]:
    """Spawned workers run the user's script again, to find its definitions; spare them that where nothing refers to it.

    A script then needs no `if __name__ == "__main__":`.
    """
    main = sys.modules["__main__"]
    found = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    hide = b"__main__" not in payload
    try:
        if hide and "__file__" in found:
            del main.__file__
        if hide:
            main.__spec__ = None
        yield
    finally:
        for name, value in found.items():
            setattr(main, name, value)


# ---- in the worker -----------------------------------------------------------------------------------------------------------

_held: list[Trainer] = []


def _begin(payload: bytes, threads: int) -> None:
    for name in VARIABLES:
        os.environ[name] = str(threads)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    _held[:] = [pickle.loads(payload)]


def _leave_with_parent() -> None:
    """A parent that is killed closes nothing behind it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train(jobs: Sequence[Job]) -> list[Finished]:
    return _held[0].train(jobs)
