"""JSON and CSV as this package writes and reads them: atomically, the same bytes on every platform, without NaN in JSON."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune.errors import DamagedFile
from evoprune.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_json", "as_utf8", "read_json", "without_nan", "write_csv", "write_json"]


def as_json(value: Any) -> Any:
    """What JSON gives back of a value: a tuple as a list, names as text, numpy's numbers and arrays as Python's, what it does
    not know by its `repr`."""
    if isinstance(value, Mapping):
        return {str(name): as_json(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    plain = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    return plain if isinstance(plain, (list, str, int, float, bool, type(None))) else repr(plain)


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null. numpy's numbers become Python's."""
    if isinstance(value, Mapping):
        return {name: without_nan(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def as_utf8(text: str) -> str:
    """`text` as files and pictures take it: what is no UTF-8 in the name of a user's file becomes a question mark."""
    return text.encode(errors="replace").decode()


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


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Atomically; without NaN, which JSON does not have. Returns the path."""
    return atomic_write(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """Atomically, with the same bytes on every platform. Returns the path."""
    text = io.StringIO()
    frame.to_csv(text, index=False, lineterminator="\n")
    return atomic_write(path, as_utf8(text.getvalue()).encode())
