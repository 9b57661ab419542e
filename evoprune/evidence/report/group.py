"""One model on one data set: the question, the answer in words, the tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evoprune.evidence.report.figures import figures_of
from evoprune.evidence.report.gaps import gaps
from evoprune.evidence.report.material import Material
from evoprune.evidence.samples import no_samples, prunes, told_apart, trained_apart
from evoprune.evidence.tables import (
    BASELINE,
    cost_words,
    duels,
    plus_minus,
    reference_of,
    score_column,
    summarise,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Group", "group_of", "mark_of"]

MARKS = {"better": "better", "worse": "worse"}


@dataclass
class Group:
    """The runs of one model on one data set, ready for the template."""

    name: str
    question: str
    answers: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    note: str
    figures: list[dict[str, str]]
    baseline: str
    duels: list[dict[str, Any]]
    checks: list[dict[str, Any]] = field(default_factory=list)


def group_of(name: str, runs: pd.DataFrame, material: Material, missing: list[str]) -> Group:
    """What the page says of these runs; what is not there is added to `missing`."""
    runs = _once(name, runs, missing)
    missing += gaps(name, runs)
    baseline = reference_of(runs)
    runs = _ordered(runs, baseline)
    if apart := trained_apart(runs):
        missing.append(f"{name}: methods were trained with other options, which differences may come from: {apart}.")
    methods = [str(method) for method in runs["method"].unique()]
    summary = summarise(runs, baseline=baseline)
    return Group(
        name,
        _question(name, methods, summary, baseline),
        _answers(summary),
        list(_rows(summary)),
        _note(runs, summary),
        figures_of(name, runs, material),
        baseline,
        list(_duels(runs, material.pairs)),
    )


def _once(name: str, runs: pd.DataFrame, missing: list[str]) -> pd.DataFrame:
    """The first run of each method, sparsity and seed, of the options of the first: others are no further samples."""
    again = no_samples(runs)
    if again.any():
        apart = told_apart(runs)
        what = f"differ from them in {apart}" if apart else "differ from them in nothing that the table holds"
        missing.append(
            f"{name}: {int(again.sum())} of {len(runs)} runs are left out: others of the same method and sparsity come "
            f"first and {what}; make a page of each folder alone."
        )
    return runs[~again]


def _ordered(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """What is compared with first, what prunes nothing last; otherwise as it was."""
    rank = [0 if method == baseline else 1 if prunes(str(method)) else 2 for method in runs["method"]]
    return runs.iloc[sorted(range(len(runs)), key=rank.__getitem__)]


def mark_of(words: str) -> str:
    """The class of a cell that holds the words."""
    return MARKS.get(words, "")


def _question(name: str, methods: Sequence[str], summary: pd.DataFrame, baseline: str) -> str:
    asked = [f"{value:.4g}" for value in summary["sparsity"].dropna().unique()]
    at = f" at sparsity {', '.join(asked)}" if asked else ""
    others = [method for method in methods if method != baseline and prunes(method)]
    if not others:
        return f"How well does {baseline} do with {name}{at}?"
    rival = "a random mask" if baseline == BASELINE else baseline
    return f"Does {_either(others)} do better than {rival} with {name}{at}, how sure is that, and what does it cost?"


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _answers(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """One a sparsity: where, and the methods by what is said of them."""
    found = []
    for sparsity in dict.fromkeys(summary["sparsity"].astype(float).fillna(-1.0)):  # -1: an outcome
        own = summary[(summary["sparsity"].astype(float).fillna(-1.0) == sparsity) & (summary["words"] != "")]
        told: dict[str, list[dict[str, str]]] = {}
        for row in own.to_dict("records"):
            word = row["words"] if row["words"] in MARKS else "no difference shown"
            gain = plus_minus(row["difference"], math.nan, row["metric"], "+")
            detail = gain if row["words"] in MARKS else str(row["words"]).removeprefix("no difference shown").strip(" ()")
            told.setdefault(word, []).append({"method": row["method"], "detail": detail})
        where = "where the sparsity is an outcome" if sparsity < 0 else f"at sparsity {sparsity:.4g}"
        groups = [(word, told[word]) for word in ("better", "worse", "no difference shown") if word in told]
        if groups:
            found.append({"where": where, "groups": groups})
    return found


def _rows(summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    previous = None
    for row in summary.to_dict("records"):
        metric = str(row["metric"])
        outcome = f"outcome, {row['sparsity_obtained']:.2%}" if prunes(str(row["method"])) else "0"
        asked = outcome if row["sparsity"] != row["sparsity"] else f"{row['sparsity']:.4g}"
        missing = row["difference"] != row["difference"]
        half = (row["difference_high"] - row["difference_low"]) / 2
        yield {
            "first": asked != previous,
            "sparsity": asked if asked != previous else "",
            "method": row["method"],
            "runs": row["runs"],
            "survivors": f"{row['survivors']:,.0f}",
            "val": plus_minus(row["val_mean"], (row["val_high"] - row["val_low"]) / 2, metric),
            "test": plus_minus(row["test_mean"], (row["test_high"] - row["test_low"]) / 2, metric),
            "difference": "" if missing else plus_minus(row["difference"], half, metric, "+"),
            "cost": f"{row['dense_equivalent_epochs']:.3g}",
            "words": row["words"] or ("" if prunes(str(row["method"])) else "a reference, prunes nothing"),
            "mark": mark_of(row["words"]),
        }
        previous = asked


def _note(runs: pd.DataFrame, summary: pd.DataFrame) -> str:
    seeds = ", ".join(str(int(seed)) for seed in sorted(runs["seed"].unique()))
    compared = int((summary["words"] != "").sum())
    tests = f"Holm's correction over {compared} comparisons" if compared > 1 else "one comparison"
    split = "test" if score_column(runs) == "test_score" else "validation"
    unit = ", in %" if runs["metric"].iloc[0] == "accuracy" else ""
    return (
        f"Seeds {seeds}. Mean ± half of the 95% t interval{unit}; differences are paired by seed on the {split} split; the words "
        f"come from paired t tests with {tests}. "
        f"Cost: {'; '.join(filter(None, ('epochs of the dense network, losers included', cost_words(summary))))}."
    )


def _duels(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    if not pairs:
        return
    for row in duels(runs, pairs).to_dict("records"):
        half = (row["difference_high"] - row["difference_low"]) / 2
        yield {
            "sparsity": "an outcome" if row["sparsity"] != row["sparsity"] else f"{row['sparsity']:.4g}",
            "pair": f"{row['method']} – {row['rival']}",
            "difference": plus_minus(row["difference"], half, row["metric"], "+"),
            "words": row["words"],
            "mark": mark_of(row["words"]),
        }


def placed(groups: Sequence[Group], described: Mapping[str, Any]) -> Group:
    """The group that a check belongs to, else the first."""
    wanted = f"{described.get('model')} on {described.get('data')}"
    return next((group for group in groups if group.name == wanted), groups[0])
