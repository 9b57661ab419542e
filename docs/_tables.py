"""Markdown: tables, and prose from docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

__all__ = ["cell", "number", "prose", "size", "table"]


def cell(value: object) -> str:
    """One cell: on one line, no column breaks."""
    return " ".join(str(value).split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table, numbers as given."""
    lines = ["| " + " | ".join(map(cell, head)) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)])


def number(value: object, digits: int = 3) -> str:
    """A value as people read it: thousands with commas, else so many significant digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def size(count: float) -> str:
    """A number of bytes, in units of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def prose(doc: str | None) -> str:
    """A docstring as markdown."""
    return re.sub(r"[<*](?! )", lambda found: "&lt;" if found[0] == "<" else r"\*", inspect.cleandoc(doc or ""))
