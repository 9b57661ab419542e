"""Results read back: one as a mapping, those of a folder as a data frame."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoprune.errors import DamagedFile, InputError
from evoprune.formats import read_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RESULT", "load_runs", "read_result"]

RESULT = "result.json"
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


def load_runs(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """All finished runs in `folder` and below as a data frame, one row a run, ordered by path.

    Columns: those of `result.json` (layers left out), the ledger's entries, one column an option (epochs, k, …), `out` (where
    the run lies now). A damaged or foreign `result.json` is left out with a warning that names it.
    Raises `InputError` when there is no such folder.
    """
    import pandas as pd

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
    least = [name for name in (*NEEDED, *NUMBERS, "out") if name not in ("ledger", "arguments")]
    frame = pd.DataFrame(rows, columns=None if rows else list(dict.fromkeys(least)))
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


def _row(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    row = {name: value for name, value in result.items() if not isinstance(value, (dict, list))}
    row |= {"out": str(folder), **result["ledger"]}
    options = result["arguments"].get("options", {})
    return row | {name: value for name, value in options.items() if name not in row}
