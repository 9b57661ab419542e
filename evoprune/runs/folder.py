"""The folder of one run: its files are written atomically, and a finished one answers from disk."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evoprune.errors import DamagedFile, InputError
from evoprune.evidence.samples import opened
from evoprune.files import atomic_write
from evoprune.formats import as_utf8, without_nan, write_csv, write_json
from evoprune.methods.registry import METHODS, Method, versions
from evoprune.problems.problem import Problem
from evoprune.programs import rewritten
from evoprune.runs.arguments import Arguments
from evoprune.runs.logs import log, logging_to, now
from evoprune.runs.results import RESULT, read_result
from evoprune.training.ticket import Ticket

__all__ = [
    "HISTORY",
    "JOURNAL",
    "LOG",
    "TICKET",
    "TRACE",
    "RunFolder",
    "entries",
    "make_folder",
    "open_test",
    "remove_folders",
    "run",
]

TICKET, HISTORY, TRACE, JOURNAL, LOG = "ticket.safetensors", "history.csv", "trace.csv", "journal.jsonl", "log.txt"
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")  # of an atomic write that was killed
STAMP = re.compile(r"arguments ([0-9a-f]{32})$")


def run(
    method: str | Method, problem: Problem, *, out: str | os.PathLike[str] | None = None, test: bool = False, **options: Any
) -> dict[str, Any]:
    """Run a method and keep everything in a folder; a folder that holds the same run already is answered without training.

    method: a registered name or the method. options: sparsity, epochs, seed, the method's own and those of `Training`.
    out: a folder that is absent, empty, or of the same arguments; None takes `runs/<time>-<method>-<hash>`.
    test: open the test split at the end. Returns the content of `result.json` (test values None without `test`).

    Raises `InputError` before any work, and leaves no folder behind, when an argument or the folder cannot be used.
    """
    chosen = METHODS[method] if isinstance(method, str) else method
    arguments = Arguments.of(chosen, problem, options)
    folder = RunFolder(arguments.default_folder() if out is None else Path(out), arguments)
    result = folder.result()
    if result is None:
        with folder.opened():
            result = folder.keep(chosen(problem, **folder.journaled(chosen, arguments.passed)))
    else:
        log.info("%s holds this run already: nothing is trained", folder.path)
    if not test:
        return {**result, "test_score": None, "test_accuracy": None, "test_opened": None}
    return result if opened(result) else folder.test(problem, "run --test")


class RunFolder:
    """The folder of one run. Nothing is touched until `opened`."""

    def __init__(self, path: Path, arguments: Arguments) -> None:
        self.path, self.arguments = path, arguments

    def result(self) -> dict[str, Any] | None:
        """The finished result of these very arguments; None when it is still to be made.

        Raises `InputError` when the folder belongs to something else, `DamagedFile` when its result cannot be read.
        """
        names = entries(self.path)
        if RESULT in names:
            found = read_result(self.path / RESULT)
            if found["arguments"].get("hash") != self.arguments.hash or self._redefined(found) or self._rewritten(found):
                difference = self._difference(found)
                raise InputError(f"{self.path} holds another run ({difference}): choose another folder with --out")
            return {**found, "out": str(self.path)}
        if names and self._stamp() != self.arguments.hash:
            held = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise InputError(f"{self.path} is not a folder of this run (it holds {held}): choose another folder with --out")
        return None

    def _redefined(self, found: Mapping[str, Any]) -> bool:
        """Whether a default has become another one since."""
        held = found["arguments"].get("options", {})
        return any(held[name] != value for name, value in self.arguments.options.items() if name in held)

    def _rewritten(self, found: Mapping[str, Any]) -> str:
        """What a user has written anew since, in words."""
        before, now = found["arguments"], self.arguments.as_dict()
        return rewritten(*({**told.get("versions", {}), **told.get("problem", {}).get("programs", {})} for told in (before, now)))

    def _difference(self, found: Mapping[str, Any]) -> str:
        """What sets the run in the folder apart, in a few words."""
        held = {"method": found.get("method"), **found["arguments"].get("options", {})}
        asked = {"method": self.arguments.method, **self.arguments.options}
        for name in ("model", "data"):
            held[name], asked[name] = found.get(name), self.arguments.problem[name]
        if held["method"] != asked["method"]:
            return f"method {held['method']}, not {asked['method']}"
        common = [name for name in asked if name in held and held[name] != asked[name]]
        differing = [f"{name}={held[name]!r}, not {asked[name]!r}" for name in common]
        if not differing and (former := self._rewritten(found)):
            return f"of {former}"
        return "; ".join(differing[:3]) or "of another model, other data or initial weights, or another version of evoprune"

    def _stamp(self) -> str | None:
        try:
            with open(self.path / LOG, encoding="utf-8", errors="replace") as file:
                found = STAMP.search(file.readline().strip())
        except OSError:
            return None
        return found.group(1) if found else None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the folder, log into it, and remove both again when the arguments turn out to be unusable."""
        fresh, made = not entries(self.path), make_folder(self.path)
        try:
            if fresh:
                atomic_write(self.path / LOG, as_utf8(self._first_lines()).encode())
            with logging_to(self.path / LOG):
                yield
        except InputError:
            if fresh:
                empty_folder(self.path)
            remove_folders(made)
            raise
        except KeyboardInterrupt as stopped:
            stopped.add_note(
                f"log, and journal where there is one, are kept in {self.path}: the same command with --out {self.path} goes on"
            )
            raise

    def journaled(self, method: Method, options: dict[str, Any]) -> dict[str, Any]:
        """`options` with a journal in this folder, where the method keeps one and none was given."""
        return {"journal": self.path / JOURNAL, **options} if "journal" in method.options else options

    def _first_lines(self) -> str:
        made = self.arguments
        first = f"{now()} INFO evoprune {versions()['evoprune']} {made.method} arguments {made.hash}"
        return f"{first}\n{now()} INFO {made.problem['model']} on {made.problem['data']}, {json.dumps(made.options)}\n"

    def keep(self, ticket: Ticket) -> dict[str, Any]:
        """Write the files of a finished ticket, `result.json` last; returns its content."""
        import pandas as pd

        ticket.save(self.path / TICKET)
        write_csv(self.path / HISTORY, ticket.history)
        write_csv(self.path / TRACE, pd.DataFrame(ticket.trace_rows))
        result = self._describe(ticket)
        write_json(self.path / RESULT, result)
        return result

    def _describe(self, ticket: Ticket) -> dict[str, Any]:
        mask, space = ticket.mask, ticket.mask.space
        asked = self.arguments.options["sparsity"]
        problem, classifies = self.arguments.problem, self.arguments.problem["metric"] == "accuracy"
        layers = [
            {"name": name, "shape": list(shape), "prunable": size, "survivors": count}
            for name, shape, size, count in zip(space.names, space.shapes, space.sizes, mask.counts, strict=True)
        ]
        described = {
            "method": self.arguments.method,
            "data": problem["data"],
            "model": problem["model"],
            "seed": self.arguments.options["seed"],
            "sparsity": None if isinstance(asked, list) else asked,  # of a range it is an outcome
            "sparsity_obtained": mask.sparsity,
            "prunable": space.prunable,
            "survivors": mask.count,
            "layers": layers,
            "metric": problem["metric"],
            "val_score": ticket.val_accuracy if classifies else ticket.val_loss,
            "test_score": None,
            "val_accuracy": ticket.val_accuracy if classifies else None,
            "test_accuracy": None,
            "test_opened": None,
            "ledger": ticket.ledger.as_dict(),
            "mask_hash": mask.hash,
            "out": str(self.path),
            "arguments": self.arguments.as_dict(),
        }
        return dict(without_nan(described))

    def test(self, problem: Problem, reason: str) -> dict[str, Any]:
        """Open the test split for the kept ticket, and write the score into `result.json`; returns its content."""
        return open_test(self.path, problem, reason)


def open_test(path: Path, problem: Problem, reason: str) -> dict[str, Any]:
    """Open the test split for the ticket in a folder, and write the score into its `result.json`; returns its content.

    Raises `DamagedFile` when the ticket is gone, or cannot be read.
    """
    if not (path / TICKET).is_file():
        raise DamagedFile(f"{path} has lost its {TICKET}: nothing can be tested, delete its {RESULT} and run again")
    with logging_to(path / LOG):
        try:
            ticket = Ticket.load(path / TICKET, problem=problem)
        except DamagedFile:
            raise DamagedFile(
                f"{path / TICKET} is damaged: nothing can be tested, delete the {RESULT} beside it and run again"
            ) from None
        score = ticket.test(reason)
    result = read_result(path / RESULT)
    result["test_accuracy"], result["test_opened"] = score["accuracy"], reason
    result["test_score"] = score["accuracy"] if result["metric"] == "accuracy" else score["loss"]
    result = {**dict(without_nan(result)), "out": str(path)}
    write_json(path / RESULT, result)
    return result


def entries(path: Path) -> list[str]:
    """Names in a folder, without what a killed atomic write left; none for an absent one. Raises `InputError` for a file."""
    try:
        return sorted(name for name in os.listdir(path) if not LEFTOVER.fullmatch(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be used as a folder ({error.strerror}): choose another one with --out") from None


def make_folder(path: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were missing, innermost first. Raises `InputError`."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remove_folders(missing)
        raise InputError(f"cannot make the folder {path} ({error.strerror}): choose another one with --out") from None
    return missing


def empty_folder(path: Path) -> None:
    """Remove everything in a folder that was empty before this process used it."""
    for child in path.iterdir():
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        else:
            with suppress(OSError):
                child.unlink()


def remove_folders(folders: list[Path]) -> None:
    """Remove those that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
