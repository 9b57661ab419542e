"""The command line: `evoprune run`, `compare`, `check`, `report`, `list`. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 the run failed, 2 wrong arguments, 130 interrupted. What is slow to import is imported when it is needed.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from evoprune.cli import run, compare, check, report, lists  # isort: skip  # noqa: F401  the order is that of the help
from evoprune.cli.application import app
from evoprune.cli.console import say_error

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script. A usage error is one line, as every other wrong input."""
    _prepare_streams()
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="evoprune", standalone_mode=False)
        if code == 130:  # before a command began
            say_error("interrupted")
    except SystemExit as ended:
        code = ended.code
    except OSError as error:  # of a line printed outside `reporting`: the version, the help
        say_error(_unwritten(error))
        code = 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # what click raises for wrong usage, wherever typer keeps click
            raise
        message = " ".join(error.format_message().split()).rstrip(".")
        if message:  # it is empty after the help that a bare `evoprune` shows
            path = getattr(getattr(error, "ctx", None), "command_path", "evoprune")
            say_error(f"{message}: {path} --help shows the usage{_advice(error)}")
        code = 2
    sys.exit(_flushed(code or 0))


def _prepare_streams() -> None:
    """What a terminal cannot show becomes a question mark; without a standard output nothing is begun."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  until the end
    if sys.stdout is None:
        say_error("standard output is closed: send it somewhere, as in > result.txt")
        sys.exit(1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _unwritten(error: OSError) -> str:
    return f"cannot write to standard output: {error.strerror}"


def _flushed(code: int) -> int:
    """The exit code, once all that was printed is written; an error of that is said unless another was, or nobody reads on.

    What standard error does not take changes no code.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        if not code and not isinstance(error, BrokenPipeError):
            say_error(_unwritten(error))
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  or Python tries again at its end
        code = code or 1
    try:
        sys.stderr.flush()
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  or Python tries again, and exits with a code of its own
    return code


def _advice(error: Exception) -> str:
    """What was meant, probably."""
    if type(error).__name__ == "NoSuchOption":
        name = getattr(error, "option_name", "--key").lstrip("-").replace("-", "_")
        return f"; what a method or training takes is given as --set {name}=VALUE"
    return "; a method runs by evoprune run METHOD" if "No such command" in str(error) else ""
