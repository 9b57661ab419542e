"""The run folder: one run's arguments, result, ticket, history and log; written atomically, answered from disk when asked again.

A folder holds `result.json` (last, so that its presence means finished), `ticket.safetensors`, `history.csv`, `trace.csv`,
`journal.jsonl` where a method keeps one, and `log.txt`, whose first line names the arguments.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune.criteria import CRITERIA
from evoprune.errors import DamagedFile, EvopruneError, InputError
from evoprune.files import atomic_write
from evoprune.masks.allocation import allocate
from evoprune.methods.dissipation import RULES
from evoprune.methods.registry import ASIDE, METHODS, Method, versions
from evoprune.problems.problem import Problem
from evoprune.training.engines import ENGINES
from evoprune.training.options import Training
from evoprune.training.ticket import Ticket

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Arguments", "RunFolder", "as_json", "default_sparsity", "load_runs", "logging_to", "open_test", "run"]

FORMAT = 1
SPARSITY = 0.95
"""What is asked when nobody asks."""

RESULT, TICKET, HISTORY, TRACE, JOURNAL, LOG = (
    *("result.json", "ticket.safetensors", "history.csv", "trace.csv", "journal.jsonl", "log.txt"),
)
NUMBERS = ("sparsity", "val_score", "test_score", "val_accuracy", "test_accuracy")
"""Columns of a result that may be without a value."""
NEEDED = ("method", "seed", "metric", "val_score", "test_score", "ledger", "arguments")
MAYBE = (int, float, type(None))
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("method", "metric", "data", "model", "arguments.hash", "ledger.device", "ledger.engine"), str),
    **dict.fromkeys(("ledger", "arguments", "arguments.options", "arguments.problem", "arguments.versions"), dict),
    **dict.fromkeys((*NUMBERS, "sparsity_obtained"), MAYBE),
    **dict.fromkeys(("seed", "prunable", "survivors", "ledger.samples"), int),
    **{"layers": list, "ledger.wall_s": MAYBE, "ledger.dense_equivalent_epochs": MAYBE},
}
"""What parts of a `result.json` are, where they are there."""
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")  # of an atomic write that was killed
STAMP = re.compile(r"arguments ([0-9a-f]{32})$")

log = logging.getLogger("evoprune")


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
        return {**result, "test_score": None, "test_accuracy": None}
    return result if result["test_score"] is not None else folder.test(problem, "run --test")


# ---- what decides a run ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arguments:
    """Everything that decides a run: equal arguments give equal tickets.

    options: every option by name, defaults included, JSON-able; its "sparsity" is a list of two where a range is asked, and None
    where the sparsity is an outcome.
    chosen: those that are not at their default. passed: what the method is called with. problem: `Problem.describe()`.
    """

    method: str
    options: dict[str, Any]
    chosen: dict[str, Any]
    passed: dict[str, Any]
    problem: dict[str, Any]

    @classmethod
    def of(cls, method: Method, problem: Problem, options: Mapping[str, Any]) -> Arguments:
        """Check the options and fill in the defaults; numpy's numbers are taken as Python's. Raises `InputError`."""
        options = {name: _native(value, _annotation(method, name)) for name, value in options.items()}
        method.check(options)
        defaults = {name: p.default for name, p in method.__signature__.parameters.items() if p.default is not p.empty}
        defaults = {**Training().as_dict(), **defaults}
        every = {**defaults, **options}
        given = options.get("sparsity")
        every["sparsity"] = default_sparsity(method, every) if given is None else _plain(given)
        _check_values(problem, every)
        passed = {name: value for name, value in options.items() if name != "sparsity"}
        if every["sparsity"] is not None:
            passed["sparsity"] = every["sparsity"] if given is None else given
        plain, usual = as_json({name: every[name] for name in every if name not in ASIDE}), as_json(defaults)
        common = ("sparsity", "epochs", "seed")
        chosen = {name: value for name, value in plain.items() if name in common or value != usual[name]}
        return cls(method.name, plain, chosen, passed, problem.describe())

    @property
    def hash(self) -> str:
        """32 hex digits. Versions that differ in the patch alone share them, and so do those before and after a new option."""
        version = ".".join(versions()["evoprune"].split(".")[:2])
        identity = [FORMAT, version, self.method, self.chosen, self.problem["fingerprint"]]
        return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()

    def default_folder(self) -> Path:
        """`runs/<time>-<method>-<hash>`."""
        return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{self.method}-{self.hash[:8]}"

    def as_dict(self) -> dict[str, Any]:
        """For `result.json`."""
        return {"format": FORMAT, "hash": self.hash, "options": self.options, "problem": self.problem, "versions": versions()}


def as_json(value: Any) -> Any:
    """What JSON gives back of a value: a tuple as a list, what it does not know as text."""
    return json.loads(json.dumps(value, default=repr))


def _native(value: Any, annotation: str) -> Any:
    """numpy's numbers and arrays as Python's, and a whole number as a float where one is meant: 1 is spelt 1.0 then."""
    native = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    return float(native) if type(native) is int and annotation in ("float", "float | None") else native


def _annotation(method: Method, name: str) -> str:
    """As written in the signature, or in `Training`."""
    parameter = method.__signature__.parameters.get(name)
    if parameter is not None:
        return parameter.annotation if isinstance(parameter.annotation, str) else getattr(parameter.annotation, "__name__", "")
    return str(Training.__annotations__.get(name, ""))


def _check_values(problem: Problem, options: Mapping[str, Any]) -> None:
    """Refuse before any work what a method would refuse at its first use."""
    for name, known in (("criterion", CRITERIA), ("rule", RULES), ("engine", ENGINES)):
        asked = options.get(name)
        for value in [asked] if isinstance(asked, str) else asked or []:
            if value != "auto":
                known[value]
    Training(device=options["device"]).resolved_device()
    if "allocation" in options:
        for one in _bounds(options["sparsity"]):
            allocate(problem.space, one, options["allocation"])


def _plain(sparsity: Any) -> float | list[float]:
    """A number; the lowest and the highest where a range is asked."""
    return [float(one) for one in sparsity] if isinstance(sparsity, (tuple, list)) else float(sparsity)


def _bounds(sparsity: float | list[float] | None) -> list[float]:
    """What is asked as a list: one number, both ends of a range, nothing where the sparsity is an outcome."""
    return sparsity if isinstance(sparsity, list) else [] if sparsity is None else [sparsity]


def default_sparsity(method: Method, options: Mapping[str, Any]) -> float | list[float] | None:
    """What is asked where nobody asks: 0 of a method that prunes nothing, None where the options make it an outcome."""
    if not method.sparse:
        return 0.0
    outcome = options.get("rule") in RULES and not RULES[options["rule"]].counts
    given = options.get("sparsity")
    return None if outcome else SPARSITY if given is None else _plain(given)


# ---- the folder --------------------------------------------------------------------------------------------------


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
            if found["arguments"].get("hash") != self.arguments.hash or self._redefined(found):
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
        return "; ".join(differing[:3]) or "of other data, initial weights or version of evoprune"

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
                atomic_write(self.path / LOG, self._first_lines().encode())
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
        first = f"{_now()} INFO evoprune {versions()['evoprune']} {made.method} arguments {made.hash}"
        return f"{first}\n{_now()} INFO {made.problem['model']} on {made.problem['data']}, {json.dumps(made.options)}\n"

    def keep(self, ticket: Ticket) -> dict[str, Any]:
        """Write the files of a finished ticket, `result.json` last; returns its content."""
        ticket.save(self.path / TICKET)
        write_csv(self.path / HISTORY, ticket.history)
        write_csv(self.path / TRACE, _frame(ticket.trace_rows))
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
            "ledger": ticket.ledger.as_dict(),
            "mask_hash": mask.hash,
            "out": str(self.path),
            "arguments": self.arguments.as_dict(),
        }
        return dict(_finite(described))

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
    result["test_accuracy"] = score["accuracy"]
    result["test_score"] = score["accuracy"] if result["metric"] == "accuracy" else score["loss"]
    result = {**dict(_finite(result)), "out": str(path)}
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
        handler = _LogFile(path, encoding="utf-8")
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


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


# ---- reading back ------------------------------------------------------------------------------------------------


def load_runs(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """All finished runs in `folder` and below as a data frame, one row a run, ordered by path.

    Columns: those of `result.json` (layers left out), the ledger's entries, one column an option (epochs, k, …), `out` (where
    the run lies now). A damaged or foreign `result.json` is left out with a warning that names it.
    Raises `InputError` when there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: give the --out of a run or a comparison, or a folder above")
    rows, damaged = [], []
    for path in sorted(root.rglob(RESULT)):
        try:
            rows.append(_row(read_result(path), path.parent))
        except DamagedFile as error:
            damaged.append(str(error))
    if damaged:
        warnings.warn(f"{len(damaged)} of {len(damaged) + len(rows)} runs left out: {'; '.join(damaged)}", stacklevel=2)
    frame = _frame(rows)
    return frame.astype({name: float for name in NUMBERS if name in frame})


def read_result(path: Path) -> dict[str, Any]:
    """The content of a `result.json`. Raises `DamagedFile` when it is none."""
    found = read_json(path, lost="the result")
    if not all(name in found for name in NEEDED):
        raise DamagedFile(f"{path} is no result of evoprune: move it elsewhere")
    parts = {**found, **{f"arguments.{name}": value for name, value in _mapping(found["arguments"]).items()}}
    parts |= {f"ledger.{name}": value for name, value in _mapping(found["ledger"]).items()}
    for name, kinds in KINDS.items():
        if name in parts and (not isinstance(parts[name], kinds) or isinstance(parts[name], bool)):
            wrong = f"{name} is {parts[name]!r}"
            raise DamagedFile(f"{path} is damaged ({wrong[:80]}): the result cannot be read, delete this file and run again")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def read_json(path: Path, *, lost: str) -> dict[str, Any]:
    """The mapping in a JSON file. Raises `DamagedFile` when there is none to be read."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise DamagedFile(f"cannot read {path} ({error.strerror or error}): check its permissions") from None
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged ({error}): {lost} cannot be read, delete this file and run again") from None
    if not isinstance(found, dict):
        raise DamagedFile(f"{path} holds no JSON object: {lost} cannot be read, delete this file and run again")
    return found


def _row(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    row = {name: value for name, value in result.items() if not isinstance(value, (dict, list))}
    row |= {"out": str(folder), **result["ledger"]}
    options = result["arguments"].get("options", {})
    return row | {name: value for name, value in options.items() if name not in row}


# ---- writing -----------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Atomically; without NaN, which JSON does not have."""
    atomic_write(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Atomically, with the same bytes on every platform."""
    text = io.StringIO()
    frame.to_csv(text, index=False, lineterminator="\n")
    atomic_write(path, text.getvalue().encode())


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
