"""Controls of single tickets, beside the runs they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evoprune.evidence.checked import rejudged
from evoprune.evidence.plots.controls import plot_controls
from evoprune.evidence.report.group import Group, mark_of, placed
from evoprune.evidence.report.material import Material
from evoprune.evidence.report.svg import figure
from evoprune.evidence.tables import plus_minus

__all__ = ["place_checks"]


def place_checks(groups: Sequence[Group], material: Material) -> None:
    """Give every check to the group of its model and data set."""
    for name, saved, frame in material.checks:
        told = rejudged(saved, frame)
        metric = str(told.get("metric", "accuracy"))
        rows = [_row(row, metric) for row in told.get("controls", ())]
        drawn = figure(f"Controls of {name}", "", lambda ax, frame=frame: plot_controls(frame, ax))  # type: ignore[misc]
        placed(groups, told).checks.append(
            {"name": name, "verdict": told.get("verdict"), "because": told.get("because"), "rows": rows, "figure": drawn}
        )


def _row(row: Mapping[str, Any], metric: str) -> dict[str, str]:
    values = {
        name: math.nan if row.get(name) is None else float(row[name])
        for name in ("mean", "gain", "gain_low", "gain_high", "p_holm")
    }
    words = str(row.get("ticket_is", ""))
    return {
        "control": str(row["control"]).replace("_", " "),
        "networks": str(row["networks"]),
        "mean": plus_minus(values["mean"], math.nan, metric),
        "gain": plus_minus(values["gain"], (values["gain_high"] - values["gain_low"]) / 2, metric, "+"),
        "p": "–" if math.isnan(values["p_holm"]) else f"{values['p_holm']:.2g}",
        "words": words,
        "mark": mark_of(words),
    }
