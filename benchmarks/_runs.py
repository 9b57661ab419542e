"""The study's files: a line a run, on disk before the next begins, a torn last line not counted; and what does not fit."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from _plan import SEEDS, Key, Place, key

from evoprune.formats import write_csv

__all__ = ["COLUMNS", "append", "keys_of", "mend", "note_unfit", "read", "unfit", "unfit_keys"]

COLUMNS = (
    *("model", "data", "method", "sparsity", "seed", "epochs", "target", "metric", "val_score", "test_score", "early_score"),
    *("sparsity_obtained", "survivors", "prunable", "layers", "samples", "survivor_updates", "dense_equivalent_epochs"),
    *("evaluation_samples", "configurations", "wall_s", "device", "engine", "mask_hash", "options", "versions"),
)
UNFIT = ("model", "data", "method", "sparsity", "reason")
ONCE = {"target": 2.0}
"""Values of columns that older files do not have."""


def read(path: Path) -> pd.DataFrame:
    """The runs of the file, in its order; none where it is not there. A column that it lacks has its value of that time.

    Of a run that two processes made at the same time the first is taken: all but its wall time is the same.
    """
    whole = _whole(path)
    if not whole:
        return pd.DataFrame(columns=list(COLUMNS))
    runs = pd.read_csv(io.BytesIO(whole), dtype={"layers": str})
    for name, value in ONCE.items():
        runs[name] = runs[name].fillna(value) if name in runs else value
    return runs[list(COLUMNS)].drop_duplicates(["model", "data", "method", "sparsity", "seed"], ignore_index=True)


def mend(path: Path) -> None:
    """Bring the file into the form that `append` goes on with: whole lines, today's columns, no run twice."""
    whole = _whole(path)
    header = whole.split(b"\n", 1)[0].decode()
    runs = read(path)
    in_order = header == ",".join(COLUMNS) and whole.count(b"\n") == len(runs) + 1
    if not path.exists() or (whole == path.read_bytes() and in_order):
        return
    write_csv(path, runs)


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line to a file in order (`mend`), with the header where it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())


def _whole(path: Path) -> bytes:
    """What the file holds up to the end of its last whole line: no value has a line break in it."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def keys_of(runs: pd.DataFrame) -> set[Key]:
    """By which finished runs are known."""
    return {_key(row, int(row["seed"])) for row in runs.to_dict("records")}


def unfit(out: Path) -> pd.DataFrame:
    """Methods that cannot stay within the target at a place, and why."""
    path = out / "unfit.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(UNFIT))


def note_unfit(out: Path, place: Place, method: str, reason: str) -> None:
    """Add one."""
    known = unfit(out).to_dict("records")
    told = dict(zip(UNFIT, (*key(place, method, 0)[:4], reason), strict=True))
    write_csv(out / "unfit.csv", pd.DataFrame([*known, told]))


def unfit_keys(out: Path) -> set[Key]:
    """Keys of the runs that there will not be."""
    return {_key(row, seed) for row in unfit(out).to_dict("records") for seed in range(SEEDS)}


def _key(row: Mapping[Any, Any], seed: int) -> Key:
    return row["model"], row["data"], row["method"], float(row["sparsity"]), seed
