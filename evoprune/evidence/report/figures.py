"""The figures of one model on one data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune.evidence.plots.accuracy import plot_accuracy
from evoprune.evidence.plots.cost import plot_cost
from evoprune.evidence.plots.style import log_ticks, looks, percent, style
from evoprune.evidence.plots.trace import plot_trace
from evoprune.evidence.report.material import Material
from evoprune.evidence.report.svg import figure
from evoprune.evidence.samples import prunes
from evoprune.evidence.tables import score_column

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["figures_of"]

Looks = Mapping[str, tuple[str, str]]
"""Colour and marker of each method."""
ALIKE = 1.25
"""Ratio of costs up to which a figure over them would only pile up its points."""
EARLY = 0.2
"""Share of the epochs after which a run is looked at early."""


def figures_of(name: str, runs: pd.DataFrame, material: Material) -> list[dict[str, str]]:
    """Those that the runs have material for: score by sparsity and cost, layers, fitness over the search, early against final."""
    metric, score = str(runs["metric"].iloc[0]), score_column(runs)
    about = f"{name}, {metric}"
    sound, results = runs[runs[score].notna()], [material.results[index] for index in runs.index if index < len(material.results)]
    look = looks(dict.fromkeys([*sound["method"], *runs["method"]]))  # as the figures of sound runs have it
    figures = []
    if len(sound):
        shown = "On the test split." if score == "test_score" else "On the validation split, the test split is not open."
        figures.append(
            figure("Score against sparsity", f"{shown} Bars: 95% t intervals.", lambda ax: plot_accuracy(sound, ax), about)
        )
    if len(sound) and not _equal_costs(sound):
        figures.append(
            figure("Score against cost", "A small point is a run, a large one a mean.", lambda ax: plot_cost(sound, ax), about)
        )
    if any(result.get("layers") for result in results):
        caption = "Share of each layer's weights that is kept, mean over runs."
        figures.append(figure("Layer densities", caption, lambda ax: _densities(results, look, ax), about))
    figures += [_searched(method, trace, chosen, about) for method, trace, chosen in _searches(material, runs)]
    pairs = [(method, *_early_late(history)) for method, history in _histories(material, runs) if len(history) > 1]
    pairs = [pair for pair in pairs if all(math.isfinite(value) for value in pair[1:])]
    if len(pairs) > 2:
        figures.append(
            figure("Early against final", _early_words(runs, pairs), lambda ax: _scatter(pairs, metric, look, ax), about)
        )
    return figures


def _equal_costs(runs: pd.DataFrame) -> bool:
    """Whether several methods that prune cost about the same everywhere."""
    sparse = runs[[prunes(str(method)) for method in runs["method"]]]
    cost = sparse["dense_equivalent_epochs"].astype(float).dropna()
    return sparse["method"].nunique() > 1 and bool(cost.min() > 0) and bool(cost.max() <= ALIKE * cost.min())


def _searches(material: Material, runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame, Any]]:
    """The first trace of each method whose search took several networks, and the criterion that it chose by."""
    found: dict[str, tuple[str, pd.DataFrame, Any]] = {}
    for index, trace in material.searches:
        if index in runs.index and len(trace) and trace["individual"].nunique() > 1:
            method = str(runs["method"][index])
            options = material.results[index].get("arguments", {}).get("options", {}) if index < len(material.results) else {}
            found.setdefault(method, (method, trace, options.get("criterion")))
    return list(found.values())


def _searched(method: str, trace: pd.DataFrame, criterion: Any, about: str) -> dict[str, str]:
    last = trace.groupby("individual")["epoch"].max()
    longest = int((last == last.max()).sum())
    went_on = (
        "The line that goes on is the one that was kept."
        if longest == 1
        else f"The {longest} lines that go on are the finalists."
    )
    caption = "Every network that was trained, the losers included: one run. " + (
        went_on if longest < len(last) else "All trained as long."
    )
    if isinstance(criterion, str) and criterion not in ("accuracy", "loss"):
        caption += f" Chosen by {criterion}, not by the score that is drawn."
    return figure(f"Fitness over the search: {method}", caption, lambda ax: plot_trace(trace, ax), about)


def _densities(results: Sequence[Mapping[str, Any]], look: Looks, ax: Axes) -> None:
    style(ax)
    sparse = [result for result in results if result.get("layers") and prunes(str(result["method"]))] or list(results)
    asked = [result["sparsity"] for result in sparse if result.get("sparsity") is not None]
    highest = max(asked, default=None)
    chosen = [result for result in sparse if result.get("sparsity") in (highest, None)]
    names = [layer["name"].removesuffix(".weight") for layer in chosen[0]["layers"]]
    methods = list(dict.fromkeys(str(result["method"]) for result in chosen))
    for index, method in enumerate(methods):
        own = [result for result in chosen if result["method"] == method]
        shares = np.array([[layer["survivors"] / layer["prunable"] for layer in result["layers"]] for result in own])
        colour, marker = look[method]
        where = np.arange(len(names)) + (index - (len(methods) - 1) / 2) * 0.06
        ax.plot(where, shares.mean(0), marker=marker, color=colour, label=method, linewidth=1.2)
    ax.set_xticks(range(len(names)), names, rotation=0 if len(names) < 8 else 90)
    ax.set_yscale("log")
    log_ticks(ax.yaxis, percent())
    ax.set_ylabel("weights kept")
    ax.set_title("layer by layer" + ("" if highest is None else f", sparsity {highest:.4g}"), loc="left", fontsize=11)
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _histories(material: Material, runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    kept = [(index, material.histories[index]) for index in runs.index if index < len(material.histories)]
    return [(str(runs["method"][index]), history) for index, history in kept if history is not None]


def _early_late(history: pd.DataFrame) -> tuple[float, float]:
    """The validation score early and at the end."""
    column = "val_accuracy" if "val_accuracy" in history and history["val_accuracy"].notna().any() else "val_loss"
    if column not in history or "epoch" not in history:
        return math.nan, math.nan
    last = history["epoch"].max()
    early = history[history["epoch"] <= max(1.0, EARLY * last)]
    return float((early if len(early) else history)[column].iloc[-1]), float(history[column].iloc[-1])


def _early_words(runs: pd.DataFrame, pairs: Sequence[tuple[str, float, float]]) -> str:
    from scipy import stats

    early, late = (np.array([pair[index] for pair in pairs]) for index in (1, 2))
    if len(set(early)) < 2 or len(set(late)) < 2:
        return "A point is a run; the scores do not vary."
    rho = float(stats.spearmanr(early, late).statistic)
    return (
        f"A point is a run: its validation score after the first fifth of the epochs, and at the end. Rank correlation {rho:.2f} "
        f"over {len(pairs)} runs of {runs['method'].nunique()} methods; most of it may come from differences between methods."
    )


def _scatter(pairs: Sequence[tuple[str, float, float]], metric: str, look: Looks, ax: Axes) -> None:
    style(ax)
    for method in dict.fromkeys(name for name, _, _ in pairs):
        colour, marker = look[method]
        own = np.array([pair[1:] for pair in pairs if pair[0] == method])
        ax.scatter(own[:, 0], own[:, 1], s=26, marker=marker, color=colour, alpha=0.75, label=method)
    if metric == "accuracy":
        ax.xaxis.set_major_formatter(percent())
        ax.yaxis.set_major_formatter(percent())
    ax.set_xlabel(f"early validation {metric}")
    ax.set_ylabel(f"final validation {metric}")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
