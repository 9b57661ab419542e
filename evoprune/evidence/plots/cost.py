"""Score against cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evoprune.evidence.plots.style import axes_of, log_ticks, looks, plain_number, score_axis, style
from evoprune.evidence.samples import prunes
from evoprune.evidence.tables import score_column

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_cost"]


def plot_cost(runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Score against cost: a point a run, a larger one for the mean of each method and sparsity.

    runs: as of `load_runs` or a comparison's results, of one model and data set. Cost is in epochs of the dense network, losers
    included, on a logarithmic axis. Each sparsity is written at its mean.
    """
    ax = axes_of(ax, (8.0, 4.8))
    style(ax)
    score = score_column(runs)
    for name, (colour, marker) in looks(runs["method"].unique()).items():
        own = runs[runs["method"] == name]
        ax.scatter(own["dense_equivalent_epochs"], own[score], color=colour, marker=marker, s=14, alpha=0.45, linewidth=0)
        asked = own["sparsity"].fillna(own["sparsity_obtained"].where(own["sparsity"].isna()).mean())  # where it is an outcome
        means = own.groupby(asked)[["dense_equivalent_epochs", score]].mean()
        place, height = means["dense_equivalent_epochs"], means[score]
        ax.scatter(place, height, color=colour, marker=marker, s=60, edgecolor="white", label=str(name), zorder=3)
        for sparsity, x, y in zip(means.index, place, height, strict=True):
            if prunes(str(name)) and math.isfinite(x) and math.isfinite(y):
                text = f"{float(sparsity) * 100:.4g}%"
                ax.annotate(text, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8, color=colour)
    if (runs["dense_equivalent_epochs"] > 0).any():
        ax.set_xscale("log")
        log_ticks(ax.xaxis, plain_number())
    score_axis(ax, str(runs["metric"].iloc[0]), {"test_score": "test", "val_score": "validation"}[score])
    ax.set_xlabel("cost in epochs of the dense network, losers included")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
