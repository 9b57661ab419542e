"""Bars that move while something trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["epochs_shown", "runs_shown"]


class _Epochs(logging.Handler):
    """Moves a progress bar by what `evoprune.progress` says."""

    def __init__(self, progress: Progress, task: TaskID, method: str) -> None:
        super().__init__(logging.DEBUG)
        self.progress, self.task_id, self.method = progress, task, method

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and len(record.args) == 3:
            epoch, horizon, networks = record.args
            several = f", {networks} networks" if networks != 1 else ""
            self.progress.update(self.task_id, completed=epoch, total=horizon, description=f"{self.method}{several}")  # type: ignore[arg-type]


@contextmanager
def epochs_shown(method: str, console: Console) -> Iterator[None]:
    """A progress bar of the epochs in training, on a terminal. console: that of the log."""
    logger = logging.getLogger("evoprune.progress")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("epoch"), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True) as progress:
        handler = _Epochs(progress, progress.add_task(method, total=None), method)
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before


@contextmanager
def runs_shown(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of finished runs with the time left; a line now and then where there is no terminal.

    console: that of the log. Gives the function that moves it.
    """
    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    lines = _Lines(console)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task("runs", total=None)

        def move(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if not console.is_terminal:
                lines.move(done, total)

        yield move


class _Lines:
    """How far a comparison is and how long it will take, at most once in `EVERY` seconds."""

    EVERY = 30.0

    def __init__(self, console: Console) -> None:
        self.console, self.first, self.said = console, 0, time.monotonic()
        self.started: float | None = None

    def move(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.started is None:
            self.started, self.first, self.said = now, done, now
        if now - self.said >= self.EVERY and self.first < done < total:
            left = (now - self.started) / (done - self.first) * (total - done)
            told = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
            self.console.print(f"{done} of {total} runs, about {told} left", style="dim", highlight=False)
            self.said = now
