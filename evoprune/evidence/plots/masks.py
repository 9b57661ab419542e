"""Where a mask keeps its weights: layer by layer, and inside a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from evoprune.errors import InputError
from evoprune.evidence.plots.style import COLOURS, INK, axes_of, percent, style
from evoprune.masks.mask import Mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_layers", "plot_mask"]


class Masked(Protocol):
    """What has a mask: a ticket, an individual."""

    @property
    def mask(self) -> Mask: ...


def _mask_of(given: Mask | Masked) -> Mask:
    return given if isinstance(given, Mask) else given.mask


def plot_layers(mask: Mask | Masked, ax: Axes | None = None) -> Axes:
    """Share of the weights that each layer keeps, with the counts; of a mask, or of what has one (a ticket, an individual)."""
    mask = _mask_of(mask)
    space = mask.space
    ax = axes_of(ax, (7.0, 0.9 + 0.34 * len(space)))
    style(ax, grid="x")
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
    ax.xaxis.set_major_formatter(percent())
    ax.set_xlabel("weights kept")
    ax.set_title(f"{mask.count:,} of {space.prunable:,} weights, sparsity {mask.sparsity:.2%}", loc="left", fontsize=11)
    return ax


def plot_mask(mask: Mask | Masked, layer: int | str = 0, ax: Axes | None = None, *, pixels: int = 256) -> Axes:
    """Where a layer keeps its weights: inputs across, output units down, a filter's taps side by side.

    mask: or what has one (a ticket, an individual). A layer with more than `pixels` rows or columns is shown as the share kept
    in each block of weights.
    """
    mask = _mask_of(mask)
    position = mask.space.index[layer] if isinstance(layer, str) and layer in mask.space.index else layer
    if not isinstance(position, int) or not -len(mask.space) <= position < len(mask.space):
        raise InputError(
            f"there is no layer {layer!r}: give a number below {len(mask.space)} or one of {', '.join(mask.space.names)}"
        )
    rows = mask.space.shapes[position][0]
    columns = mask.space.sizes[position] // rows
    ax = axes_of(ax, (7.0, 4.2))
    where, size = np.divmod(mask.survivors[position], columns), [min(rows, pixels), min(columns, pixels)]
    edges = [np.linspace(0, length, number + 1).round() for length, number in zip((rows, columns), size, strict=True)]
    kept = np.histogram2d(where[0] + 0.5, where[1] + 0.5, bins=edges)[0]
    share = kept / np.outer(np.diff(edges[0]), np.diff(edges[1]))  # blocks hold whole rows and columns
    top = float(share.max()) or 1.0
    ax.imshow(share, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest", extent=(0, columns, rows, 0))
    ax.set_xlabel("inputs" if len(mask.space.shapes[position]) == 2 else "input channels and taps")
    ax.set_ylabel("output units")
    count, total = mask.counts[position], mask.space.sizes[position]
    name = mask.space.names[position].removesuffix(".weight")
    ax.set_title(f"{name}: {count:,} of {total:,} weights kept", loc="left", fontsize=11)
    return ax
