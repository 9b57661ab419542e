"""One self-contained HTML page about many runs: the question, the answer in words, tables, figures, and how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evoprune.errors import InputError
from evoprune.evidence.report.checks import place_checks
from evoprune.evidence.report.commands import command
from evoprune.evidence.report.gaps import versions_of
from evoprune.evidence.report.group import group_of
from evoprune.evidence.report.material import Material
from evoprune.words import counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["page"]


def page(material: Material) -> str:
    """The page as HTML: no script, no network, no fonts; figures are inline SVG in the colours of the page.

    Raises `InputError` when there is no run at all; whatever else is missing is said on the page.
    """
    if not len(material.runs):
        raise InputError("there are no runs to report: give the --out of a run or a comparison")
    runs, missing = material.runs.reset_index(drop=True), list(material.missing)
    groups = []
    for (model, data, _), own in runs.groupby(["model", "data", "metric"], sort=False, dropna=False):
        groups.append(group_of(f"{model} on {data}", own, material, missing))
    place_checks(groups, material)
    versions = versions_of(material.results, missing)
    methods = ", ".join(map(str, runs["method"].unique()))
    title = material.title or f"{methods}: {' and '.join(group.name for group in groups)}"
    return str(
        _template().render(
            title=title,
            groups=groups,
            missing=missing,
            commands=list(material.commands) or list(dict.fromkeys(command(result) for result in material.results)),
            notes=_notes(runs, material.results),
            versions=sorted(versions.items()),
        )
    )


def _notes(runs: pd.DataFrame, results: Sequence[Mapping[str, Any]]) -> list[str]:
    devices = ", ".join(sorted({f"{result['ledger'].get('device')} ({result['ledger'].get('engine')})" for result in results}))
    seconds = sum(float(result["ledger"].get("wall_s") or 0) for result in results)
    return [
        f"{counted(len(runs), 'run')}, {seconds:,.0f} s of training in all, on {devices}.",
        "Equal bits are promised on one CPU model, one set of libraries and one thread count; elsewhere numbers agree in float "
        "tolerance.",
    ]


def _template() -> Any:
    from jinja2 import Environment, PackageLoader

    return Environment(loader=PackageLoader("evoprune.evidence"), autoescape=True, trim_blocks=True).get_template("report.html")
