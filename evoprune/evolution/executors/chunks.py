"""The sub-batches still to be trained: taken one by one, halved where memory or a culprit demands it, retried, given up."""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from evoprune.errors import EvopruneError
from evoprune.evolution.jobs import Finished, Job
from evoprune.shortage import out_of_memory
from evoprune.training.memory import release_memory

__all__ = ["Chunk", "Chunks", "WorkerDied", "curable", "travelling"]

log = logging.getLogger("evoprune")


class WorkerDied(EvopruneError):
    """A worker process, actor or node was lost with the sub-batch it held."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Jobs that train together; `attempts`: how often they failed alone."""

    jobs: tuple[Job, ...]
    attempts: int = 0


class Chunks:
    """A queue of sub-batches of at most `size` jobs, each of one repetition.

    retries: how often a job that fails alone is tried again before it is marked failed. whole: the jobs compete with each
    other, so they are never split; when they keep failing the error is raised.
    """

    def __init__(
        self, jobs: Sequence[Job], size: int, *, objectives: Sequence[str], retries: int = 2, whole: bool = False
    ) -> None:
        self.size, self.objectives, self.retries, self.whole = max(1, size), objectives, retries, whole
        if whole:
            self.size = len(jobs)
        self.errors: list[BaseException] = []
        self._waiting: deque[Chunk] = deque()
        for _, same in groupby(sorted(jobs, key=_repetition), key=_repetition):
            group = list(same)
            self._waiting += [Chunk(tuple(group[start : start + self.size])) for start in range(0, len(group), self.size)]

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Chunk:
        """The next sub-batch, cut to the size that memory has turned out to allow."""
        chunk = self._waiting.popleft()
        if len(chunk.jobs) > self.size:
            self._waiting.appendleft(Chunk(chunk.jobs[self.size :], chunk.attempts))
            chunk = Chunk(chunk.jobs[: self.size], chunk.attempts)
        return chunk

    def again(self, chunk: Chunk) -> None:
        """Put a sub-batch back that was lost through no fault of its own."""
        self._waiting.appendleft(chunk)

    def failed(self, chunk: Chunk, error: BaseException) -> Iterator[list[Finished]]:
        """Queue the sub-batch again, in halves or alone; yields what is given up. Raises an error that a retry cannot cure."""
        if not curable(error) or (self.whole and chunk.attempts >= self.retries):
            raise error
        error.__traceback__ = None  # its frames hold the failed population
        memory, count = out_of_memory(error), len(chunk.jobs)
        log.warning("training %d networks failed (%s: %s): trying again", count, type(error).__name__, _line(error))
        if memory:
            release_memory()
        if memory and not self.whole:
            self.size = max(1, min(self.size, (count + 1) // 2))
        if count > 1 and not self.whole:
            self._waiting.extendleft([Chunk(chunk.jobs[count // 2 :]), Chunk(chunk.jobs[: count // 2])])
        elif chunk.attempts < self.retries:
            self._waiting.appendleft(Chunk(chunk.jobs, chunk.attempts + 1))
        else:
            self.errors.append(error)
            yield [Finished.failure(chunk.jobs[0], self.objectives, error)]


def curable(error: BaseException) -> bool:
    """Whether trying again may help: memory, the machine, a lost worker; not a mistake in a program or an argument."""
    if isinstance(error, WorkerDied) or out_of_memory(error):
        return True
    if isinstance(error, (EvopruneError, NotImplementedError, RecursionError)):
        return False
    return isinstance(error, (RuntimeError, OSError))


def _repetition(job: Job) -> int:
    return job.key.repetition


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def travelling(error: Exception) -> Exception:
    """`error`, or where it does not survive a pickle, one that says the same and is as curable.

    An exception that cannot be unpickled would look like a worker that died.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = MemoryError if out_of_memory(error) else RuntimeError if curable(error) else EvopruneError
        return kind(f"{type(error).__name__}: {error}")
    return error
