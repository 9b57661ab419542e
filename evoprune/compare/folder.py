"""The folder of a comparison: what may go on in it, and what is finished there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evoprune.compare.cells import EPOCHS, Cell, Problems, common_options, own_options
from evoprune.compare.recovery import rebuilt
from evoprune.errors import DamagedFile, InputError
from evoprune.evidence.samples import prunes
from evoprune.formats import as_json, read_json
from evoprune.methods.registry import METHODS
from evoprune.problems.problem import Problem
from evoprune.programs import rewritten
from evoprune.runs import Arguments, RunFolder, read_result
from evoprune.runs.folder import entries, remove_folders
from evoprune.runs.results import RESULT
from evoprune.training.options import Training

__all__ = [
    "COSTS",
    "LOG",
    "RUNS",
    "SETUP",
    "find_folder",
    "finished_runs",
    "merged",
    "missing_cells",
    "run_folder",
    "setup_of",
    "withdraw",
    "written",
]

log = logging.getLogger("evoprune")

FORMAT = 2
SETUP, COSTS, LOG, RUNS = "compare.json", "costs.json", "log.txt", "runs"


def setup_of(
    methods: Sequence[str], problems: Problems, options: Mapping[str, Any], equal_cost: str | float | None
) -> dict[str, Any]:
    """What all runs share, and each method's own options; an option at its default is as good as none."""
    defaults, common = Training(), common_options(options)
    shared = {name: value for name, value in common.items() if name == "epochs" or value != getattr(defaults, name)}
    own = {}
    for name in methods:
        given = own_options(METHODS[name], options)
        usual = as_json(dict(METHODS[name].options))
        own[name] = {key: given[key] for key in given if key not in common and as_json(given[key]) != usual[key]}
    described = {name: problem.with_seed(0).describe() for name, problem in problems.items()}
    setup = {"format": FORMAT, "problems": described, "options": shared, "equal_cost": equal_cost, "methods": own}
    return dict(as_json(setup))


def find_folder(out: str | os.PathLike[str] | None, cells: Sequence[Cell], setup: Mapping[str, Any]) -> Path:
    """Where the comparison lies. Raises `InputError` for a folder that holds something else; touches nothing."""
    if out is None:
        identity = json.dumps([setup, [cell.name for cell in cells]], sort_keys=True).encode()
        hashed = hashlib.blake2b(identity, digest_size=4).hexdigest()
        return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-compare-{hashed}"
    folder = Path(out)
    names = entries(folder)
    if not names:
        return folder
    if SETUP not in names:
        held = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise InputError(f"{folder} is not a folder of a comparison (it holds {held}): choose another one with --out")
    for told, before, asked in _differences(_found(folder, setup), setup):
        words = f"{told}={before!r}, not {asked!r}"
        if told == "programs":
            words = f"of {rewritten(before, asked)}"
        elif told == "fingerprint":
            words = "of another model, other data or initial weights"
        raise InputError(f"{folder} holds another comparison ({words}): choose another folder with --out")
    return folder


def _differences(found: Mapping[str, Any], setup: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, value there and value asked of whatever keeps the two apart; more methods and more problems do not."""
    for name in ("format", "equal_cost"):
        if found.get(name) != setup[name]:
            yield name, found.get(name), setup[name]
    yield from _changed(found.get("options"), setup["options"])
    before = found.get("problems", {})
    if ("" in before) != ("" in setup["problems"]):
        yield "number of problems", "one" if "" in before else "several", "one" if "" in setup["problems"] else "several"
    for part, held in (("problems", before), ("methods", found.get("methods", {}))):
        for name, asked in setup[part].items():
            if name in held:
                yield from _changed(held[name], asked)


def _changed(before: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    held = dict(before or {})
    same = "fingerprint" in held and held["fingerprint"] == asked.get("fingerprint")
    for name in {**asked, **held}:
        if name == "programs" and not rewritten(held.get(name) or {}, asked.get(name) or {}):
            continue
        if held.get(name) != asked.get(name) and not (same and name == "data"):  # a file may lie elsewhere by now
            yield name, held.get(name), asked.get(name)


def merged(folder: Path, setup: Mapping[str, Any]) -> dict[str, Any]:
    """The setup with the methods and problems that the folder holds already."""
    if not (folder / SETUP).is_file():
        return dict(setup)
    before = _found(folder, setup)
    return {**setup, **{part: {**before[part], **setup[part]} for part in ("problems", "methods")}}


def _found(folder: Path, setup: Mapping[str, Any]) -> dict[str, Any]:
    """The setup that the folder holds; where its file is damaged, as the finished runs tell it."""
    try:
        found = read_json(folder / SETUP, lost="what was compared")
        if not all(isinstance(found.get(part), dict) for part in ("problems", "options", "methods")):
            raise DamagedFile(f"{folder / SETUP} is no setup of a comparison")
        found["options"].setdefault("epochs", EPOCHS)
    except DamagedFile:
        log.warning("%s is damaged: it is written anew from the finished runs, of which none is lost", folder / SETUP)
        return rebuilt(((name, result) for name, _, result in _results(folder) if result["method"] in METHODS), setup)
    return found


def missing_cells(folder: Path, problems: Problems, cells: Sequence[Cell]) -> list[Cell]:
    """The runs that are not finished yet. Raises `InputError` for a run of other arguments among them."""
    wanted = {(cell.problem, cell.seed) for cell in cells}
    seeded = {key: problems[key[0]].with_seed(key[1]) for key in wanted}
    return [cell for cell in cells if run_folder(folder, seeded[cell.problem, cell.seed], cell).result() is None]


def run_folder(folder: Path, problem: Problem, cell: Cell) -> RunFolder:
    """Of one cell; `problem` has the cell's seed."""
    return RunFolder(folder / RUNS / cell.name, Arguments.of(METHODS[cell.method], problem, cell.arguments))


def finished_runs(folder: Path, problems: Problems | None = None) -> list[tuple[Cell, dict[str, Any]]]:
    """Every run that is finished in the folder, those of earlier calls included: its cell (without options) and its result.

    problems: those of these alone.
    """
    found = []
    for problem, path, result in _results(folder):
        asked = result["sparsity"] if prunes(result["method"]) else None
        cell = Cell(result["method"], asked, result["seed"], {}, problem)
        if (problems is None or problem in problems) and path == folder / RUNS / cell.name:
            found.append((cell, result))
    return found


def _results(folder: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Name of the problem ("" for the only one), folder and result of every finished run."""
    for path in sorted((folder / RUNS).rglob(RESULT)):
        problem = path.parent.parent.relative_to(folder / RUNS).as_posix()
        yield "" if problem == "." else problem, path.parent, read_result(path)


def written(folder: Path) -> tuple[int, int] | None:
    """Which writing of the setup lies there: every call that joins the folder writes its own."""
    try:
        found = (folder / SETUP).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def withdraw(folder: Path, made: list[Path], setup: tuple[int, int] | None) -> None:
    """A refused comparison leaves nothing behind, unless a run is finished, or another call has joined since `setup`."""
    if any((folder / RUNS).rglob(RESULT)) or written(folder) != setup:
        return
    shutil.rmtree(folder / RUNS, ignore_errors=True)
    for name in (SETUP, COSTS, LOG):
        (folder / name).unlink(missing_ok=True)
    remove_folders(made)
