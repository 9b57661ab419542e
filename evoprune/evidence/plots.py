"""Pictures. Each function takes and returns a matplotlib `Axes`, so that they go into any figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune.errors import InputError
from evoprune.evidence.statistics import mean_interval
from evoprune.evidence.tables import prunes, score_column, summarise

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from evoprune.masks.mask import Mask

__all__ = [
    "plot_accuracy",
    "plot_controls",
    "plot_cost",
    "plot_genealogy",
    "plot_layers",
    "plot_mask",
    "plot_pareto",
    "plot_trace",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#444444")
"""Told apart with any colour vision.  [Okabe and Ito 2008, Color universal design]"""
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}  # as drawn, and as written
GREY, INK = "#8a8a8a", "#222222"


def plot_accuracy(runs: pd.DataFrame, ax: Axes | None = None, *, level: float = 0.95) -> Axes:
    """Score against sparsity: a line a method with its t intervals, methods that prune nothing as horizontal references.

    runs: as of `load_runs` or a comparison's results, of one model and data set. The axis is logarithmic in the survivors,
    so that each halving of the network takes the same width.
    """
    ax = _axes(ax, (8.0, 4.8))
    table, kind = summarise(runs, level=level), score_column(runs).removesuffix("_score")
    _style(ax)
    lines = [name for name in table["method"].unique() if prunes(name)]
    asked = sorted(table["sparsity"].dropna().unique())
    places = [_place(value) for value in asked]
    step = _dodge(places, len(lines))
    ends: list[tuple[float, str, str, bool]] = []
    for index, name in enumerate(lines):
        own = table[table["method"] == name]
        obtained = own["sparsity"].fillna(own["sparsity_obtained"])  # an outcome stands where it came out
        x = np.array([_place(value) for value in obtained]) + (index - (len(lines) - 1) / 2) * step
        colour = COLOURS[index % len(COLOURS)]
        _name_outcomes(ax, x, own, kind, colour)
        marker, sign = list(MARKERS.items())[(index + 3 * (index // len(COLOURS))) % len(MARKERS)]
        _line(ax, x, own, kind, colour, marker, dashed=index >= len(COLOURS))
        ends.append((float(own[f"{kind}_mean"].iloc[-1]), f"{sign} {name}", colour, False))
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


def plot_layers(mask: Mask, ax: Axes | None = None) -> Axes:
    """Share of the weights that each layer keeps, with the counts."""
    space = mask.space
    ax = _axes(ax, (7.0, 0.9 + 0.34 * len(space)))
    _style(ax, grid="x")
    shares = [count / size for count, size in zip(mask.counts, space.sizes, strict=True)]
    rows = np.arange(len(space))
    ax.barh(rows, [1.0] * len(rows), color="#ececec", height=0.7)
    ax.barh(rows, shares, color=COLOURS[0], height=0.7)
    for row, share, count, size in zip(rows, shares, mask.counts, space.sizes, strict=True):
        inside = share > 0.6
        ax.annotate(
            f"{count:,} of {size:,}",
            (share, row),
            xytext=(-5 if inside else 5, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=8.5,
            color="white" if inside else INK,
        )
    ax.set_yticks(rows, [name.removesuffix(".weight") for name in space.names])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(_percent())
    ax.set_xlabel("weights kept")
    ax.set_title(f"{mask.count:,} of {space.prunable:,} weights, sparsity {mask.sparsity:.2%}", loc="left", fontsize=11)
    return ax


def plot_trace(trace: pd.DataFrame, ax: Axes | None = None, *, column: str | None = None) -> Axes:
    """One line an individual over the epochs; whoever trained longest stands out.

    trace: as of `Trace.frame()` or a run's `trace.csv`. column: what to draw, `val_accuracy` (or `val_loss` where there is none).
    """
    if not len(trace):
        raise InputError("the trace is empty: train at least one epoch")
    accurate = "val_accuracy" in trace and trace["val_accuracy"].notna().any()
    column = column or ("val_accuracy" if accurate else "val_loss")
    if column not in trace:
        raise InputError(f"the trace has no column {column!r}: choose from {', '.join(map(str, trace.columns))}")
    ax = _axes(ax, (7.0, 4.2))
    _style(ax)
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
    _whole_numbers(ax)
    if column == "val_accuracy":
        ax.yaxis.set_major_formatter(_percent())
    ax.set_xlabel("epoch")
    ax.set_ylabel(column.replace("val_", "validation ").replace("_", " "))
    ax.set_title(f"{trace['individual'].nunique()} networks", loc="left", fontsize=11)
    return ax


def plot_cost(runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Score against cost: a point a run, a larger one for the mean of each method and sparsity.

    runs: as of `load_runs` or a comparison's results, of one model and data set. Cost is in epochs of the dense network, losers
    included, on a logarithmic axis. Each sparsity is written at its mean.
    """
    ax = _axes(ax, (8.0, 4.8))
    _style(ax)
    score = score_column(runs)
    for name, (colour, marker) in looks(runs["method"].unique()).items():
        own = runs[runs["method"] == name]
        ax.scatter(own["dense_equivalent_epochs"], own[score], color=colour, marker=marker, s=14, alpha=0.45, linewidth=0)
        means = own.groupby("sparsity_obtained" if own["sparsity"].isna().all() else "sparsity", dropna=True)[
            ["dense_equivalent_epochs", score]
        ].mean()
        place, height = means["dense_equivalent_epochs"], means[score]
        ax.scatter(place, height, color=colour, marker=marker, s=60, edgecolor="white", label=str(name), zorder=3)
        for sparsity, x, y in zip(means.index, place, height, strict=True):
            if prunes(str(name)) and math.isfinite(x) and math.isfinite(y):
                text = f"{float(sparsity) * 100:.4g}%"
                ax.annotate(text, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8, color=colour)
    if (runs["dense_equivalent_epochs"] > 0).any():
        ax.set_xscale("log")
        log_ticks(ax.xaxis, _plain_number())
    _score_axis(ax, str(runs["metric"].iloc[0]), {"test_score": "test", "val_score": "validation"}[score])
    ax.set_xlabel("cost in epochs of the dense network, losers included")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def plot_controls(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Scores of a ticket and its controls: a dot a network, and each mean with its 95% t interval.

    frame: as of `Check.frame` or a run's `check.csv`. The band is the ticket's own interval.
    """
    if not len(frame) or "ticket" not in set(frame["control"]):
        raise InputError("the frame holds no row of the ticket: give the frame of check(), or a run's check.csv")
    names = list(dict.fromkeys(frame["control"]))
    ax = _axes(ax, (8.0, 1.2 + 0.42 * len(names)))
    _style(ax, grid="x")
    own = mean_interval(frame[frame["control"] == "ticket"]["score"])
    ax.axvline(own.mean, color=COLOURS[1], linewidth=1.2, linestyle="--", zorder=1)
    if not math.isnan(own.low):
        ax.axvspan(own.low, own.high, color=COLOURS[1], alpha=0.10, linewidth=0, zorder=0)
    for row, name in enumerate(names):
        scores = frame[frame["control"] == name]["score"].dropna()
        colour = COLOURS[1] if name == "ticket" else COLOURS[0]
        spread = np.linspace(-0.16, 0.16, len(scores)) if len(scores) > 1 else np.zeros(len(scores))
        ax.scatter(scores, row + spread, s=14, color=colour, alpha=0.4, linewidth=0, zorder=2)
        mean = mean_interval(scores)
        half = 0.0 if math.isnan(mean.half) else mean.half
        ax.errorbar(mean.mean, row, xerr=half, fmt="D", color=colour, markeredgecolor="white", capsize=2.5, zorder=3)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.invert_yaxis()
    metric = str(frame["metric"].iloc[0])
    if metric == "accuracy":
        ax.xaxis.set_major_formatter(_percent())
    ax.set_xlabel("validation accuracy" if metric == "accuracy" else f"validation {metric} (lower is better)")
    seeds = int(frame["seed"].nunique())
    ax.set_title(f"the ticket and its controls, {seeds} seed{'s' if seeds > 1 else ''}", loc="left", fontsize=11)
    return ax


def plot_mask(mask: Mask, layer: int | str = 0, ax: Axes | None = None, *, pixels: int = 256) -> Axes:
    """Where a layer keeps its weights: inputs across, output units down, a filter's taps side by side.

    A layer with more than `pixels` rows or columns is shown as the share kept in each block of weights.
    """
    position = mask.space.index[layer] if isinstance(layer, str) and layer in mask.space.index else layer
    if not isinstance(position, int) or not -len(mask.space) <= position < len(mask.space):
        raise InputError(
            f"there is no layer {layer!r}: give a number below {len(mask.space)} or one of {', '.join(mask.space.names)}"
        )
    rows = mask.space.shapes[position][0]
    columns = mask.space.sizes[position] // rows
    ax = _axes(ax, (7.0, 4.2))
    where, size = np.divmod(mask.survivors[position], columns), [min(rows, pixels), min(columns, pixels)]
    edges = [np.linspace(0, length, number + 1) for length, number in zip((rows, columns), size, strict=True)]
    kept = np.histogram2d(where[0] + 0.5, where[1] + 0.5, bins=edges)[0]
    share = kept / np.maximum(np.outer(np.diff(edges[0]), np.diff(edges[1])), 1e-9)
    top = float(share.max()) or 1.0
    ax.imshow(share, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest", extent=(0, columns, rows, 0))
    ax.set_xlabel("inputs" if len(mask.space.shapes[position]) == 2 else "input channels and taps")
    ax.set_ylabel("output units")
    count, total = mask.counts[position], mask.space.sizes[position]
    name = mask.space.names[position].removesuffix(".weight")
    ax.set_title(f"{name}: {count:,} of {total:,} weights kept", loc="left", fontsize=11)
    return ax


def plot_genealogy(genealogy: pd.DataFrame, ax: Axes | None = None, *, column: str | None = None) -> Axes:
    """Every evaluated individual by generation and fitness, with lines to its parents; the ancestors of the best stand out.

    genealogy: as of `Genealogy.frame()`. column: the objective to draw; None takes the first. The best is the one the lines
    lead to: the highest accuracy-like value, or the lowest of a column whose name holds "loss".
    """
    if not len(genealogy):
        raise InputError("the genealogy is empty: evaluate at least one generation")
    known = ("generation", "mask", "parents", "operator", "operator_seed", "survivors", "count", "failed", "lineage", "diversity")
    objectives = [name for name in genealogy.columns if name not in known]
    column = column or (objectives[0] if objectives else "survivors")
    if column not in genealogy:
        raise InputError(f"the genealogy has no column {column!r}: choose from {', '.join(map(str, genealogy.columns))}")
    ax = _axes(ax, (8.0, 4.6))
    _style(ax)
    sound = genealogy[~genealogy["failed"].astype(bool) & genealogy[column].notna()].drop_duplicates("mask")
    places = {row["mask"]: (float(row["generation"]), float(row[column])) for row in sound.to_dict("records")}
    parents = {row["mask"]: tuple(row["parents"]) for row in sound.to_dict("records")}
    best = None
    if len(sound):
        values = sound.set_index("mask")[column].astype(float)
        best = values.idxmin() if "loss" in column or "mse" in column else values.idxmax()
    line = _ancestors(best, parents)
    for child, own in parents.items():
        for parent in own:
            if parent in places:
                bold = child in line and parent in line
                look: dict[str, Any] = (
                    {"color": COLOURS[1], "linewidth": 1.6, "zorder": 3} if bold else {"color": GREY, "linewidth": 0.5}
                )
                ax.plot(*zip(places[parent], places[child], strict=True), alpha=1 if bold else 0.4, **look)
    for mask, (x, y) in places.items():
        ax.scatter(x, y, s=22, color=COLOURS[1] if mask in line else COLOURS[0], zorder=4, edgecolor="white", linewidth=0.5)
    _whole_numbers(ax)
    ax.set_xlabel("generation")
    ax.set_ylabel(column.replace("val_", "validation ").replace("_", " "))
    ax.set_title(f"{len(places)} networks; the best and its {max(0, len(line) - 1)} ancestors", loc="left", fontsize=11)
    return ax


def plot_pareto(frame: pd.DataFrame, ax: Axes | None = None, *, x: str = "survivors", y: str = "val_accuracy") -> Axes:
    """Two objectives of many networks, and the front of those that none beats in both.

    frame: any with the columns x and y: a genealogy, a trace's last epoch, runs. x: smaller is better. y: larger is better,
    unless its name holds "loss" or "mse".
    """
    for name in (x, y):
        if name not in frame:
            raise InputError(f"the frame has no column {name!r}: choose from {', '.join(map(str, frame.columns))}")
    ax = _axes(ax, (7.0, 4.6))
    _style(ax)
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
        ax.yaxis.set_major_formatter(_percent())
    ax.set_xlabel(x.replace("_", " "))
    ax.set_ylabel(y.replace("val_", "validation ").replace("_", " ") + (" (lower is better)" if lower else ""))
    ax.set_title(f"{len(points)} networks, {len(front)} on the front", loc="left", fontsize=11)
    return ax


def _ancestors(best: Any, parents: dict[Any, tuple[Any, ...]]) -> set[Any]:
    """`best` and all it came from."""
    found: set[Any] = set()
    waiting = [] if best is None else [best]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += parents.get(current, ())
    return found & parents.keys()


# ---- pieces of the accuracy plot -----------------------------------------------------------------------------------


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
    if places:
        ax.set_xticks(places, [f"{value * 100:g}%" for value in asked])
        margin = max(0.08 * (places[-1] - places[0]), width, 0.02)
        low, high = ax.get_xlim()
        ax.set_xlim(min(places[0] - margin, low), max(places[-1] + margin, high))
    ax.minorticks_off()
    ax.set_xlabel("sparsity")


def _y_axis(ax: Axes, table: pd.DataFrame, kind: str) -> None:
    metric, split = str(table["metric"].iloc[0]), {"test": "test", "val": "validation"}[kind]
    if metric == "accuracy":
        ax.yaxis.set_major_formatter(_percent())
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
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
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
    named = [str(runs[name].iloc[0]) for name in ("data", "model") if name in runs]
    seeds = int(runs["seed"].nunique())
    about = f"mean and {level:.0%} t interval of {seeds} seeds" if seeds > 1 else "one seed, so no intervals"
    if "epochs" in runs and runs["epochs"].nunique() == 1:
        about += f", {int(runs['epochs'].iloc[0])} epochs"
    ax.set_title(", ".join(named), loc="left", fontsize=12, fontweight="bold", color=INK, pad=22)
    ax.text(0, 1.02, about, transform=ax.transAxes, fontsize=9.5, color="#555555", va="bottom")


def looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, those of the accuracy plot; methods that prune nothing are grey."""
    names = [str(name) for name in methods]
    found = {name: (GREY, "P") for name in names if not prunes(name)}
    for index, name in enumerate(name for name in names if prunes(name)):
        marker = list(MARKERS)[(index + 3 * (index // len(COLOURS))) % len(MARKERS)]
        found[name] = (COLOURS[index % len(COLOURS)], marker)
    return {name: found[name] for name in names}


def log_ticks(axis: Any, formatter: Any) -> None:
    """Ticks at 1, 2, 5, 10, … of a logarithmic axis, and no others."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


# ---- pieces of every plot ------------------------------------------------------------------------------------------


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _style(ax: Axes, grid: str = "y") -> None:
    for side in ("top", "right", "left" if grid == "x" else "top"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#bbbbbb")
    ax.grid(axis=grid, color="#e6e6e6", linewidth=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    ax.tick_params(colors="#555555", labelsize=9.5, length=3)


def _percent() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{round(value * 100, 6):g}%")


def _score_axis(ax: Axes, metric: str, split: str) -> None:
    if metric == "accuracy":
        ax.yaxis.set_major_formatter(_percent())
    ax.set_ylabel(f"{split} accuracy" if metric == "accuracy" else f"{split} {metric} (lower is better)")


def _plain_number() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:g}")


def _whole_numbers(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
