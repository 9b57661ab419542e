"""Two objectives, and the front."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evoprune.errors import InputError
from evoprune.evidence.plots.style import COLOURS, GREY, axes_of, percent, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_pareto"]


def plot_pareto(frame: pd.DataFrame, ax: Axes | None = None, *, x: str = "survivors", y: str = "val_accuracy") -> Axes:
    """Two objectives of many networks, and the front of those that none beats in both.

    frame: any with the columns x and y: a genealogy, a trace's last epoch, runs. x: smaller is better. y: larger is better,
    unless its name holds "loss" or "mse".
    """
    for name in (x, y):
        if name not in frame:
            raise InputError(f"the frame has no column {name!r}: choose from {', '.join(map(str, frame.columns))}")
    ax = axes_of(ax, (7.0, 4.6))
    style(ax)
    points = frame[[x, y]].astype(float).dropna().sort_values(x)
    lower = "loss" in y or "mse" in y
    signed = points[y].to_numpy() * (-1.0 if lower else 1.0)
    order = np.lexsort((-signed, points[x].to_numpy()))
    points, signed = points.iloc[order], signed[order]
    front = points[signed > np.concatenate([[-np.inf], np.maximum.accumulate(signed)[:-1]])]
    ax.scatter(points[x], points[y], s=18, color=GREY, alpha=0.6, linewidth=0)
    ax.step(front[x], front[y], where="post", color=COLOURS[0], linewidth=1.4)
    ax.scatter(front[x], front[y], s=34, color=COLOURS[0], edgecolor="white", zorder=3)
    if "accuracy" in y:
        ax.yaxis.set_major_formatter(percent())
    ax.set_xlabel(x.replace("_", " "))
    ax.set_ylabel(y.replace("val_", "validation ").replace("_", " ") + (" (lower is better)" if lower else ""))
    ax.set_title(f"{len(points)} networks, {len(front)} on the front", loc="left", fontsize=11)
    return ax
