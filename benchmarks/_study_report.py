"""The study's tables, figure and page, from the runs that are there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _plan import LATER, METHODS, PAIRS, PLAN, SEEDS, Key, check_stem, plan, planned
from _plan import key as key_of
from _runs import keys_of, read, unfit, unfit_keys
from _study_figure import draw

import evoprune as ep
from evoprune.evidence.report import Material, page
from evoprune.evidence.samples import prunes
from evoprune.evidence.tables import duels, pivot, summarise
from evoprune.files import atomic_write
from evoprune.formats import write_csv, write_json

__all__ = ["write_report"]

FEWEST = 3
"""Seeds from which on a model on a data set is shown at a sparsity."""
LOOSE = 0.05
"""By which share a cell may miss its target without being named."""


def results_of(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """What the page wants to know of each run, as its `result.json` would say it."""
    spaces = {model: space_of(model) for model in runs["model"].unique()}
    found = []
    for row in runs.to_dict("records"):
        counts, space = [int(count) for count in str(row["layers"]).split("/")], spaces[row["model"]]
        layers = [
            {"name": name, "survivors": count, "prunable": size}
            for name, count, size in zip(space.names, counts, space.sizes, strict=True)
        ]
        options = {"sparsity": row["sparsity"], "epochs": row["epochs"], "seed": row["seed"], **json.loads(row["options"])}
        found.append(
            {**row, "layers": layers, "ledger": row, "arguments": {"options": options, "versions": json.loads(row["versions"])}}
        )
    return found


def space_of(model: str) -> ep.MaskSpace:
    """Its layers, for ten classes of 28 by 28 pixels; no data are needed."""
    blank, labels = np.zeros((100, 1, 28, 28), dtype=np.uint8), np.arange(100) % 10
    return ep.Problem(model, {"x_train": blank, "y_train": labels, "x_test": blank, "y_test": labels}).space


def histories_of(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """The early and the final score of each run."""
    column = {"accuracy": "val_accuracy", "mse": "val_loss"}
    return [
        pd.DataFrame({"epoch": [1, row["epochs"]], column[row["metric"]]: [row["early_score"], row["val_score"]]})
        for row in runs.to_dict("records")
    ]


def checks_of(out: Path) -> list[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Name, content and frame of every check."""
    return [
        (path.stem, json.loads(path.read_text()), pd.read_csv(path.with_suffix(".csv")))
        for path in sorted((out / "checks").glob("*.json"))
    ]


def write_report(out: Path) -> list[Path]:
    """`summary.csv`, `pivot.csv`, `duels.csv`, `study.json`, `study.png` and `report.html` from the runs that are there.

    Each model and data set is judged by itself: Holm's correction is over all methods and sparsities of one, and over its duels.
    A sparsity with fewer than three seeds is only counted, in `study.json`, as long as others have more.
    """
    every = read(out / "runs.csv")
    runs = every[_shown(every)]
    summary = _by_place(runs, summarise)
    duelled = _by_place(runs, lambda own: duels(own, PAIRS))
    state = state_of(out, every, summary)
    title, command = "Searches, rivals and a random mask at equal cost", ["python benchmarks/study.py"]
    material = Material(runs, results_of(runs), histories_of(runs), checks_of(out), command, state["missing"], title, PAIRS)
    frames = {"summary": summary, "pivot": pivot(summary), "duels": duelled}
    paths = [write_csv(out / f"{name}.csv", frame) for name, frame in frames.items()]
    paths.append(write_json(out / "study.json", state))
    return [*paths, draw(summary, out / "study.png"), atomic_write(out / "report.html", page(material).encode())]


def _shown(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs have enough others beside them; what prunes nothing is shown beside what does."""
    seeds = runs.groupby(["model", "data", "sparsity"])["seed"].transform("nunique")
    enough = seeds >= min(FEWEST, seeds.max())
    beside = (enough & (runs["sparsity"] > 0)).groupby([runs["model"], runs["data"]]).transform("any")
    return enough & (beside if beside.any() else True)


def _by_place(runs: pd.DataFrame, make: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """What is made of the runs of each model and data set, one below the other."""
    made = []
    for (model, data), own in runs.groupby(["model", "data"], sort=False):
        found = make(own)
        made.append(found.assign(model=model, data=data)[["model", "data", *found.columns]])
    return pd.concat(made, ignore_index=True)


def state_of(out: Path, runs: pd.DataFrame, summary: pd.DataFrame) -> dict[str, Any]:
    """What was planned, what is there, and which cells miss their target."""
    every = planned([*METHODS, *LATER]) - (unfit_keys(out) - keys_of(runs))
    told = [*to_do(out, METHODS), *to_do(out, LATER, " of further methods"), *_unchecked(out), *_not_run(out)]
    shown = runs[runs["model"].isin(summary["model"])]
    targets = {str(model): float(own["target"].iloc[0]) for model, own in shown.groupby("model", sort=False)}
    loose = [
        {**{name: row[name] for name in ("model", "data", "method", "sparsity")}, "cost": cost, "target": targets[row["model"]]}
        for row in summary.to_dict("records")
        if prunes(row["method"]) and abs((cost := row["dense_equivalent_epochs"]) / targets[row["model"]] - 1) > LOOSE
    ]
    return {"seeds": SEEDS, "targets": targets, "missing": told, "off_target": loose, "coverage": coverage(every, keys_of(runs))}


def coverage(every: set[Key], made: set[Key]) -> list[dict[str, Any]]:
    """Planned and finished runs by place; those of methods that prune nothing are of every sparsity."""
    found = []
    for model, data in dict.fromkeys((model, data) for model, data, _ in PLAN):
        for sparsity in sorted({key[3] for key in every if key[:2] == (model, data) and key[3]}):
            own = {key for key in every if key[:2] == (model, data) and key[3] in (sparsity, 0.0)}
            found.append({"model": model, "data": data, "sparsity": sparsity, "planned": len(own), "made": len(own & made)})
    return found


def to_do(out: Path, methods: Sequence[str], which: str = "") -> list[str]:
    """How many runs of the plan are missing, in words; nothing where there are none."""
    every = planned(methods) - unfit_keys(out)
    absent = len(every - keys_of(read(out / "runs.csv")))
    return [f"{absent:,} of {len(every):,} planned runs{which} are not made yet."] if absent else []


def _unchecked(out: Path) -> list[str]:
    """How many searches are not checked against their controls, in words; nothing where all are."""
    hopeless = unfit_keys(out) - keys_of(read(out / "runs.csv"))
    every = [
        (place, method) for place, method, seed in plan(METHODS) if seed is None and key_of(place, method, 0) not in hopeless
    ]
    absent = sum(not check_stem(out, *one).with_suffix(".json").exists() for one in every)
    return [f"{absent} of {len(every)} searches are not checked against their controls yet."] if absent else []


def _not_run(out: Path) -> list[str]:
    """Methods that are not run at a place, or not with every seed, and why; places of which the same is told in one line."""
    made = Counter(key[:4] for key in keys_of(read(out / "runs.csv")))
    found: dict[tuple[str, str, str, str], dict[float, str]] = {}
    for row in unfit(out).to_dict("records"):
        model, data, method, sparsity = (row[name] for name in ("model", "data", "method", "sparsity"))
        seeds = made[model, data, method, sparsity]
        word = f"has {seeds} of {SEEDS} seeds" if seeds else "is not run"
        reason, _, _ = row["reason"].partition(": lower lr=")  # advice to who runs it
        found.setdefault((model, data, method, word), {})[sparsity] = reason
    told: dict[str, list[str]] = {}
    for (model, data, method, word), reasons in found.items():
        where = ", ".join(f"{sparsity:g}" for sparsity in sorted(reasons) if sparsity)
        largest = max(reasons)
        reason = reasons[largest] + (f" (at {largest:g})" if len(reasons) > 1 else "")
        line = f"{method}{where and f' at sparsity {where}'} {word}: {reason}."
        told.setdefault(line, []).append(f"{model} on {data}")
    return [f"{', '.join(places)}: {line}" for line, places in told.items()]
