"""The study: does a search of masks at initialization beat its parts, its rivals and a random mask at equal cost?

    python benchmarks/study.py                       # goes on where any earlier call stopped; many hours in all
    python benchmarks/study.py --hours 2             # the most valuable cells that two hours allow
    python benchmarks/study.py --report              # tables and page from what is there

Every method may spend what a few epochs of the dense network cost (`_plan.py` says how many), losers and scoring included: its
final training is stretched or shortened until its ledger says so (`costs.json` holds what short trainings cost). A method whose
search alone costs more than that, or whose training fails, is not run: `unfit.csv` says why. All methods of a seed share initial
weights and data splits. Each finished run is a line of `runs.csv`, so that any later call goes on. After the seeds of a model on
a data set, the first ticket of each search is checked against its controls (`checks/`). The test split is opened once a ticket,
after its training; nothing is chosen by it.

Data: MNIST and Fashion-MNIST from EVOPRUNE_DATA or --data-root, in torchvision's layout, else fetched.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from _plan import LATER, METHODS, PLAN, SEEDS, Place, check_stem, key, plan
from _runs import COLUMNS, append, keys_of, mend, note_unfit, read, unfit_keys
from _study_report import write_report

import evoprune as ep
from evoprune.compare.cells import Cell
from evoprune.compare.costs import Costs, epochs_at
from evoprune.errors import InputError, TrainingFailed
from evoprune.formats import write_csv, write_json
from evoprune.words import counted

OUT = Path(__file__).parent / "results" / "study"
USUAL = 10
"""Epochs of the dense reference and of controls; half of it for the controls of a convolutional network, which cost ten times as
much."""
TOLERANCE = 0.1
"""By which share a run may miss its target before the method counts as one that does not fit."""


class DoesNotFit(Exception):
    """A method whose search costs more than the target at a place."""


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

    def _price(self, cells: Sequence[Cell]) -> Iterable[tuple[Cell, float | InputError]]:
        assert self.place is not None
        for cell in cells:
            try:
                ticket = ep.methods[cell.method](self.problem(self.place), device=self.device, **cell.arguments)
                yield cell, ticket.ledger.dense_equivalent_epochs
            except InputError as refused:
                yield cell, refused

    def epochs(self, place: Place, method: str) -> int:
        """At which the method costs the target. Raises `DoesNotFit` where there are none."""
        if not ep.methods[method].sparse:
            return USUAL
        self.place, cell = place, place.cell(method, 0)
        short = USUAL if place.target >= 2 else USUAL // 2  # more than any search of the plan asks for
        if str(short) not in self.costs.known.get(cell.kind, {}):
            self.costs.find([cell.lasting(1)])  # what costs too much already need not be tried any longer
            self._refuse_dear(place, 1, self.costs.of(cell.lasting(1)))
        try:
            self.costs.find([cell.lasting(short), cell.lasting(2 * short)])
            chosen = epochs_at(place.target, cell, short, self.costs)
        except InputError as error:
            raise DoesNotFit(str(error)) from error
        cost = self.costs.known[cell.kind].get(str(chosen)) or place.target  # a longer training is not tried beforehand
        self._refuse_dear(place, chosen, cost)
        return chosen

    @staticmethod
    def _refuse_dear(place: Place, epochs: int, cost: float | None) -> None:
        if cost is not None and cost > (1 + TOLERANCE) * place.target:
            fewest = counted(epochs, "epoch")
            raise DoesNotFit(f"at {fewest}, the fewest, it costs {cost:.3g} dense epochs; the target is {place.target:g}")

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
            "target": place.target,
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
            "options": json.dumps(place.cell(method, seed).options),
            "versions": json.dumps(ticket.provenance["versions"]),
        }
        return {name: values[name] for name in COLUMNS}

    def check(self, place: Place, method: str) -> None:
        """The first ticket beside its controls."""
        seeds, epochs = (SEEDS, USUAL) if place.target >= 2 else (SEEDS // 2 + 1, USUAL // 2)
        found = ep.check(self.ticket(place, method, 0), seeds=seeds, epochs=epochs)
        stem = check_stem(self.out, place, method)
        stem.parent.mkdir(parents=True, exist_ok=True)
        write_csv(stem.with_suffix(".csv"), found.frame)
        write_json(stem.with_suffix(".json"), found.as_dict())


def early(history: pd.DataFrame, column: str) -> float:
    """The validation score after the first fifth of the epochs."""
    first = history[history["epoch"] <= max(1.0, 0.2 * history["epoch"].max())]
    return float(first[column].iloc[-1]) if len(first) else math.nan


@dataclass(frozen=True)
class Wanted:
    """Which part of the plan a call works on."""

    methods: Sequence[str]
    models: Sequence[str]
    data: Sequence[str]
    sparsities: Sequence[float]
    seeds: Sequence[int]
    checks: bool = True

    def has(self, place: Place, seed: int | None) -> bool:
        asked = place.model in self.models and place.data in self.data and place.sparsity in self.sparsities
        return asked and (self.checks if seed is None else seed in self.seeds)


def work(study: Study, wanted: Wanted, until: float) -> None:
    """Run what is missing, until the time is over."""
    path = study.out / "runs.csv"
    mend(path)
    done, hopeless = keys_of(read(path)), unfit_keys(study.out)
    for place, method, seed in plan(wanted.methods):
        if not wanted.has(place, seed):
            continue
        if time.monotonic() > until:
            return
        started, name = time.monotonic(), f"{place.name} {place.sparsity} {method}"
        if seed is None:
            if check_stem(study.out, place, method).with_suffix(".json").exists() or key(place, method, 0) not in done:
                continue
            study.check(place, method)
        elif key(place, method, seed) in done | hopeless:
            continue
        else:
            try:
                append(path, study.run(place, method, seed))
                done.add(key(place, method, seed))
            except (DoesNotFit, TrainingFailed) as reason:
                note_unfit(study.out, place, method, str(reason))
                hopeless = unfit_keys(study.out)
        print(f"{name} {'check' if seed is None else f'seed {seed}'}: {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=math.inf, help="start no run after so many hours")
    parser.add_argument("--models", default=",".join(dict.fromkeys(model for model, _, _ in PLAN)))
    parser.add_argument("--data", default=",".join(dict.fromkeys(data for _, data, _ in PLAN)))
    parser.add_argument("--sparsities", default="0.9,0.95,0.98,0.99,0.995")
    parser.add_argument("--seeds", default=",".join(map(str, range(SEEDS))), help="several processes may each take some")
    parser.add_argument("--methods", default=None, help="default: " + ",".join(METHODS) + ", then " + ",".join(LATER))
    parser.add_argument("--no-checks", action="store_true", help="leave the controls of searches to a later call")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true", help="run nothing: write tables and page from what is there")
    options = parser.parse_args()
    if not options.report:
        until = time.monotonic() + 3600 * options.hours
        sparsities, seeds = [float(one) for one in options.sparsities.split(",")], [int(one) for one in options.seeds.split(",")]
        study = Study(options.out, options.data_root, options.device)
        for methods in [options.methods.split(",")] if options.methods else [METHODS, LATER]:
            models, data = options.models.split(","), options.data.split(",")
            work(study, Wanted(methods, models, data, sparsities, seeds, not options.no_checks), until)
    for path in write_report(options.out):
        print(path)


if __name__ == "__main__":
    main()
