"""From a folder of runs to one HTML page that people read."""

from __future__ import annotations

import os
import re
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoprune.compare.cells import EPOCHS
from evoprune.compare.folder import RUNS, SETUP
from evoprune.errors import DamagedFile, InputError
from evoprune.evidence.report import Material, agree, check_command, command, made_by_hand, page, settings
from evoprune.evidence.samples import opened, prunes
from evoprune.files import atomic_write
from evoprune.formats import as_utf8, read_json
from evoprune.runs import load_runs, read_result
from evoprune.runs.folder import HISTORY, LOG, TRACE
from evoprune.runs.results import RESULT

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["report"]

PAGE = "report.html"
SEED = re.compile(r"-seed(\d+)$")
CHECK, CHECKED = "check.json", "check.csv"


def report(folder: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None, title: str | None = None) -> Path:
    """Write one self-contained HTML page about all finished runs in a folder and below; returns its path.

    out: where to write it; None takes `report.html` in the folder. Checks of the runs (`check.json`) are shown where there are.
    What is missing, unfinished, damaged or not a number is said on the page. Raises `InputError` for a folder without runs.
    """
    root = Path(folder)
    missing: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = load_runs(root)
    missing += [f"{str(warning.message).replace(f'{root}{os.sep}', '')}." for warning in caught]
    if not len(runs):
        told = " ".join([f"{root} holds no finished run: give the --out of evoprune run or compare.", *missing])
        raise InputError(told.rstrip("."))
    folders = [Path(path) for path in runs["out"]]
    finished = {path.resolve() for path in folders}
    unfinished = [path.parent for path in sorted(root.rglob(LOG)) if not (path.parent / RESULT).is_file()]
    unfinished = [path for path in unfinished if not (path / SETUP).is_file() and path.resolve() not in finished]
    missing += [f"{path.relative_to(root)} is not finished: run the same command to go on." for path in unfinished]
    results = [_renamed(path, read_result(path / RESULT)) for path in folders]
    runs["data"] = [result["data"] for result in results]
    checks, broken = _checks(root, folders, results)
    commands = _commands(root, folders, results)
    commands += [check_command(str(root / name), told) for name, told, _ in checks]
    commands += [f"evoprune report {shlex.quote(str(root))}"]
    histories = [_epochs(path / HISTORY, root, broken) for path in folders]
    searches = _searches(root, folders, results, broken)
    html = page(Material(runs, results, histories, checks, commands, [*missing, *broken], title, _pairs(runs), searches))
    return atomic_write(root / PAGE if out is None else Path(out), as_utf8(html).encode())


def _pairs(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """The combination against each of its parts, where they are there."""
    methods = set(runs["method"])
    return [("combined", part) for part in ("kstarts", "dissipating") if {"combined", part} <= methods]


def _searches(
    root: Path, folders: list[Path], results: list[dict[str, Any]], broken: list[str]
) -> list[tuple[int, pd.DataFrame]]:
    """The trace of the first run of each method, on each problem, that trained several networks."""
    found: dict[tuple[str, ...], tuple[int, pd.DataFrame]] = {}
    for place, (path, result) in enumerate(zip(folders, results, strict=True)):
        of = tuple(str(result.get(name)) for name in ("model", "data", "method"))
        if of not in found and (result["ledger"].get("configurations") or 1) > 1:
            trace = _epochs(path / TRACE, root, broken)
            if trace is not None and "individual" in trace:
                found[of] = (place, trace)
    return list(found.values())


def _epochs(path: Path, root: Path, broken: list[str]) -> pd.DataFrame | None:
    """A history or a trace; None where there is none, and where it is no table of scores over epochs, which goes to `broken`."""
    if not path.is_file():
        return None
    found = _table(path)
    if found is None or not _has_scores(found):
        broken.append(f"{path.relative_to(root)} cannot be read: the figures are without it.")
        return None
    return found


def _has_scores(found: pd.DataFrame) -> bool:
    from pandas.api.types import is_numeric_dtype

    scores = [name for name in ("val_accuracy", "val_loss") if name in found]
    numbers = all(is_numeric_dtype(found[name]) for name in ("epoch", *scores) if name in found)
    return "epoch" in found and bool(scores) and (numbers or not len(found))


def _table(path: Path) -> pd.DataFrame | None:
    import pandas as pd

    try:
        return pd.read_csv(path)
    except (OSError, ValueError):
        return None


def _checks(
    root: Path, folders: list[Path], results: list[dict[str, Any]]
) -> tuple[list[tuple[str, dict[str, Any], pd.DataFrame]], list[str]]:
    """Name, content and frame of every check, and what could not be read."""
    found, broken = [], []
    for path, result in zip(folders, results, strict=True):
        if (path / CHECK).is_file():
            frame = _table(path / CHECKED)
            try:
                told = read_json(path / CHECK, lost="the check")
            except DamagedFile:
                told = {}
            if frame is None or not _is_check(told, frame):
                broken.append(f"The check of {path.relative_to(root)} cannot be read: run evoprune check again.")
            else:
                run = {name: result.get(name) for name in ("model", "data")}  # as the tables name them
                found.append((str(path.relative_to(root)), {**told, **run}, frame))
    return found, broken


def _is_check(told: dict[str, Any], frame: pd.DataFrame) -> bool:
    if not {"control", "seed", "score", "metric", "failed"} <= set(frame):
        return False
    controls = {"ticket", "fresh_counts", "fresh_random"} <= set(frame["control"])
    return controls and "controls" in told and isinstance(told.get("options", {}), dict)


def _commands(root: Path, folders: list[Path], results: list[dict[str, Any]]) -> list[str]:
    """Those of each comparison, and one for each run outside of them; a comment where no command line says what was run."""
    commands: dict[str, None] = {}
    for path, result in zip(folders, results, strict=True):
        comparison = _comparison(path)
        inside = [own for where, own in zip(folders, results, strict=True) if comparison and comparison in where.parents]
        by_hand = "; ".join(dict.fromkeys(filter(None, map(made_by_hand, inside or [result]))))
        by_hand = by_hand or (_seeds_of_choice(comparison, inside) or _pairs_of_choice(comparison, inside) if comparison else "")
        if by_hand:
            commands[f"# {comparison or path}: from Python ({by_hand}), which no command line says; call it again as then"] = None
        elif comparison is None:
            commands[f"{command(result)} --out {shlex.quote(str(path))}"] = None
        else:
            commands |= dict.fromkeys(_compared(comparison, together) for together in _alike(inside))
    return list(commands)


def _comparison(path: Path) -> Path | None:
    """The folder of the comparison that a run belongs to."""
    return next((parent for parent in path.parents if (parent / SETUP).is_file()), None)


def _setup(comparison: Path) -> dict[str, Any]:
    """What was compared; parts that cannot be read are empty."""
    try:
        found = read_json(comparison / SETUP, lost="what was compared")
    except DamagedFile:
        found = {}
    parts = {name: found.get(name) for name in ("problems", "options")}
    return {**found, **{name: part if isinstance(part, dict) else {} for name, part in parts.items()}}


def _seeds_of_choice(comparison: Path, results: list[dict[str, Any]]) -> str:
    """The seeds, where they are not 0, 1, …: those that failed have a folder all the same."""
    named = [SEED.search(path.name) for path in (comparison / RUNS).rglob("*-seed*") if path.is_dir()]
    asked = {int(found[1]) for found in named if found}
    seeds = sorted({int(result["seed"]) for result in results})
    return f"seeds {', '.join(map(str, seeds))}" if set(range(seeds[-1])) - asked else ""


def _pairs_of_choice(comparison: Path, results: list[dict[str, Any]]) -> str:
    """Models and data sets, where not every model was asked for with every data set."""
    asked = [one for one in _setup(comparison)["problems"].values() if isinstance(one, dict)]
    asked = asked or [result["arguments"].get("problem", {}) for result in results]
    pairs = dict.fromkeys((str(one.get("model")), str(one.get("data"))) for one in asked)
    models, data = (dict.fromkeys(pair[part] for pair in pairs) for part in (0, 1))
    return ", ".join(" on ".join(pair) for pair in pairs) if len(pairs) < len(models) * len(data) else ""


def _renamed(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result of a run with its data set called as the comparison calls it now: a file may have moved since."""
    comparison = _comparison(path)
    if comparison is None:
        return result
    problems = _setup(comparison)["problems"]
    name = path.parent.relative_to(comparison / RUNS).as_posix() if comparison / RUNS in path.parents else "."
    held = problems.get("" if name == "." else name)
    data = held.get("data") if isinstance(held, dict) else None
    if data is None or data == result["data"]:
        return result
    arguments = result["arguments"]
    return {**result, "data": data, "arguments": {**arguments, "problem": {**arguments.get("problem", {}), "data": data}}}


def _alike(results: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The runs of a comparison in parts that one command can make: what is set counts for every method that knows the option."""
    parts: list[list[dict[str, Any]]] = []
    for method in dict.fromkeys(str(result["method"]) for result in results):
        own = [result for result in results if result["method"] == method]
        for part in parts:
            if agree([(str(one["method"]), one["arguments"].get("options", {})) for one in [*part, *own]]):
                part += own
                break
        else:
            parts.append(own)
    return parts


def _compared(folder: Path, results: list[dict[str, Any]]) -> str:
    methods = list(dict.fromkeys(str(result["method"]) for result in results))
    options = [(str(result["method"]), result["arguments"].get("options", {})) for result in results]
    asked = sorted({own["sparsity"] for method, own in options if own.get("sparsity") is not None and prunes(method)})
    seeds = sorted({int(result["seed"]) for result in results})
    problems = [result["arguments"].get("problem", {}) for result in results]
    data, models = (",".join(dict.fromkeys(str(one.get(name)) for one in problems)) for name in ("data", "model"))
    target, epochs = _usual(folder, options[0][1].get("epochs"))
    parts = ["evoprune", "compare", *methods, "--data", data, "--model", models]
    parts += ["--sparsity", ",".join(map(repr, asked))] if asked else []
    parts += ["--seeds", str(seeds[-1] + 1), "--epochs", str(epochs)]
    parts += [] if target is None else ["--cost-of", str(target)]
    common: dict[tuple[str, str], None] = {}
    for method, own in options:
        told = settings(method, own)
        common |= dict.fromkeys(zip(told[::2], told[1::2], strict=True))
    parts += [part for pair in common for part in pair]
    parts += ["--test" if any(opened(result) for result in results) else "--no-test"]
    return shlex.join([*parts, "--out", str(folder)])


def _usual(folder: Path, epochs: Any) -> tuple[Any, Any]:
    """The target of equal cost, None where there is none, and the epochs that a comparison was given.

    epochs: of a run, where nothing else tells; at equal cost each method has its own.
    """
    setup = _setup(folder)
    target, given = setup.get("equal_cost"), setup["options"].get("epochs")
    return target, given if given is not None else EPOCHS if target is not None else epochs
