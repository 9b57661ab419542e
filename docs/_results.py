"""Benchmark pages from the files under benchmarks/results: whatever lies there is shown, and no number is typed."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from _tables import number, table

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
STUDY = RESULTS / "study"
"""Has a page of its own."""
MOST = 60
"""Rows of a raw table that are shown."""
MANY = 15
"""Rows above which a raw table is folded."""

__all__ = ["benchmark_pages", "headline", "pictures", "published", "study"]

Row = Mapping[str, Any]


def benchmark_pages() -> str:
    """Everything under benchmarks/results: comparisons first, then single files, then the notes."""
    parts = ["## Commands", _commands()]
    comparisons = [folder for folder in sorted(RESULTS.iterdir()) if (folder / "summary.csv").exists() and folder != STUDY]
    for folder in comparisons:
        parts += [f"## {folder.name.replace('_', ' ')}", _comparison(folder)]
    for path in sorted(RESULTS.rglob("*")):
        if path.parent in comparisons or STUDY in path.parents:
            continue
        if path.suffix == ".json":
            parts += [f"## {path.stem.replace('_', ' ')}", f"From `{path.relative_to(ROOT)}`.", _measurement(path)]
        elif path.suffix == ".csv":
            parts += [f"## {path.stem.replace('_', ' ')}", f"From `{path.relative_to(ROOT)}`.", _raw(path)]
    return "\n\n".join(part for part in parts if part)


def headline() -> str:
    """The study's answer, or a line that says it is missing."""
    if not (STUDY / "summary.csv").exists():
        return "No result is here yet: see [Benchmarks](benchmarks.md)."
    return "\n\n".join([_tables().verdict(STUDY), _tables().answer(STUDY), "The whole of it: [the study](study.md)."])


def pictures() -> dict[str, Path]:
    """Pictures of the comparisons and of the study, by their place in the site."""
    found = {f"results/{path.parent.name}.svg": path for path in sorted(RESULTS.glob("*/accuracy.svg"))}
    return found | {f"results/{path.name}": path for path in STUDY.glob("*.png")}


def study() -> dict[str, Callable[[], str]]:
    """The parts of the study's page."""
    made = _tables()
    parts = {name: getattr(made, name) for name in ("protocol", "verdict", "answer", "checks", "costs", "coverage", "missing")}
    return {"study": _places, **{f"study-{name}": partial(part, STUDY) for name, part in parts.items()}}


def _places() -> str:
    """A section a model and data set."""
    made, parts = _tables(), []
    for model, data in made.places(STUDY):
        legend = made.legend(made.metric_of(STUDY, model, data))
        parts += [f"### `{model}` on {data}", legend, made.table(STUDY, model, data)]
    return "\n\n".join(parts)


@cache
def _tables() -> ModuleType:
    """benchmarks/_study_tables.py"""
    sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module("_study_tables")


def published() -> str:
    """The repeated table of LeNet-300-100 on MNIST, one table a sparsity, beside the published accuracies."""
    path = RESULTS / "published_lenet.csv"
    if not path.exists():
        return "No result is here yet: run `python benchmarks/published.py`."
    sys.path.insert(0, str(BENCHMARKS))
    from published import compared

    rows, parts = compared(path), []
    for sparsity in sorted({row["sparsity"] for row in rows}):
        shown = [_repeated(row) for row in rows if row["sparsity"] == sparsity]
        head = ("method", "seeds", "test accuracy %", "published", "difference", "cost of a seed")
        parts += [f"## {100 * sparsity:g}% sparsity", table(head, shown)]
    return "\n\n".join(parts)


def _repeated(row: Row) -> tuple[str, ...]:
    def shown(value: float, form: str) -> str:
        return "" if math.isnan(value) else form.format(value)

    return (
        f"`{row['method']}`" if row["seeds"] else str(row["method"]),
        str(row["seeds"] or ""),
        shown(row["mean"], "{:.2f}") + shown(row["sd"], " ± {:.2f}"),
        shown(row["published"], "{:.2f}"),
        shown(row["difference"], "{:+.2f}"),
        shown(row["dense_equivalent_epochs"], "{:.3g}"),
    )


def _commands() -> str:
    """The table of commands in benchmarks/README.md, and what each script says of itself."""
    lines = [line for line in (BENCHMARKS / "README.md").read_text().splitlines() if line.startswith("|")]
    scripts = [
        (f"`benchmarks/{path.name}`", _docline(path)) for path in sorted(BENCHMARKS.glob("*.py")) if not path.name.startswith("_")
    ]
    return "\n".join(lines) + "\n\n" + table(("script", "what it answers"), scripts)


def _docline(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]


# ---- comparisons ---------------------------------------------------------------------------------------------------------


def _comparison(folder: Path) -> str:
    with open(folder / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    setup = json.loads((folder / "compare.json").read_text()) if (folder / "compare.json").exists() else {}
    metric = rows[0]["metric"] if rows else "accuracy"
    kind = "test" if any(row["test_mean"] for row in rows) else "val"
    parts = [_setting(setup, rows)]
    if (folder / "accuracy.svg").exists():
        parts.append(f"![{metric} against sparsity](results/{folder.name}.svg)")
    split = "test" if kind == "test" else "validation"
    score = f"{split} accuracy %" if metric == "accuracy" else f"{split} {metric}"
    gap = "minus random, points" if metric == "accuracy" else "minus random"
    head = ("sparsity", "method", "survivors", "runs", score, gap, "p", "cost")
    parts.append(table(head, [_compared(row, kind, metric) for row in rows]))
    return "\n\n".join(parts)


def _setting(setup: Mapping[str, Any], rows: Sequence[Row]) -> str:
    problem, options = setup.get("problem") or setup.get("problems", {}).get("", {}), setup.get("options", {})
    runs = sorted({int(row["runs"]) for row in rows})
    where = f"`{problem.get('model', '?')}` on `{problem.get('data', '?')}`" if problem else "Model and data: see the command"
    told = ", ".join(f"{key}={value}" for key, value in options.items())
    seeds = " to ".join(map(str, runs[:: max(1, len(runs) - 1)]))
    return (
        f"{where}; {told}; {seeds} seeds. ± is half of a 95% t interval. Differences are paired by seed,\n"
        "p is of the paired t test. Cost is in epochs of the dense network, losers included."
    )


def _compared(row: Row, kind: str, metric: str) -> tuple[str, ...]:
    def value(name: str) -> float:
        return float(row[name]) if row.get(name) else math.nan

    scale, form = (100.0, "{:.2f}") if metric == "accuracy" else (1.0, "{:.4g}")
    mean, low = scale * value(f"{kind}_mean"), scale * value(f"{kind}_low")
    gap, gap_low = scale * value("difference"), scale * value("difference_low")
    paired = "" if math.isnan(gap) else f"{'+' if gap > 0 else ''}{form.format(gap)}&nbsp;±&nbsp;{form.format(gap - gap_low)}"
    return (
        row["sparsity"] or "an outcome",
        f"`{row['method']}`",
        f"{value('survivors'):,.0f}",
        row["runs"],
        form.format(mean) + ("" if math.isnan(low) else f"&nbsp;±&nbsp;{form.format(mean - low)}"),
        paired,
        "" if math.isnan(value("difference_p")) else f"{value('difference_p'):.2g}",
        f"{value('dense_equivalent_epochs'):.3g}",
    )


# ---- single files --------------------------------------------------------------------------------------------------------


def _measurement(path: Path) -> str:
    """A JSON file: its scalars as a table, then every list of rows as one."""
    content = json.loads(path.read_text())
    return "\n\n".join(_json(content)) if isinstance(content, dict) else "\n\n".join(_rows("", content))


def _json(content: Mapping[str, Any], title: str = "") -> Iterator[str]:
    plain = [(key, _text(value)) for key, value in content.items() if not _nested(value)]
    if plain:
        yield table((title, ""), plain)
    for key, value in content.items():
        name = f"{title}, {key}" if title else key
        if isinstance(value, dict):
            yield from _json(value, name)
        elif _nested(value):
            yield from _rows(name, value)


def _nested(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _rows(title: str, rows: Sequence[Row]) -> Iterator[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shown = table(columns, [[_text(row.get(name)) for name in columns] for row in rows[:MOST]])
    said = f"{title or 'rows'}: {f'the first {MOST} of ' if len(rows) > MOST else ''}{len(rows)}"
    folded = textwrap.indent(shown, "    ")
    yield f'??? note "{said}"\n\n{folded}' if len(rows) > MANY else shown


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(one) for one in value)
    return ("yes" if value else "no") if isinstance(value, bool) else number(value)


def _raw(path: Path) -> str:
    """A CSV file: means over seeds where it has methods, else its rows."""
    with open(path, newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    groups = [name for name in ("data", "model", "method", "sparsity") if rows and name in rows[0]]
    score = next((name for name in ("test_accuracy", "test_score", "accuracy") if rows and name in rows[0]), None)
    if "method" in groups and score:
        return _means(rows, groups, score)
    return "\n\n".join(_rows("", [{key: _number(value) for key, value in row.items()} for row in rows])) if rows else "Empty."


def _means(rows: Sequence[Row], groups: Sequence[str], score: str) -> str:
    cells: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        value = _number(row[score])
        if isinstance(value, (int, float)):
            cells.setdefault(tuple(row[name] for name in groups), []).append(float(value))
    shown = []
    for key, values in cells.items():
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) if len(values) > 1 else None
        shown.append((*key, len(values), number(mean, 4), number(spread, 2)))
    return table((*groups, "runs", f"mean {score}", "standard deviation"), shown)


def _number(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, TypeError):
        return value
