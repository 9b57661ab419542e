"""The study in one picture: what each method gains over a random mask, a panel a place."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from evoprune.evidence.plots.style import GREY, INK, style
from evoprune.evidence.samples import prunes
from evoprune.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

BETTER, WORSE, OPEN = "#009E73", "#D55E00", "#555555"


def draw(summary: pd.DataFrame, path: Path) -> Path:
    """One row a model and data set, one column a sparsity; white behind, so that it reads on dark pages too.

    summary: as of `summarise`, with columns model and data before. A gain is in points of test accuracy, or in the loss that is
    saved. Full marks: Holm's test says better or worse; open ones: no difference is shown. An interval that is far wider than
    what the methods of a panel differ by ends in an arrow at its edge.
    """
    from matplotlib.figure import Figure

    places = [(str(model), str(data)) for model, data in summary[["model", "data"]].drop_duplicates().itertuples(index=False)]
    sparsities = sorted(summary["sparsity"].dropna().unique())
    methods = sorted((str(name) for name in summary["method"].unique() if name != "random"), key=lambda name: not prunes(name))
    size = (2.0 + 2.4 * len(sparsities), 0.9 + len(places) * (0.9 + 0.21 * len(methods)))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(len(places), len(sparsities), squeeze=False, sharey=True)
    for row, (model, data) in enumerate(places):
        own = summary[(summary["model"] == model) & (summary["data"] == data)]
        for column, sparsity in enumerate(sparsities):
            _panel(grid[row][column], own[own["sparsity"] == sparsity], methods)
            grid[row][column].set_title(
                f"{sparsity:.4g}" if column else f"{model}, {data}: {sparsity:.4g}", loc="left", fontsize=9.5
            )
        unit = "points of test accuracy" if own["metric"].iloc[0] == "accuracy" else "test loss saved"
        grid[row][0].set_xlabel(f"gain over random, {unit}", fontsize=9, color="#555555", loc="left")
    text = io.BytesIO()
    figure.savefig(text, format="png", dpi=130, metadata={"Software": None})
    return atomic_write(path, text.getvalue())


def _panel(ax: Axes, rows: pd.DataFrame, methods: Sequence[str]) -> None:
    style(ax, "x")
    known = {str(row["method"]): row for row in rows.to_dict("records")}
    if any(prunes(method) and method != "random" for method in known):
        ax.axvline(0, color=INK, linewidth=0.9)
        limits = _limits([interval for interval in map(_interval, known.values()) if interval[1] == interval[1]])
        ax.set_xlim(*limits)
        for height, method in enumerate(methods):
            _line(ax, height, known.get(method), limits)
    else:
        ax.set_xticks([])
        ax.text(0.5, 0.5, "not run yet", transform=ax.transAxes, fontsize=9, color=GREY, ha="center", va="center")
    ax.set_yticks(range(len(methods)), methods, fontsize=9)
    ax.set_ylim(len(methods) - 0.5, -0.5)


def _interval(row: dict[Any, Any]) -> tuple[float, float, float]:
    """Low end, gain and high end; NaN where there are none."""
    scale = 100.0 if row["metric"] == "accuracy" else -1.0  # of a loss, less is more
    low, high = sorted((scale * row["difference_low"], scale * row["difference_high"]))
    return low, scale * row["difference"], high


def _limits(intervals: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Of the axis: all gains and 0, and of the intervals what reaches no further out than half of that."""
    gains = [0.0, *(gain for _, gain, _ in intervals)]
    reach = 0.5 * (max(gains) - min(gains))
    low = max(min(gains) - reach, min([*gains, *(low for low, _, _ in intervals if low == low)]))
    high = min(max(gains) + reach, max([*gains, *(high for _, _, high in intervals if high == high)]))
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _line(ax: Axes, height: int, row: dict[Any, Any] | None, limits: tuple[float, float]) -> None:
    if row is None:
        ax.text(0.0, height, " no run", fontsize=7.5, color=GREY, va="center")
    elif row["difference"] == row["difference"]:
        _mark(ax, height, row, limits)


def _mark(ax: Axes, height: int, row: dict[Any, Any], limits: tuple[float, float]) -> None:
    low, gain, high = _interval(row)
    colour = {"better": BETTER, "worse": WORSE}.get(row["words"], OPEN) if prunes(row["method"]) else GREY
    shown = row["words"] in ("better", "worse") or not prunes(row["method"])
    if low == low:
        ax.plot((low, high), (height, height), color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
        for edge, arrow, beyond in ((limits[0], "<", low < limits[0]), (limits[1], ">", high > limits[1])):
            if beyond:
                ax.plot([edge], [height], arrow, color=colour, markersize=5, clip_on=False, zorder=3)
    shape = "o" if prunes(row["method"]) else "P"
    ax.plot([gain], [height], shape, color=colour, markerfacecolor=colour if shown else "white", markersize=5.5, zorder=3)
