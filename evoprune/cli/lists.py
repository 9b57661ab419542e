"""`evoprune list`: what can be chosen by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from evoprune.cli.application import app
from evoprune.cli.console import output, reporting
from evoprune.errors import UnknownName

if TYPE_CHECKING:
    from evoprune.methods.registry import Method

__all__ = ["list_"]


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="methods, models, datasets, operators or criteria.")],
) -> None:
    """Show what can be chosen by name."""
    with reporting():
        if what not in LISTS:
            raise UnknownName("list", what, LISTS)
        headers, rows = LISTS[what]()
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for index, header in enumerate(headers):
            numbers = all(isinstance(row[index], int) for row in rows)
            table.add_column(header, no_wrap=index == 0, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(f"{cell:,}" if isinstance(cell, int) else escape(cell) for cell in row))
        output().print(table, highlight=False)


Rows = tuple[Sequence[str], list[tuple[str | int, ...]]]


def _methods() -> Rows:
    from evoprune.methods import METHODS

    return ("method", "what it does", "options: --set name=value (what it is unless set)"), [
        (name, method.summary, ", ".join(_options(method))) for name, method in sorted(METHODS.items())
    ]


def _options(method: Method) -> Iterator[str]:
    """What `--set` takes, with defaults as they are typed; in parentheses what an option stands for that is not set."""
    from evoprune.methods.registry import ASIDE

    for name, default in method.options.items():
        if name not in ASIDE:
            typed = ",".join(map(str, default)) if isinstance(default, (tuple, list)) else default
            yield f"{name} ({method.unset.get(name, 'none')})" if default is None else f"{name}={typed}"


def _models() -> Rows:
    from evoprune.problems.models import model_table

    columns = ("name", "doc", "input", "prunable")
    return ("model", "what it is", "input", "prunable"), [tuple(row[column] for column in columns) for row in model_table()]


def _datasets() -> Rows:
    from evoprune.problems.datasets import DATASETS

    npz = ("FILE.npz", "arrays x_train, y_train, x_test, y_test; no labels to reconstruct")
    return ("data set", "what it is"), [*((name, first_line(load.__doc__)) for name, load in DATASETS.items()), npz]


def _operators() -> Rows:
    from evoprune.evolution.operators import OPERATORS

    return ("operator", "what it does"), [(name, first_line(operator.__doc__)) for name, operator in sorted(OPERATORS.items())]


def _criteria() -> Rows:
    from evoprune.criteria import CRITERIA

    return ("criterion", "fitter is", "what it is"), [
        (name, {"max": "larger", "min": "smaller"}[entry.direction], entry.doc) for name, entry in CRITERIA.items()
    ]


LISTS = {"methods": _methods, "models": _models, "datasets": _datasets, "operators": _operators, "criteria": _criteria}


def first_line(doc: str | None) -> str:
    """Of a docstring."""
    return (doc or "").strip().partition("\n")[0]
