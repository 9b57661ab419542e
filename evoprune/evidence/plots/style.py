"""What every picture shares: colours, markers, axes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from evoprune.evidence.samples import prunes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "GREY",
    "INK",
    "MARKERS",
    "axes_of",
    "log_ticks",
    "looks",
    "percent",
    "plain_number",
    "score_axis",
    "style",
    "whole_numbers",
]


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#444444")
"""Told apart with any colour vision.  [Okabe and Ito 2008, Color universal design]"""
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}  # as drawn, and as written
GREY, INK = "#8a8a8a", "#222222"


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


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def style(ax: Axes, grid: str = "y") -> None:
    for side in ("top", "right", "left" if grid == "x" else "top"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#bbbbbb")
    ax.grid(axis=grid, color="#e6e6e6", linewidth=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    ax.tick_params(colors="#555555", labelsize=9.5, length=3)


def percent() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{round(value * 100, 6):g}%")


def score_axis(ax: Axes, metric: str, split: str) -> None:
    if metric == "accuracy":
        ax.yaxis.set_major_formatter(percent())
    ax.set_ylabel(f"{split} accuracy" if metric == "accuracy" else f"{split} {metric} (lower is better)")


def plain_number() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:g}")


def whole_numbers(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
