"""What an executor is, and the one that trains in this process."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from evoprune.errors import InputError
from evoprune.evolution.executors.chunks import Chunks
from evoprune.evolution.jobs import Finished
from evoprune.evolution.trainer import Trainer

__all__ = ["Executor", "Serial", "make_executor"]


@runtime_checkable
class Executor(Protocol):
    """Trains jobs in sub-batches, in any order, anywhere."""

    workers: int

    def plan(self, trainer: Trainer) -> tuple[str, int]:
        """`trainer.plan()`, made where the training will run."""

    def run(self, trainer: Trainer, chunks: Chunks) -> Generator[list[Finished], None, None]:
        """Results of each sub-batch as soon as it is finished, until `chunks` is empty."""

    def close(self) -> None:
        """Let workers go; the executor can be used again."""


class Serial:
    """In this process, one sub-batch after the other."""

    workers = 1

    def plan(self, trainer: Trainer) -> tuple[str, int]:
        return trainer.plan()

    def run(self, trainer: Trainer, chunks: Chunks) -> Generator[list[Finished], None, None]:
        while chunks:
            chunk = chunks.take()
            try:
                results = trainer.train(chunk.jobs)
            except Exception as error:
                yield from chunks.failed(chunk, error)
            else:
                yield results

    def close(self) -> None:
        pass


def make_executor(executor: Any) -> Executor:
    """None: this process; a number: so many worker processes of one thread; an executor: itself."""
    if executor is None:
        return Serial()
    if isinstance(executor, (int, np.integer)) and not isinstance(executor, bool):
        from evoprune.evolution.executors.processes import ProcessExecutor

        return ProcessExecutor(workers=int(executor))
    if isinstance(executor, type) or not isinstance(executor, Executor):
        raise InputError(
            f"executor={executor!r} is not usable: give None, a number of worker processes, a ProcessExecutor or a RayExecutor"
        )
    chosen: Executor = executor
    return chosen
