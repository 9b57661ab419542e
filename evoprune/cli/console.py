"""What the user sees: results on stdout, the log and errors on stderr, one line and an exit code for whatever goes wrong."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO, cast

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from evoprune.errors import EvopruneError, InputError

__all__ = ["errors", "output", "print_table", "reporting", "say_error"]

SENTENCE, ANY = 24, 10_000
"""Columns of the terminal that a sentence needs beside numbers, and more than any table has."""


def output() -> Console:
    """Standard output; wide enough for a table when it is no terminal."""
    return _console(sys.stdout)


def errors() -> Console:
    """Standard error; what it does not take is left unsaid."""
    return _console(cast(TextIO, _Unfailing(sys.stderr)))


def _console(stream: TextIO) -> Console:
    return Console(file=stream, width=None if stream.isatty() else 160, soft_wrap=False, emoji=False)


class _Unfailing:
    """A stream whose terminal may go, whose disk may fill and whose reader may leave: no result depends on what is said there."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:
        return self.stream.encoding

    def isatty(self) -> bool:
        return self.stream.isatty()

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()


def print_table(console: Console, table: Table, names: Sequence[str] = ()) -> None:
    """A table whose last column holds sentences, where `names` are given: without room beside the others they go below it.

    names: what each row's sentence is about. A terminal too narrow for the numbers breaks their lines: no digit is left out.
    """
    width, sentences = console.width, table.columns.pop() if names else None
    console.width = ANY
    needed = Measurement.get(console, console.options, table).maximum
    console.width = max(width, needed)
    if sentences is not None and width - needed >= SENTENCE:
        table.columns.append(sentences)
        sentences = None
    console.print(table, highlight=False)
    console.width = width
    for name, sentence in zip(names, sentences.cells if sentences else ("",) * len(names), strict=True):
        if sentence:
            console.print(f"{name}: {sentence}", markup=False, highlight=False)


@contextmanager
def reporting(verbose: bool = False, *, kept: str = "", level: int = logging.INFO) -> Iterator[Console]:
    """Turn whatever goes wrong into one line and an exit code, and show the log (all of it when `verbose`).

    kept: what an interruption keeps, where it has no note that says so. Gives the console of the log: a bar that moves there
    stays below its lines.
    """
    console = errors()
    handler = _Lines(console, logging.DEBUG if verbose else level)
    logger = logging.getLogger("evoprune")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(handler.level, logging.INFO))
    try:
        yield console
    except InputError as error:
        _fail(console, str(error), 2, verbose)
    except EvopruneError as error:
        _fail(console, str(error), 1, verbose)
    except KeyboardInterrupt as error:
        kept = getattr(error, "__notes__", [kept])[-1]
        say_error(f"interrupted; {kept}" if kept else "interrupted")
        raise SystemExit(130) from None  # typer's Exit(130) is one that nobody has told of
    except (typer.Exit, BrokenPipeError):
        raise
    except Exception as error:
        _fail(console, _unforeseen(error), 1, verbose)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _unforeseen(error: Exception) -> str:
    """A line for an error of none of our kinds: that memory ran out, after all that could be halved, or a bug."""
    from evoprune.shortage import out_of_memory  # with torch, which a wrong word should not have to wait for

    if out_of_memory(error):
        what = str(error).split(". ")[0].strip() or type(error).__name__  # torch goes on with a paragraph
        return f"out of memory ({what}): train fewer networks at a time, or raise the sparsity"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"cannot write {error.filename or 'the output'}: {error.strerror}; free some space and run the same command again"
    return f"{type(error).__name__}: {error} (unexpected; --verbose shows where)"


def _fail(console: Console, message: str, code: int, verbose: bool) -> None:
    if verbose and code == 1:
        console.print(traceback.format_exc(), markup=False, highlight=False)
    say_error(message)
    raise typer.Exit(code)


def say_error(message: str) -> None:
    console = errors()
    console.print("error:", style="bold red", end=" ")
    console.print(" ".join(message.split()), markup=False, highlight=False, soft_wrap=True)


class _Lines(logging.Handler):
    """Each different message once, above the progress bar."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self.console, self.seen = console, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.seen:
            self.seen.add(text)
            self.console.print(
                text, style="yellow" if record.levelno >= logging.WARNING else "dim", markup=False, highlight=False
            )
