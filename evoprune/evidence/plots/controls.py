"""A ticket beside its controls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from evoprune.errors import InputError
from evoprune.evidence.plots.style import COLOURS, axes_of, percent, style
from evoprune.evidence.statistics import mean_interval
from evoprune.words import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_controls"]


def plot_controls(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Scores of a ticket and its controls: a dot a network, and each mean with its 95% t interval over seeds.

    frame: as of `Check.frame` or a run's `check.csv`. The band is the ticket's own interval.
    """
    if not len(frame) or "ticket" not in set(frame["control"]):
        raise InputError("the frame holds no row of the ticket: give the frame of check(), or a run's check.csv")
    names = list(dict.fromkeys(frame["control"]))
    ax = axes_of(ax, (8.0, 1.2 + 0.42 * len(names)))
    style(ax, grid="x")
    own = mean_interval(frame[frame["control"] == "ticket"]["score"])
    ax.axvline(own.mean, color=COLOURS[1], linewidth=1.2, linestyle="--", zorder=1)
    if not math.isnan(own.low):
        ax.axvspan(own.low, own.high, color=COLOURS[1], alpha=0.10, linewidth=0, zorder=0)
    for row, name in enumerate(names):
        scores = frame[frame["control"] == name]["score"].dropna()
        colour = COLOURS[1] if name == "ticket" else COLOURS[0]
        spread = np.linspace(-0.16, 0.16, len(scores)) if len(scores) > 1 else np.zeros(len(scores))
        ax.scatter(scores, row + spread, s=14, color=colour, alpha=0.4, linewidth=0, zorder=2)
        mean = mean_interval(frame[frame["control"] == name].groupby("seed")["score"].mean())
        half = 0.0 if math.isnan(mean.half) else mean.half
        ax.errorbar(mean.mean, row, xerr=half, fmt="D", color=colour, markeredgecolor="white", capsize=2.5, zorder=3)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.invert_yaxis()
    metric = str(frame["metric"].iloc[0])
    if metric == "accuracy":
        ax.xaxis.set_major_formatter(percent())
    ax.set_xlabel("validation accuracy" if metric == "accuracy" else f"validation {metric} (lower is better)")
    seeds = int(frame["seed"].nunique())
    ax.set_title(f"the ticket and its controls, {counted(seeds, 'seed')}", loc="left", fontsize=11)
    return ax
