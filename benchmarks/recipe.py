"""At which learning rate each method trains in the study where the default serves some badly: on seeds of its own, by validation.

    python benchmarks/recipe.py --model autoencoder --json benchmarks/results/recipe_autoencoder.json
    python benchmarks/recipe.py --model lenet5 --json benchmarks/results/recipe_lenet5.json

Either goes on where it was stopped; `--methods` takes some, and the others of the file stay.

Autoencoder: the gradients of a mean over 784 outputs are small, and smaller still in a sparse network: the default rate of .05
leaves random masks far from their best, while the dense network turns NaN at a threefold one, and methods that begin nearly dense
soon after. lenet5: the default rate of .1 serves sparse networks, while a dense one often falls to chance and stays there, and
what begins dense loses much.

So there is no one rate for all: each method takes the best of several in a short training on Fashion-MNIST, at 90 and at 98%, and
keeps it for every place of a density near to that one. A rate that fails with any of four seeds (NaN, little better than chance,
or twice the error of the first seed) is not taken: the best rate of the first seed is tried with the others, then the best of
those that remain; one next to a rate that failed gives way to the next smaller one if that is as good within 2%. A method stays
at the default rate, and this is not tried with other seeds, unless a rate failed or another is better by more than seeds differ
by; one that fails at every rate takes that of the other density. What passes here and fails in several places of the study's
longer trainings, on the validation split, is a failed rate too (`failed_later`), and one between it and the next smaller is tried
where that is much worse (`finer`); what turned NaN in one place only was kept, and the study names the runs that it stopped for
it. The test split stays closed. `_plan.py` reads the files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from _plan import LATER, METHODS, SIZES, Place
from _rows import collect, save

import evoprune as ep
from evoprune.errors import TrainingFailed

DATA = "fashion-mnist"
SPARSITIES = (0.98, 0.9)
SEEDS = (100, 101, 102, 103)
AS_GOOD = 0.02
CHANCE = 0.5
"""A classifier of ten classes that errs more often than this after its short training counts as failed."""
WORSE = 2
"""So many times the error of the first seed is a failure."""
ALL = tuple(name for name in (*METHODS, *LATER) if name != "imp")
"""`imp` costs more than any target, and is not run."""
DISSIPATING = ("dissipating", "combined", "dissipate_regrow", "regrow_average")
ARGUMENTS = ("method", "sparsity", "lr", "seed")

Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What is tried for a model."""

    rates: tuple[float, ...]
    sparse: int
    """Epochs of a method that begins at its sparsity."""
    epochs: Mapping[str, int]
    """Of methods that begin denser than they end."""
    default: float | None = None
    """The rate to stay at, where there is one to prefer."""
    better: float = 0.0
    """By which share another must be better than that."""
    failed_later: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Rates of a method that failed in the study."""
    finer: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Rates of a method between one that failed later and a much worse next smaller one."""

    def tries(self, method: str) -> tuple[float, ...]:
        return tuple(sorted((*self.rates, *self.finer.get(method, ()))))


RECIPES = {
    "autoencoder": Recipe(
        rates=(0.02, 0.05, 0.15, 0.5, 1.0, 2.0),
        sparse=25,
        epochs={"dense": 5, "dropout": 5, "gradual_magnitude": 5, **dict.fromkeys(DISSIPATING, 10)},
        failed_later={"rigl": (0.5,)},
        finer={"rigl": (0.3,)},
    ),
    "lenet5": Recipe(
        rates=(0.02, 0.05, 0.1, 0.2),
        sparse=8,
        epochs={"dense": 2, "dropout": 2, "gradual_magnitude": 3, **dict.fromkeys(DISSIPATING, 5)},
        default=0.1,
        better=0.05,
        failed_later={"rigl": (0.2,)},
    ),
}


def measure(model: str, method: str, sparsity: float, lr: float, seed: int) -> Row:
    """Validation error at the end (1 - accuracy, or the loss of a reconstruction); None where the training fails."""
    place, problem = Place(model, DATA, sparsity), ep.Problem(model, DATA, seed=seed)
    asked = {"sparsity": sparsity} if ep.methods[method].sparse else {}
    sizes = SIZES[method](place) if method in SIZES else {}
    epochs = RECIPES[model].epochs.get(method, RECIPES[model].sparse)
    try:
        ticket = ep.methods[method](problem, epochs=epochs, seed=seed, lr=lr, **asked, **sizes)
    except TrainingFailed:
        return {"val_error": None}
    classifies = problem.metric == "accuracy"
    error = 1 - ticket.val_accuracy if classifies else ticket.val_loss
    return {"val_error": error if math.isfinite(error) and not (classifies and error > CHANCE) else None}


def grid(methods: Sequence[str], recipe: Recipe) -> list[Row]:
    """Every rate with the first seed; what prunes nothing is measured once."""
    return [
        {"method": method, "sparsity": sparsity, "lr": lr, "seed": SEEDS[0]}
        for sparsity, method in itertools.product(SPARSITIES, methods)
        for lr in recipe.tries(method)
        if ep.methods[method].sparse or sparsity == SPARSITIES[0]
    ]


def best(rows: Sequence[Row], recipe: Recipe) -> dict[tuple[str, float], float]:
    """By method and sparsity, the rate of smallest error with the first seed among those that failed with none.

    Beside a rate that failed, the next smaller one is taken where its error is about as good: a longer training may fail. A
    method that fails at every rate has none at that sparsity.
    """
    chosen = {}
    for key, own in itertools.groupby(sorted(rows, key=_place), key=_place):
        tried = list(own)
        failed = _failed(tried, recipe)
        errors = {row["lr"]: row["val_error"] for row in tried if row["seed"] == SEEDS[0] and row["lr"] not in failed}
        if not errors:
            continue
        rate = min(errors, key=lambda lr: errors[lr])
        if recipe.default in errors and errors[rate] >= (1 - recipe.better) * errors[recipe.default]:
            rate = recipe.default
        larger = min((lr for lr in recipe.tries(key[0]) if lr > rate), default=None)
        smaller = max((lr for lr in errors if lr < rate), default=rate)
        chosen[key] = smaller if larger in failed and errors[smaller] <= (1 + AS_GOOD) * errors[rate] else rate
    return chosen


def _failed(rows: Sequence[Row], recipe: Recipe) -> set[float]:
    """Rates of one method that fail with any seed, here or later."""
    first = {row["lr"]: row["val_error"] for row in rows if row["seed"] == SEEDS[0]}
    failed = {
        row["lr"] for row in rows if row["val_error"] is None or not row["val_error"] <= WORSE * (first[row["lr"]] or math.inf)
    }
    return failed.union(*(recipe.failed_later.get(method, ()) for method in {row["method"] for row in rows}))


def _place(row: Row) -> tuple[str, float]:
    return row["method"], row["sparsity"]


def untried(rows: Sequence[Row], recipe: Recipe) -> list[Row]:
    """The best rates with the seeds that they have not met; a default one only where a rate failed."""
    made = {(row["method"], row["sparsity"], row["lr"], row["seed"]) for row in rows}
    failing = {_place(row) for row in rows if row["val_error"] is None or row["method"] in recipe.failed_later}
    rates = {key: lr for key, lr in best(rows, recipe).items() if lr != recipe.default or key in failing}
    pairs = [(*key, lr, seed) for (key, lr), seed in itertools.product(rates.items(), SEEDS)]
    return [dict(zip(ARGUMENTS, pair, strict=True)) for pair in pairs if pair not in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(RECIPES), required=True)
    parser.add_argument("--methods", default=",".join(ALL), help="default: %(default)s")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    recipe, what = RECIPES[options.model], f"{options.model}-on-{DATA}, SGD with momentum .9"
    wanted = grid(options.methods.split(","), recipe)
    take = partial(measure, options.model)
    while True:
        rows = collect(wanted, take, what, options.json)
        more = untried(rows, recipe)
        if not more:
            break
        wanted += more
    rows = json.loads(options.json.read_text())["rows"]  # with the methods that were not asked for
    chosen: dict[str, dict[str, float]] = {}
    for (method, sparsity), lr in best(rows, recipe).items():
        chosen.setdefault(method, {})[str(sparsity)] = lr
    print(chosen)
    save({"what": what, "lr": chosen, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
