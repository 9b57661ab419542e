"""What is not there: single seeds, cells without a run, scores that are not numbers, other versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evoprune.evidence.samples import prunes
from evoprune.evidence.tables import BASELINE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["gaps", "versions_of"]


def gaps(name: str, runs: pd.DataFrame) -> list[str]:
    """Single seeds, scores that are not numbers, cells without a run, no baseline."""
    found = []
    seeds = sorted(runs["seed"].unique())
    if len(seeds) == 1:
        found.append(f"{name}: a single seed ({seeds[0]}), so there are no intervals and nothing can be shown.")
    failed = runs[runs["val_score"].isna()]
    found += [f"{name}: {_cell(row)} turned NaN and counts nowhere." for row in failed.to_dict("records")]
    if BASELINE not in set(runs["method"]):
        found.append(f"{name}: no runs of {BASELINE!r}; {runs['method'].iloc[0]} is what the others are compared with.")
    asked = sorted(runs[[prunes(str(method)) for method in runs["method"]]]["sparsity"].astype(float).dropna().unique())
    found += [f"{name}: {told}" for told in _absent(runs, seeds, asked)]
    void = runs["test_score"].isna()
    opened = void & (runs["test_opened"].notna() if "test_opened" in runs else False)
    for row in runs[opened & runs["val_score"].notna()].to_dict("records"):
        found.append(f"{name}: {_cell(row)} gives no number on the test split, so its cell stands on validation.")
    if untested := int((void & ~opened).sum()):
        found.append(f"{name}: the test split was not opened for {untested} of {len(runs)} runs.")
    return found


def _absent(runs: pd.DataFrame, seeds: Sequence[int], asked: Sequence[float]) -> list[str]:
    """Cells without a run of a seed; methods that lack the same are named together."""
    lacking: dict[tuple[float | None, str], list[str]] = {}
    for method, own in runs.groupby("method", sort=False):
        sparsity = own["sparsity"].astype(float)
        cells = [None] if not prunes(str(method)) or sparsity.isna().all() else asked
        for value in cells:
            there = set((own if value is None else own[sparsity == value])["seed"])
            absent = ", ".join(str(seed) for seed in seeds if seed not in there)
            if absent:
                lacking.setdefault((value, absent), []).append(str(method))
    return [
        f"{', '.join(methods)}{'' if value is None else f' at sparsity {value:.4g}'} {'has' if len(methods) == 1 else 'have'} "
        f"no run of seed {absent}."
        for (value, absent), methods in lacking.items()
    ]


def _cell(row: Mapping[Any, Any]) -> str:
    at = "" if row["sparsity"] is None or row["sparsity"] != row["sparsity"] else f" at sparsity {row['sparsity']:.4g}"
    return f"{row['method']}{at}, seed {row['seed']},"


def versions_of(results: Sequence[Mapping[str, Any]], missing: list[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for result in results:
        for name, version in result["arguments"].get("versions", {}).items():
            found.setdefault(name, [])
            if version not in found[name]:
                found[name].append(version)
    several = [f"{name} ({', '.join(own)})" for name, own in found.items() if len(own) > 1]
    if several:
        missing.append(f"The runs were made by different versions of {'; '.join(several)}: differences may come from that.")
    return {name: ", ".join(own) for name, own in found.items()}
