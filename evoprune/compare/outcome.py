"""What came out of a comparison: tables and a picture, made of the finished runs alone."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoprune.compare.cells import Cell, Problems
from evoprune.compare.folder import RUNS, finished_runs
from evoprune.files import atomic_write
from evoprune.formats import write_csv
from evoprune.words import counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "write_outcome"]

RESULTS, SUMMARY, PIVOT = "results.csv", "summary.csv", "pivot.csv"
COLUMNS = (
    *("method", "sparsity", "seed", "sparsity_obtained", "survivors", "prunable", "data", "model", "epochs", "metric"),
    *("val_score", "test_score", "val_accuracy", "test_accuracy", "samples", "survivor_updates", "dense_equivalent_epochs"),
    *("evaluation_samples", "configurations", "device", "engine", "mask_hash", "folder"),
)
NUMBERS = ("sparsity", "val_score", "test_score", "val_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Comparison:
    """What `compare` gives.

    results: one row a run, every finished one of the folder. summary: one row a model, data set, method and sparsity.
    failures: why runs of this call are missing.
    """

    folder: Path
    results: pd.DataFrame
    summary: pd.DataFrame
    failures: dict[str, str]
    files: tuple[Path, ...]

    def pivot(self) -> pd.DataFrame:
        """For people: a row a sparsity, a column a method, means with their intervals."""
        from evoprune.evidence.tables import pivot

        return pivot(self.summary)

    def __repr__(self) -> str:
        methods = ", ".join(map(str, self.results["method"].unique()))
        return f"Comparison({counted(len(self.results), 'run')} of {methods} in {self.folder})"

    def _repr_html_(self) -> str:
        words = self.summary[self.summary["words"] != ""]
        columns = [name for name in ("model", "data") if self.summary[name].nunique() > 1] + ["sparsity", "method", "words"]
        told = words[columns].to_html(index=False) if len(words) else ""
        runs = f"{counted(len(self.results), 'run')} in {html.escape(str(self.folder))}"
        return f"<p>{runs}</p>{self.pivot().to_html(index=False)}{told}"


def write_outcome(folder: Path, problems: Problems, cells: Sequence[Cell], failures: dict[str, str], *, test: bool) -> Comparison:
    """Write tables and pictures of every finished run; they do not depend on when, where or in which order the runs were made.

    problems, cells: of this call, which stand first. test: whether test scores are shown.
    """
    import pandas as pd

    found = finished_runs(folder)
    found.sort(key=_order(problems, [cell.method for cell in cells]))
    names = {name: problem.describe()["data"] for name, problem in problems.items()}  # a file may have moved since a run
    rows = [{**_row(cell, result, test=test), "data": names.get(cell.problem, result["data"])} for cell, result in found]
    results = pd.DataFrame(rows, columns=list(COLUMNS))
    results[list(NUMBERS)] = results[list(NUMBERS)].astype(float)
    groups = [(name, own) for name, own in results.groupby(["model", "data"], sort=False)]
    summary = pd.concat([_summary(own) for _, own in groups], ignore_index=True)
    files = [folder / RESULTS, folder / SUMMARY, folder / PIVOT]
    comparison = Comparison(folder, results, summary, failures, ())
    for path, frame in zip(files, (results, summary, comparison.pivot()), strict=True):
        write_csv(path, frame)
    for _, own in groups:
        problem = own["folder"].iloc[0].split("/")[1]  # the name of its folder
        files += _draw(folder, own, "" if len(groups) == 1 else f"-{problem}")
    return Comparison(folder, results, summary, failures, tuple(files))


def _row(cell: Cell, result: Mapping[str, Any], *, test: bool) -> dict[str, Any]:
    options = result["arguments"]["options"]
    row = {**result, **result["ledger"], "epochs": options["epochs"], "folder": f"{RUNS}/{cell.name}"}
    if not test:
        row |= {"test_score": None, "test_accuracy": None}
    return {name: row[name] for name in COLUMNS}


def _order(problems: Problems, methods: Sequence[str]) -> Callable[[tuple[Cell, Any]], tuple[Any, ...]]:
    names, first = list(problems), list(dict.fromkeys(methods))

    def place(entry: tuple[Cell, Any]) -> tuple[Any, ...]:
        cell = entry[0]
        problem = names.index(cell.problem) if cell.problem in names else len(names)
        method = first.index(cell.method) if cell.method in first else len(first)
        return problem, cell.problem, method, cell.method, -1.0 if cell.sparsity is None else cell.sparsity, cell.seed

    return place


def _summary(own: pd.DataFrame) -> pd.DataFrame:
    from evoprune.evidence.tables import summarise

    summary = summarise(own)
    for place, name in enumerate(("model", "data")):
        summary.insert(place, name, own[name].iloc[0])
    return summary


def _draw(folder: Path, results: pd.DataFrame, about: str) -> list[Path]:
    """Score against sparsity, as PNG and SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    from evoprune.evidence.plots import plot_accuracy

    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    plot_accuracy(results, figure.subplots())
    paths = []
    for kind in ("png", "svg"):
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "evoprune"}):
            figure.savefig(content, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
        paths.append(atomic_write(folder / f"{results['metric'].iloc[0]}{about}.{kind}", content.getvalue()))
    return paths
