"""Rows of a long benchmark, kept as they come: an interrupted command goes on where it was."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from evoprune.files import atomic_write

__all__ = ["collect", "conclude", "save"]

Row = dict[str, Any]


def collect(wanted: Iterable[Row], measure: Callable[..., Row], what: str, path: Path | None) -> list[Row]:
    """One row for each of `wanted` (the arguments of `measure`), those of an earlier start of the same benchmark included.

    what: describes the benchmark; rows in `path` under another description are not taken. Each new row is written at once.
    """
    known: list[Row] = []
    if path is not None and path.exists():
        found = json.loads(path.read_text())
        known = found["rows"] if found.get("what") == what else []
    rows = []
    for arguments in wanted:
        row = next((one for one in known if one.items() >= arguments.items()), None)
        if row is None:
            row = arguments | measure(**arguments)
            print(row, file=sys.stderr, flush=True)
        rows.append(row)
        if path is not None:
            rest = [one for one in known if one not in rows]
            save({"what": what, "rows": rows + rest}, path)
    return rows


def conclude(result: Row, path: Path | None) -> None:
    """Print a result with the machine it comes from, and write it."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    result = result | {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}"}
    print(json.dumps(result, indent=1))
    if path is not None:
        save(result, path)


def save(result: Row, path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    atomic_write(path, (json.dumps(result, indent=1) + "\n").encode())
