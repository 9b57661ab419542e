"""Who came from whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evoprune.criteria import CRITERIA
from evoprune.errors import InputError
from evoprune.evidence.plots.style import COLOURS, GREY, axes_of, style, whole_numbers
from evoprune.evolution.objectives import COUNTS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_genealogy"]


def plot_genealogy(genealogy: pd.DataFrame, ax: Axes | None = None, *, column: str | None = None) -> Axes:
    """Every evaluated individual by generation and fitness, with lines to its parents; the ancestors of the best stand out.

    genealogy: as of `Genealogy.frame()`. column: the objective to draw; None takes the first. The best is the one the lines
    lead to: the lowest value of a criterion or count that is minimised, and of an unknown column that is called a loss or an mse;
    else the highest.
    """
    if not len(genealogy):
        raise InputError("the genealogy is empty: evaluate at least one generation")
    known = ("generation", "mask", "parents", "operator", "operator_seed", "survivors", "count", "failed", "lineage", "diversity")
    objectives = [name for name in genealogy.columns if name not in known]
    column = column or (objectives[0] if objectives else "survivors")
    if column not in genealogy:
        raise InputError(f"the genealogy has no column {column!r}: choose from {', '.join(map(str, genealogy.columns))}")
    ax = axes_of(ax, (8.0, 4.6))
    style(ax)
    sound = genealogy[~genealogy["failed"].astype(bool) & genealogy[column].notna()].drop_duplicates("mask")
    places = {row["mask"]: (float(row["generation"]), float(row[column])) for row in sound.to_dict("records")}
    parents = {row["mask"]: tuple(row["parents"]) for row in sound.to_dict("records")}
    best = None
    if len(sound):
        values = sound.set_index("mask")[column].astype(float)
        best = values.idxmin() if _minimised(column) else values.idxmax()
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
    whole_numbers(ax)
    ax.set_xlabel("generation")
    ax.set_ylabel(column.replace("val_", "validation ").replace("_", " "))
    ax.set_title(f"{len(places)} networks; the best and its {max(0, len(line) - 1)} ancestors", loc="left", fontsize=11)
    return ax


def _minimised(column: str) -> bool:
    if column in CRITERIA:
        return CRITERIA[column].direction == "min"
    return column in COUNTS or "loss" in column or "mse" in column


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
