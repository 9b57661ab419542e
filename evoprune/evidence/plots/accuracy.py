"""Score against sparsity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune.evidence.plots.style import COLOURS, GREY, INK, MARKERS, axes_of, looks, percent, style
from evoprune.evidence.samples import prunes
from evoprune.evidence.tables import score_column, summarise
from evoprune.formats import as_utf8
from evoprune.words import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_accuracy", "spread_apart"]


def plot_accuracy(runs: pd.DataFrame, ax: Axes | None = None, *, level: float = 0.95) -> Axes:
    """Score against sparsity: a line a method with its t intervals, methods that prune nothing as horizontal references.

    runs: as of `load_runs` or a comparison's results, of one model and data set. The axis is logarithmic in the survivors,
    so that each halving of the network takes the same width.
    """
    ax = axes_of(ax, (8.0, 4.8))
    table, kind = summarise(runs, level=level), score_column(runs).removesuffix("_score")
    style(ax)
    look = looks(name for name in runs["method"].unique() if prunes(name))  # the table has those of open sparsity last
    lines = [name for name in table["method"].unique() if prunes(name)]
    asked = sorted(table["sparsity"].dropna().unique())
    places = [_place(value) for value in asked]
    step = _dodge(places, len(lines))
    ends: list[tuple[float, str, str, bool]] = []
    for index, name in enumerate(lines):
        own = table[table["method"] == name]
        obtained = own["sparsity"].fillna(own["sparsity_obtained"])  # an outcome stands where it came out
        x = np.array([_place(value) for value in obtained]) + (index - (len(lines) - 1) / 2) * step
        colour, marker = look[name]
        _name_outcomes(ax, x, own, kind, colour)
        _line(ax, x, own, kind, colour, marker, dashed=list(look).index(name) >= len(COLOURS))
        ends.append((float(own[f"{kind}_mean"].iloc[-1]), f"{MARKERS[marker]} {name}", colour, False))
    for index, name in enumerate(name for name in table["method"].unique() if not prunes(name)):
        own = table[table["method"] == name].iloc[0]
        ax.axhline(own[f"{kind}_mean"], color=GREY, linewidth=1.2, linestyle=("--", ":", "-.")[index % 3], zorder=1)
        if not math.isnan(own[f"{kind}_low"]):
            ax.axhspan(own[f"{kind}_low"], own[f"{kind}_high"], color=GREY, alpha=0.10, linewidth=0, zorder=0)
        ends.append((float(own[f"{kind}_mean"]), name, GREY, True))
    _x_axis(ax, asked, places, step * len(lines))
    _y_axis(ax, table, kind)
    _label_ends(ax, ends)
    _titles(ax, runs, table, kind, level)
    return ax


def _place(sparsity: float) -> float:
    """Where a sparsity stands: 0 at 0%, 1 at 90%, 2 at 99%."""
    return -math.log10(max(1 - sparsity, 1e-12))


def _dodge(places: Sequence[float], lines: int) -> float:
    """How far apart the methods of one sparsity stand, so that their intervals do not hide each other."""
    gaps = np.diff(places)
    return float(min(0.035, 0.45 / max(lines, 1)) * (gaps.min() if len(gaps) else 1.0))


def _line(ax: Axes, x: Any, own: pd.DataFrame, kind: str, colour: str, marker: str, *, dashed: bool) -> None:
    mean = own[f"{kind}_mean"].to_numpy(dtype=float)
    spread = np.abs(own[[f"{kind}_low", f"{kind}_high"]].to_numpy(dtype=float).T - mean)
    joined = own["sparsity"].notna().to_numpy()
    ax.plot(x[joined], mean[joined], color=colour, linewidth=1.6, alpha=0.75, linestyle="--" if dashed else "-", zorder=2)
    ax.errorbar(
        x,
        mean,
        yerr=np.nan_to_num(spread),
        fmt=marker,
        color=colour,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.8,
        elinewidth=1.4,
        capsize=2.5,
        zorder=3,
    )


def _name_outcomes(ax: Axes, x: Any, own: pd.DataFrame, kind: str, colour: str) -> None:
    """A sparsity that nobody asked for has no tick: say it at the point."""
    points = zip(x, own[f"{kind}_mean"], own["sparsity"].isna(), own["sparsity_obtained"], strict=True)
    for place, value, outcome, obtained in points:
        if outcome:
            where: dict[str, Any] = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
            ax.annotate(f"{obtained:.1%}", (place, value), color=colour, fontsize=8.5, **where)


def _x_axis(ax: Axes, asked: Sequence[float], places: Sequence[float], width: float) -> None:
    from matplotlib.ticker import FuncFormatter

    if places:
        ax.set_xticks(places, [f"{value * 100:g}%" for value in asked])
        margin = max(0.08 * (places[-1] - places[0]), width, 0.02)
        low, high = ax.get_xlim()
        ax.set_xlim(min(places[0] - margin, low), max(places[-1] + margin, high))
    else:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{1 - 10**-place:.2%}"))
    ax.minorticks_off()
    ax.set_xlabel("sparsity")


def _y_axis(ax: Axes, table: pd.DataFrame, kind: str) -> None:
    metric, split = str(table["metric"].iloc[0]), {"test": "test", "val": "validation"}[kind]
    if metric == "accuracy":
        ax.yaxis.set_major_formatter(percent())
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 0.0), min(high, 1.0))  # an interval of few seeds may reach beyond
    ax.set_ylabel(f"{split} accuracy" if metric == "accuracy" else f"{split} {metric} (lower is better)")


def _label_ends(ax: Axes, ends: Sequence[tuple[float, str, str, bool]], gap: float = 0.062) -> None:
    """Each method's name at the right, as near to its line's end as the others allow."""
    low, high = ax.get_ylim()
    ordered = sorted(((value - low) / (high - low), name, colour, italic) for value, name, colour, italic in ends)
    heights = spread_apart([height for height, *_ in ordered], gap)
    for (height, name, colour, italic), place in zip(ordered, heights, strict=True):
        ax.annotate(
            name,
            xy=(1.0, height),
            xytext=(1.035, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour,
            fontsize=9.5,
            fontstyle="italic" if italic else "normal",
            fontweight="normal" if italic else "bold",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)},
        )


def spread_apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending positions at least `gap` apart that stay as near as possible to the given ascending ones (least squares)."""
    groups: list[list[float]] = []  # [sum of wanted first positions, members]
    for index, height in enumerate(heights):
        groups.append([height - index * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, members = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += members
    flat = [total / members for total, members in groups for _ in range(int(members))]
    return [start + index * gap for index, start in enumerate(flat)]


def _titles(ax: Axes, runs: pd.DataFrame, table: pd.DataFrame, kind: str, level: float) -> None:
    named = [as_utf8(str(runs[name].iloc[0])) for name in ("data", "model") if name in runs]
    named = [Path(name).name if name.endswith(".npz") else name for name in named]
    seeds = int(runs["seed"].nunique())
    about = f"mean and {level:.0%} t interval of {seeds} seeds" if seeds > 1 else "one seed, so no intervals"
    if "epochs" in runs and runs["epochs"].nunique() == 1:
        about += f", {counted(int(runs['epochs'].iloc[0]), 'epoch')}"
    ax.set_title(", ".join(named), loc="left", fontsize=12, fontweight="bold", color=INK, pad=22, parse_math=False)
    ax.text(0, 1.02, about, transform=ax.transAxes, fontsize=9.5, color="#555555", va="bottom")
