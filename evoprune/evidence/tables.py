"""Many runs as one table: a row a method and sparsity, with intervals, the paired difference to a baseline, and the cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from evoprune.errors import InputError
from evoprune.evidence.statistics import Interval, mean_interval, paired_difference
from evoprune.methods.registry import METHODS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["prunes", "score_column", "summarise"]

COLUMNS = (
    *("sparsity", "method", "sparsity_obtained", "survivors", "runs", "metric"),
    *("test_mean", "test_low", "test_high", "val_mean", "val_low", "val_high"),
    *("difference", "difference_low", "difference_high", "difference_p", "dense_equivalent_epochs"),
)


def summarise(runs: pd.DataFrame, *, baseline: str = "random", level: float = 0.95) -> pd.DataFrame:
    """One row a method and asked sparsity, in the order of the runs.

    runs: as of `load_runs` or a comparison's results, of one model and data set. Methods that prune nothing are repeated at
    every sparsity; where the sparsity is an outcome of the method, it is NaN and the row stands last.

    Columns: sparsity (asked), method, sparsity_obtained and survivors (means), runs, metric; test_* and val_*: mean of the
    score and its t interval; difference*: the mean of (method - baseline) over common seeds on `score_column`, its paired t
    interval and p-value; dense_equivalent_epochs: mean cost of a run, losers included. Missing entries are NaN.
    """
    import pandas as pd

    _check(runs)
    score = score_column(runs)
    rows = []
    for sparsity in _sparsities(runs):
        cells = {str(method): _cell(runs, str(method), sparsity) for method in runs["method"].unique()}
        for method, cell in cells.items():
            if len(cell):
                rows.append(_row(method, sparsity, cell, cells.get(baseline) if method != baseline else None, score, level))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def score_column(runs: pd.DataFrame) -> str:
    """`test_score` when every run has one, else `val_score`."""
    return "test_score" if len(runs) and runs["test_score"].notna().all() else "val_score"


def prunes(method: str) -> bool:
    """Whether the method removes weights at all; an unknown one does."""
    return method not in METHODS or METHODS[method].sparse


def _check(runs: pd.DataFrame) -> None:
    for name in ("model", "data", "metric"):
        if name in runs and runs[name].nunique() > 1:
            raise InputError(
                f"the runs are of several kinds ({name}: {', '.join(map(str, runs[name].unique()))}): choose one first"
            )


def _sparsities(runs: pd.DataFrame) -> list[float]:
    """Ascending, an outcome (NaN) last; those of methods that prune nothing count only when there are no others."""
    pruned = runs[[prunes(str(method)) for method in runs["method"]]]
    found = (pruned if len(pruned) else runs)["sparsity"].astype(float)
    return [*sorted(found.dropna().unique()), *([math.nan] if found.isna().any() else [])]


def _cell(runs: pd.DataFrame, method: str, sparsity: float) -> pd.DataFrame:
    own = runs[runs["method"] == method]
    if not prunes(method):
        return own if not math.isnan(sparsity) else own[:0]
    asked = own["sparsity"].astype(float)
    return own[asked.isna() if math.isnan(sparsity) else asked == sparsity]


def _row(
    method: str, sparsity: float, cell: pd.DataFrame, baseline: pd.DataFrame | None, score: str, level: float
) -> dict[str, Any]:
    test, val = (mean_interval(cell[name].astype(float), level) for name in ("test_score", "val_score"))
    difference = Interval(*(math.nan,) * 3, 0, math.nan, level)
    if baseline is not None and len(baseline):
        pairs = cell[["seed", score]].merge(baseline[["seed", score]], on="seed", suffixes=("", "_baseline"))
        difference = paired_difference(pairs[score].astype(float), pairs[f"{score}_baseline"].astype(float), level)
    return {
        "sparsity": sparsity,
        "method": method,
        "sparsity_obtained": cell["sparsity_obtained"].mean(),
        "survivors": cell["survivors"].mean(),
        "runs": len(cell),
        "metric": cell["metric"].iloc[0],
        **_columns("test_mean", "test", test),
        **_columns("val_mean", "val", val),
        **_columns("difference", "difference", difference),
        "difference_p": difference.p,
        "dense_equivalent_epochs": cell["dense_equivalent_epochs"].mean(),
    }


def _columns(mean: str, prefix: str, interval: Interval) -> dict[str, float]:
    return {mean: interval.mean, f"{prefix}_low": interval.low, f"{prefix}_high": interval.high}
