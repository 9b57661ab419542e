"""Everybody who trained, epoch by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evoprune.errors import InputError
from evoprune.evidence.plots.style import COLOURS, GREY, axes_of, percent, style, whole_numbers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_trace"]


def plot_trace(trace: pd.DataFrame, ax: Axes | None = None, *, column: str | None = None) -> Axes:
    """One line an individual over the epochs; whoever trained longest stands out.

    trace: as of `Trace.frame()` or a run's `trace.csv`, or the history of one network, as of a ticket.
    column: what to draw, `val_accuracy` (or `val_loss` where there is none).
    """
    if not len(trace):
        raise InputError("the trace is empty: train at least one epoch")
    accurate = "val_accuracy" in trace and trace["val_accuracy"].notna().any()
    column = column or ("val_accuracy" if accurate else "val_loss")
    if column not in trace:
        raise InputError(f"the trace has no column {column!r}: choose from {', '.join(map(str, trace.columns))}")
    if "individual" not in trace:
        trace = trace.assign(individual=0)
    ax = axes_of(ax, (7.0, 4.2))
    style(ax)
    last = trace.groupby("individual")["epoch"].max()
    longest = set(last[last == last.max()].index) if last.nunique() > 1 else set()
    for individual, own in trace.groupby("individual"):
        own = own.sort_values("epoch").dropna(subset=[column])
        best = individual in longest
        look: dict[str, Any] = {"color": COLOURS[1], "linewidth": 2, "zorder": 3} if best else {"color": GREY, "linewidth": 0.9}
        ax.plot(own["epoch"], own[column], marker="o", markersize=3.5, alpha=1 if best or not longest else 0.6, **look)
    if longest:
        own = trace[trace["individual"].isin(longest)].dropna(subset=[column]).sort_values("epoch")
        where = (float(own["epoch"].iloc[-1]), float(own[column].iloc[-1]))
        label = "the winner" if len(longest) == 1 else f"the last {len(longest)}"
        ax.annotate(label, where, xytext=(7, 0), textcoords="offset points", va="center", color=COLOURS[1], fontsize=9)
        ax.margins(x=0.12)
    whole_numbers(ax)
    if column == "val_accuracy":
        ax.yaxis.set_major_formatter(percent())
    ax.set_xlabel("epoch")
    ax.set_ylabel(column.replace("val_", "validation ").replace("_", " "))
    number = trace["individual"].nunique()
    ax.set_title(f"{number} network{'' if number == 1 else 's'}", loc="left", fontsize=11)
    return ax
