"""The study: does a search of masks at initialization beat its parts, its rivals and a random mask at equal cost?

    python benchmarks/study.py                       # goes on where any earlier call stopped; many hours in all
    python benchmarks/study.py --hours 2             # the most valuable cells that two hours allow
    python benchmarks/study.py --report              # tables and page from what is there

Every method may spend what two epochs of the dense network cost, losers and scoring included: its final training is stretched
or shortened until its ledger says so (`costs.json` holds what short trainings cost). Each finished cell is a line of `runs.csv`,
so that any later call goes on. After the eight seeds of a sparsity, the first ticket of each search is checked against its
controls (`checks/`). The test split is opened once a ticket, after its training; nothing is chosen by it.

Data: MNIST and Fashion-MNIST from EVOPRUNE_DATA or --data-root, in torchvision's layout, else fetched.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import evoprune as ep
from evoprune.compare.cells import Cell
from evoprune.compare.costs import Costs, epochs_at
from evoprune.evidence.report import Material, page
from evoprune.evidence.tables import duels, pivot, summarise
from evoprune.files import atomic_write

OUT = Path(__file__).parent / "results" / "study"
TARGET = 2.0
"""What a network may cost, in epochs of the dense one."""
USUAL = 10
"""Epochs of the dense reference, and of the short trainings that tell what a method costs."""
SEEDS = 8
METHODS: dict[str, dict[str, Any]] = {
    "random": {},
    "kstarts": {"k": 16},
    "dissipating": {},
    "combined": {"k": 4, "start_sparsity": 0.85},
    "evolve": {"form": "guided", "ngen": 7},
    "halving": {"k": 8, "rungs": [2, 4], "finalists": 2},
    "snip": {},
    "synflow": {},
    "magnitude": {},
    "set": {},
    "rigl": {},
    "gradual_magnitude": {},
    "dense": {},
    "dissipate_regrow": {},
}
"""The methods, with searches that fit into the target at 95%."""
LATER = ("iterative_snip", "force", "grasp", "prospr", "ntk_sap", "imp", "eoi", "dropout")
"""Methods whose turn comes after all others."""
SEARCHES = ("dissipating", "combined", "kstarts", "evolve")
"""Methods whose first ticket is checked against its controls."""
PAIRS = (("combined", "random"), ("combined", "kstarts"), ("combined", "dissipating"))
"""The question that the authors of the methods left open."""
PLAN = (
    ("lenet-300-100", "fashion-mnist", (0.98, 0.95, 0.99)),
    ("lenet-300-100", "mnist", (0.98, 0.95, 0.99)),
    ("autoencoder", "fashion-mnist", (0.98, 0.95, 0.99)),
    ("autoencoder", "mnist", (0.98, 0.95, 0.99)),
    ("lenet5", "fashion-mnist", (0.98, 0.95, 0.99)),
    ("lenet-300-100", "fashion-mnist", (0.9, 0.995)),
    ("lenet-300-100", "mnist", (0.9, 0.995)),
    ("autoencoder", "fashion-mnist", (0.9, 0.995)),
    ("autoencoder", "mnist", (0.9, 0.995)),
    ("lenet5", "fashion-mnist", (0.9, 0.995)),
)
"""Models, data sets and sparsities, the most telling first."""
COLUMNS = (
    *("model", "data", "method", "sparsity", "seed", "epochs", "metric", "val_score", "test_score", "early_score"),
    *("sparsity_obtained", "survivors", "prunable", "layers", "samples", "survivor_updates", "dense_equivalent_epochs"),
    *("evaluation_samples", "configurations", "wall_s", "device", "engine", "mask_hash", "options", "versions"),
)


@dataclass(frozen=True)
class Place:
    """A model on a data set at one sparsity."""

    model: str
    data: str
    sparsity: float

    @property
    def name(self) -> str:
        return f"{self.model}-on-{self.data}"

    def cell(self, method: str, seed: int) -> Cell:
        asked = self.sparsity if ep.methods[method].sparse else None
        return Cell(method, asked, seed, METHODS.get(method, {}), self.name)


# ---- the cells, in their order --------------------------------------------------------------------------------------


def plan(methods: Sequence[str]) -> Iterator[tuple[Place, str, int | None]]:
    """Place, method and seed of every run, seed by seed, so that whatever is finished can be compared; no seed: a check."""
    for model, data, sparsities in PLAN:
        for sparsity in sparsities:
            place = Place(model, data, sparsity)
            for seed in range(SEEDS):
                yield from ((place, method, seed) for method in methods)
            yield from ((place, method, None) for method in SEARCHES if method in methods)


def key(place: Place, method: str, seed: int) -> tuple[Any, ...]:
    """By which a finished run is known; what prunes nothing is run once for all sparsities."""
    return place.model, place.data, method, place.sparsity if ep.methods[method].sparse else 0.0, seed


def finished(path: Path) -> set[tuple[Any, ...]]:
    """Keys of the runs that the file holds."""
    if not path.exists():
        return set()
    rows = pd.read_csv(path).to_dict("records")
    return {(row["model"], row["data"], row["method"], float(row["sparsity"]), int(row["seed"])) for row in rows}


# ---- one run --------------------------------------------------------------------------------------------------------


class Study:
    """Problems and costs that runs share."""

    def __init__(self, out: Path, data_root: Path | None, device: str) -> None:
        self.out, self.data_root, self.device = out, data_root, device
        self.problems: dict[tuple[str, str], ep.Problem] = {}
        out.mkdir(parents=True, exist_ok=True)
        self.costs = Costs(out, self._price)
        self.place: Place | None = None

    def problem(self, place: Place, seed: int = 0) -> ep.Problem:
        held = self.problems.get((place.model, place.data))
        if held is None:
            held = ep.Problem(place.model, place.data, data_root=self.data_root)
            self.problems = {(place.model, place.data): held}  # one at a time
        return held.with_seed(seed)

    def _price(self, cells: Sequence[Cell]) -> Iterable[tuple[Cell, float | None]]:
        assert self.place is not None
        for cell in cells:
            try:
                ticket = ep.methods[cell.method](self.problem(self.place), device=self.device, **cell.arguments)
                yield cell, ticket.ledger.dense_equivalent_epochs
            except ep.InputError:
                yield cell, None

    def epochs(self, place: Place, method: str) -> int:
        """At which the method costs the target."""
        if not ep.methods[method].sparse:
            return USUAL
        self.place, cell = place, place.cell(method, 0)
        self.costs.find([cell.lasting(USUAL), cell.lasting(2 * USUAL)])
        return epochs_at(TARGET, cell, USUAL, self.costs)

    def ticket(self, place: Place, method: str, seed: int) -> ep.Ticket:
        cell = place.cell(method, seed).lasting(self.epochs(place, method))
        return ep.methods[method](self.problem(place, seed), device=self.device, **cell.arguments)

    def run(self, place: Place, method: str, seed: int) -> dict[str, Any]:
        """One row."""
        ticket = self.ticket(place, method, seed)
        test, classifies = ticket.test("benchmarks/study.py"), ticket.problem.metric == "accuracy"
        space, history = ticket.mask.space, ticket.history
        values = {
            "model": place.model,
            "data": place.data,
            "method": method,
            "sparsity": place.sparsity if ep.methods[method].sparse else 0.0,
            "seed": seed,
            "epochs": self.epochs(place, method),
            "metric": ticket.problem.metric,
            "val_score": ticket.val_accuracy if classifies else ticket.val_loss,
            "test_score": test["accuracy"] if classifies else test["loss"],
            "early_score": early(history, "val_accuracy" if classifies else "val_loss"),
            "sparsity_obtained": ticket.mask.sparsity,
            "survivors": ticket.mask.count,
            "prunable": space.prunable,
            "layers": "/".join(map(str, ticket.mask.counts)),
            **ticket.ledger.as_dict(),
            "mask_hash": ticket.mask.hash,
            "options": json.dumps(METHODS.get(method, {})),
            "versions": json.dumps(ticket.provenance["versions"]),
        }
        return {name: values[name] for name in COLUMNS}

    def check(self, place: Place, method: str) -> None:
        """The first ticket beside its controls."""
        found = ep.check(self.ticket(place, method, 0), seeds=SEEDS, epochs=USUAL)
        stem = check_stem(self.out, place, method)
        stem.parent.mkdir(parents=True, exist_ok=True)
        found.frame.to_csv(stem.with_suffix(".csv"), index=False)
        atomic_write(stem.with_suffix(".json"), (json.dumps(found.as_dict(), indent=1, allow_nan=False) + "\n").encode())


def early(history: pd.DataFrame, column: str) -> float:
    """The validation score after the first fifth of the epochs."""
    first = history[history["epoch"] <= max(1.0, 0.2 * history["epoch"].max())]
    return float(first[column].iloc[-1]) if len(first) else math.nan


def check_stem(out: Path, place: Place, method: str) -> Path:
    """Where a check lies, without its ending."""
    return out / "checks" / f"{place.name}-{method}-{round(10000 * place.sparsity)}"


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line to the file, with its header where it is new; on disk before the next run starts."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())


def work(study: Study, methods: Sequence[str], until: float, only: tuple[Sequence[str], Sequence[str], Sequence[float]]) -> None:
    """Run what is missing, until the time is over."""
    models, data, sparsities = only
    path = study.out / "runs.csv"
    done = finished(path)
    for place, method, seed in plan(methods):
        if place.model not in models or place.data not in data or place.sparsity not in sparsities:
            continue
        if time.monotonic() > until:
            return
        started = time.monotonic()
        if seed is None:
            if check_stem(study.out, place, method).with_suffix(".json").exists():
                continue
            study.check(place, method)
        elif key(place, method, seed) in done:
            continue
        else:
            append(path, study.run(place, method, seed))
            done.add(key(place, method, seed))
        told = "check" if seed is None else f"seed {seed}"
        print(f"{place.name} {place.sparsity} {method} {told}: {time.monotonic() - started:.0f} s", flush=True)


# ---- tables and page ------------------------------------------------------------------------------------------------


def results_of(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """What the page wants to know of each run, as its `result.json` would say it."""
    names: dict[tuple[str, str], ep.MaskSpace] = {}
    found = []
    for row in runs.to_dict("records"):
        where = (row["model"], row["data"])
        if where not in names:
            names[where] = ep.Problem(*where).space
        counts, space = [int(count) for count in str(row["layers"]).split("/")], names[where]
        layers = [
            {"name": name, "survivors": count, "prunable": size}
            for name, count, size in zip(space.names, counts, space.sizes, strict=True)
        ]
        options = {"sparsity": row["sparsity"], "epochs": row["epochs"], "seed": row["seed"], **json.loads(row["options"])}
        found.append(
            {**row, "layers": layers, "ledger": row, "arguments": {"options": options, "versions": json.loads(row["versions"])}}
        )
    return found


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
    """`summary.csv`, `pivot.csv`, `duels.csv` and `report.html` from the runs that are there."""
    runs = pd.read_csv(out / "runs.csv", dtype={"layers": str})
    summaries, contests = [], []
    for (model, data), own in runs.groupby(["model", "data"], sort=False):
        for held, made in ((summaries, summarise(own)), (contests, duels(own, PAIRS))):
            made.insert(0, "model", model)
            made.insert(1, "data", data)
            held.append(made)
    summary, contest = pd.concat(summaries, ignore_index=True), pd.concat(contests, ignore_index=True)
    title = f"Searches, rivals and a random mask at the cost of {TARGET:g} dense epochs"
    missing = [f"{absent} of {total} planned runs are not made yet." for absent, total in [to_do(out)] if absent]
    material = Material(
        runs, results_of(runs), histories_of(runs), checks_of(out), ["python benchmarks/study.py"], missing, title, PAIRS
    )
    frames = {"summary": summary, "pivot": pivot(summary), "duels": contest}
    paths = [atomic_write(out / f"{name}.csv", frame.to_csv(index=False).encode()) for name, frame in frames.items()]
    return [*paths, atomic_write(out / "report.html", page(material).encode())]


def to_do(out: Path) -> tuple[int, int]:
    """Runs that are missing, and all."""
    every = {key(place, method, seed) for place, method, seed in plan(list(METHODS)) if seed is not None}
    return len(every - finished(out / "runs.csv")), len(every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=math.inf, help="start no run after so many hours")
    parser.add_argument("--models", default=",".join(dict.fromkeys(model for model, _, _ in PLAN)))
    parser.add_argument("--data", default=",".join(dict.fromkeys(data for _, data, _ in PLAN)))
    parser.add_argument("--sparsities", default="0.9,0.95,0.98,0.99,0.995")
    parser.add_argument("--methods", default=None, help="default: " + ",".join(METHODS) + ", then " + ",".join(LATER))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true", help="run nothing: write tables and page from what is there")
    options = parser.parse_args()
    if not options.report:
        until = time.monotonic() + 3600 * options.hours
        only = (options.models.split(","), options.data.split(","), [float(one) for one in options.sparsities.split(",")])
        study = Study(options.out, options.data_root, options.device)
        for methods in [options.methods.split(",")] if options.methods else [list(METHODS), list(LATER)]:
            work(study, methods, until, only)
    for path in write_report(options.out):
        print(path)


if __name__ == "__main__":
    main()
