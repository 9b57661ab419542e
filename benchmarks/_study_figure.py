"""The study in one picture: what each method gains over a random mask, a panel a place."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from evoprune.evidence.plots.style import GREY, INK, style
from evoprune.evidence.tables import prunes
from evoprune.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

BETTER, WORSE, OPEN = "#009E73", "#D55E00", "#555555"


def draw(summary: pd.DataFrame, path: Path) -> Path:
    """One row a model and data set, one column a sparsity; white behind, so that it reads on dark pages too.

    summary: as of `summarise`, with columns model and data before. A gain is in points of test accuracy, or in the loss that is
    saved. Full marks: Holm's test says better or worse; open ones: no difference is shown.
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
        for height, method in enumerate(methods):
            _line(ax, height, known.get(method))
    else:
        ax.set_xticks([])
        ax.text(0.5, 0.5, "not run yet", transform=ax.transAxes, fontsize=9, color=GREY, ha="center", va="center")
    ax.set_yticks(range(len(methods)), methods, fontsize=9)
    ax.set_ylim(len(methods) - 0.5, -0.5)


def _line(ax: Axes, height: int, row: dict[Any, Any] | None) -> None:
    if row is None:
        ax.text(0.0, height, " no run", fontsize=7.5, color=GREY, va="center")
    elif row["difference"] == row["difference"]:
        _mark(ax, height, row)


def _mark(ax: Axes, height: int, row: dict[Any, Any]) -> None:
    scale = 100.0 if row["metric"] == "accuracy" else -1.0  # of a loss, less is more
    gain, ends = scale * row["difference"], sorted((scale * row["difference_low"], scale * row["difference_high"]))
    colour = {"better": BETTER, "worse": WORSE}.get(row["words"], OPEN) if prunes(row["method"]) else GREY
    shown = row["words"] in ("better", "worse") or not prunes(row["method"])
    if ends[0] == ends[0]:
        ax.plot(ends, (height, height), color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    shape = "o" if prunes(row["method"]) else "P"
    ax.plot([gain], [height], shape, color=colour, markerfacecolor=colour if shown else "white", markersize=5.5, zorder=3)
