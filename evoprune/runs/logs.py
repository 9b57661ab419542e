"""The log of a run: what the package says meanwhile, appended to a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evoprune.errors import EvopruneError, InputError

__all__ = ["log", "logging_to", "now"]

log = logging.getLogger("evoprune")


class _LogFile(logging.FileHandler):
    """A full disk costs lines of the log, never the run that they are about."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Nothing, where logging would print a traceback for every line."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what the package logs to a file. Raises `InputError` when it cannot be opened."""
    try:
        handler = _LogFile(path, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}): choose another folder with --out") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    before = log.level
    log.addHandler(handler)
    if not log.isEnabledFor(logging.INFO):
        log.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        handler.handle(_stopped(error))
        raise
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
        handler.close()


def _stopped(error: BaseException) -> logging.LogRecord:
    """For the file alone: whoever catches the error tells the user."""
    expected = isinstance(error, (EvopruneError, KeyboardInterrupt))
    trace = None if expected else (type(error), error, error.__traceback__)
    message = f"stopped: {type(error).__name__} {error}"
    return log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), trace)


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
