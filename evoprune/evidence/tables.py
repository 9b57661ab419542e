"""Many runs as one table: a row a method and sparsity, with intervals, the paired difference to a baseline, and the cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evoprune.errors import InputError
from evoprune.evidence.samples import no_samples, prunes, told_apart
from evoprune.evidence.statistics import Interval, mean_interval, paired_difference
from evoprune.evidence.verdict import smallest_of_interest, table

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "cost_words",
    "duels",
    "pivot",
    "plus_minus",
    "reference_of",
    "score_column",
    "smallest_difference",
    "summarise",
]

COLUMNS = (
    *("sparsity", "method", "sparsity_obtained", "survivors", "runs", "metric"),
    *("test_mean", "test_low", "test_high", "val_mean", "val_low", "val_high"),
    *("difference", "difference_low", "difference_high", "difference_p", "difference_p_holm", "words", "dense_equivalent_epochs"),
)
BASELINE = "random"


def summarise(runs: pd.DataFrame, *, baseline: str | None = None, level: float = 0.95) -> pd.DataFrame:
    """One row a method and asked sparsity, in the order of the runs.

    runs: as of `load_runs` or a comparison's results, of one model and data set, each method, sparsity and seed once, and each
    method with the same options at a sparsity: runs of others are no further samples. baseline: what the others are compared
    with; None takes `random` where there is one, else nothing. Methods that prune nothing are repeated at every sparsity; where
    the sparsity is an outcome of the method, it is NaN and the row stands last.

    Columns: sparsity (asked), method, sparsity_obtained and survivors (means), runs, metric; test_* and val_*: mean of the
    score and its t interval, of the test split where it is open for every run of the row; difference*: the mean of
    (method - baseline) over common seeds on `score_column`, its paired t interval and p-value; difference_p_holm: corrected for
    all comparisons of the table; words: what may be said of it; dense_equivalent_epochs: mean cost of a run, losers included.
    Missing entries are NaN. Raises `InputError` for runs of several kinds, and for repeated ones.
    """
    import pandas as pd

    _check(runs)
    score, rival = score_column(runs), BASELINE if baseline is None else baseline
    rows, differences = [], []
    for sparsity in _sparsities(runs):
        cells = {str(method): _cell(runs, str(method), sparsity) for method in runs["method"].unique()}
        for method, cell in cells.items():
            if len(cell):
                difference = _difference(cell, cells.get(rival) if method != rival else None, score, level)
                rows.append(_row(method, sparsity, cell, difference, level))
                differences.append(difference)
    corrected = _judged(rows, differences, runs, score)
    return pd.DataFrame([{**row, **told} for row, told in zip(rows, corrected, strict=True)], columns=list(COLUMNS))


def reference_of(runs: pd.DataFrame) -> str:
    """What the others are compared with: `random`, or the first method where there is none."""
    methods = [str(method) for method in runs["method"].unique()]
    return BASELINE if BASELINE in methods else methods[0]


def smallest_difference(runs: pd.DataFrame) -> float:
    """The smallest difference of interest: 0.2 points of an accuracy, 2% of a loss."""
    return smallest_of_interest(runs[score_column(runs)].astype(float), accuracy=str(runs["metric"].iloc[0]) == "accuracy")


def _judged(
    rows: Sequence[Mapping[str, Any]], differences: Sequence[Interval], runs: pd.DataFrame, score: str
) -> list[dict[str, Any]]:
    """Holm's p and the words of each row: a method that prunes nothing is a reference, and no rival."""
    rivals = [place for place, row in enumerate(rows) if prunes(row["method"]) and differences[place].n]
    accuracy = bool(rows) and rows[0]["metric"] == "accuracy"
    gains = [differences[place] if accuracy else differences[place].negated() for place in rivals]
    told: list[dict[str, Any]] = [{"difference_p_holm": math.nan, "words": ""} for _ in rows]
    for place, (p, words) in zip(rivals, table(gains, difference=smallest_difference(runs), accuracy=accuracy), strict=True):
        told[place] = {"difference_p_holm": p, "words": words}
    return told


def duels(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, level: float = 0.95) -> pd.DataFrame:
    """Pairs of methods against each other, at every sparsity, judged together with Holm's correction.

    runs: as in `summarise`. pairs: (method, rival). Columns: sparsity, method, rival, metric, pairs (common seeds), difference*
    (method - rival, its paired t interval and p-value), difference_p_holm, words (of the method). A pair without a common seed is
    left out.
    """
    import pandas as pd

    _check(runs)
    score, metric = score_column(runs), str(runs["metric"].iloc[0])
    rows, found = [], []
    for sparsity in _sparsities(runs):
        for method, rival in pairs:
            difference = _difference(_cell(runs, method, sparsity), _cell(runs, rival, sparsity), score, level)
            if difference.n:
                found.append(difference)
                own = {"sparsity": sparsity, "method": method, "rival": rival, "metric": metric, "pairs": difference.n}
                rows.append({**own, **_columns("difference", "difference", difference), "difference_p": difference.p})
    gains = found if metric == "accuracy" else [one.negated() for one in found]
    told = table(gains, difference=smallest_difference(runs), accuracy=metric == "accuracy")
    columns = (
        "sparsity",
        "method",
        "rival",
        "metric",
        "pairs",
        "difference",
        "difference_low",
        "difference_high",
        "difference_p",
    )
    judged = [{**row, "difference_p_holm": p, "words": words} for row, (p, words) in zip(rows, told, strict=True)]
    return pd.DataFrame(judged, columns=[*columns, "difference_p_holm", "words"])


def pivot(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary for people: a row a sparsity (of each model and data set), a column a method, "mean ± half of the interval".

    The test score where every run has one, else that of the validation split; accuracies in %.
    """
    import pandas as pd

    kind = "test" if summary["test_mean"].notna().all() else "val"
    where = [name for name in ("model", "data") if name in summary]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in summary.to_dict("records"):
        place = (*(row[name] for name in where), "outcome" if row["sparsity"] != row["sparsity"] else row["sparsity"])
        own = rows.setdefault(place, dict(zip([*where, "sparsity"], place, strict=True)))
        own[str(row["method"])] = plus_minus(row[f"{kind}_mean"], (row[f"{kind}_high"] - row[f"{kind}_low"]) / 2, row["metric"])
    methods = [str(name) for name in summary["method"].unique()]
    return pd.DataFrame(list(rows.values()), columns=[*where, "sparsity", *methods]).fillna("")


def plus_minus(mean: float, half: float, metric: str, sign: str = "") -> str:
    """A mean and half of its interval as people read them, without what is not known.

    Accuracies are in % with two decimals; of a loss two digits of the half are shown, and as many decimals of the mean.
    """
    if mean != mean:
        return "–"
    if metric == "accuracy":
        mean, half, decimals = 100 * mean, 100 * half, 2
    elif half > 0:
        decimals = max(0, 1 - math.floor(math.log10(half)))
    else:
        return f"{mean:{sign}.4g}" if half != half else f"{mean:{sign}.4g} ± 0"
    text = f"{round(mean, decimals) + 0.0:{sign}.{decimals}f}"  # no -0.00
    return text if half != half else f"{text} ± {half:.{decimals}f}"


def cost_words(summary: pd.DataFrame, tolerance: float = 0.02) -> str:
    """Whether the pruning methods of each sparsity cost the same, and by how much they do not; empty where there is one alone.

    A method whose sparsity is an outcome is compared with those of every sparsity.

    tolerance: the largest ratio - 1 that is called the same.
    """
    sparse = summary[[prunes(str(method)) for method in summary["method"]]]
    asked = sparse["sparsity"].astype(float)
    worst: tuple[float, str] = (0.0, "")
    for sparsity in sorted(asked.dropna().unique()) or [math.nan]:
        own = sparse[(asked == sparsity) | asked.isna()]
        cost = own.set_index("method")["dense_equivalent_epochs"].astype(float).dropna()
        if len(cost) > 1 and cost.min() > 0 and cost.max() / cost.min() > worst[0]:
            at = "" if sparsity != sparsity else f"at sparsity {sparsity:.4g} "
            worst = (cost.max() / cost.min(), f"{at}{cost.idxmax()} costs {{}} {cost.idxmin()}")
    if not worst[0]:
        return ""
    if worst[0] <= 1 + tolerance:
        return f"costs agree within {tolerance:.0%}"
    more = f"{worst[0] - 1:.0%} more than" if worst[0] < 2 else f"{worst[0]:.3g} times as much as"
    return f"costs are not equal: {worst[1].format(more)}"


def score_column(runs: pd.DataFrame) -> str:
    """`test_score` when every run has one, else `val_score`."""
    return "test_score" if len(runs) and runs["test_score"].notna().all() else "val_score"


def _check(runs: pd.DataFrame) -> None:
    for name in ("model", "data", "metric"):
        if name in runs and runs[name].nunique() > 1:
            raise InputError(
                f"the runs are of several kinds ({name}: {', '.join(map(str, runs[name].unique()))}): choose one first"
            )
    if (again := no_samples(runs)).any():
        row = runs[again.to_numpy()].iloc[0]
        apart = told_apart(runs)
        what = f"differ in {apart}" if apart else "are the same"
        raise InputError(
            f"runs of {row['method']} with seed {row['seed']} {what}: choose one of each method, sparsity and seed first"
        )


def _sparsities(runs: pd.DataFrame) -> list[float]:
    """Ascending, an outcome (NaN) last; those of methods that prune nothing count only when there are no others."""
    pruned = runs[[prunes(str(method)) for method in runs["method"]]]
    found = (pruned if len(pruned) else runs)["sparsity"].astype(float)
    return [*sorted(found.dropna().unique()), *([math.nan] if found.isna().any() else [])]


def _cell(runs: pd.DataFrame, method: str, sparsity: float) -> pd.DataFrame:
    """The runs of a method at a sparsity; what prunes nothing stands at every asked one, and beside outcomes where none is."""
    own = runs[runs["method"] == method]
    if not prunes(method):
        return own if not math.isnan(sparsity) or all(map(math.isnan, _sparsities(runs))) else own[:0]
    asked = own["sparsity"].astype(float)
    return own[asked.isna() if math.isnan(sparsity) else asked == sparsity]


def _difference(cell: pd.DataFrame, baseline: pd.DataFrame | None, score: str, level: float) -> Interval:
    """Of the cell to the baseline, seed by seed."""
    if baseline is None or not len(baseline):
        return Interval(*(math.nan,) * 3, 0, math.nan, level)
    pairs = cell[["seed", score]].merge(baseline[["seed", score]], on="seed", suffixes=("", "_baseline"))
    return paired_difference(pairs[score].astype(float), pairs[f"{score}_baseline"].astype(float), level)


def _row(method: str, sparsity: float, cell: pd.DataFrame, difference: Interval, level: float) -> dict[str, Any]:
    scores = cell[["test_score", "val_score"]].astype(float)
    if scores["test_score"].notna().sum() < scores["val_score"].notna().sum():
        scores["test_score"] = math.nan  # of some of the runs it would be another sample than that of the others
    test, val = (mean_interval(scores[name], level) for name in scores)
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
