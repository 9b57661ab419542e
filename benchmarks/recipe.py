"""At which learning rate each method trains the autoencoder in the study: by validation loss, on seeds of its own.

    python benchmarks/recipe.py --json benchmarks/results/recipe.json      # goes on where it was stopped

The gradients of a mean over 784 outputs are small, and smaller still in a sparse network: the default rate of .05 leaves random
masks far from their best, while the dense network turns NaN at a threefold one, and methods that begin nearly dense soon after.
So there is no one rate for all: each method takes the best of six in a short training on Fashion-MNIST, at 90 and at 98%, and
keeps it for every place of a density near to that one. A rate that turns NaN with any of four seeds is not taken: the best rate
of the first seed is tried with the others, then the best of those that remain; one next to a rate that failed gives way to the
next smaller one if that is as good within 2%. The test split stays closed. `_plan.py` reads the file.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _plan import METHODS, SIZES, Place
from _rows import collect, save

import evoprune as ep
from evoprune.errors import TrainingFailed

MODEL, DATA = "autoencoder", "fashion-mnist"
SPARSITIES = (0.98, 0.9)
SEEDS = (100, 101, 102, 103)
RATES = (0.02, 0.05, 0.15, 0.5, 1.0, 2.0)
EPOCHS = {"dense": 5, "gradual_magnitude": 5, "dissipating": 10, "combined": 10, "dissipate_regrow": 10}
"""Of methods that begin denser than they end; the others take `SPARSE`."""
SPARSE = 25
AS_GOOD = 0.02
ARGUMENTS = ("method", "sparsity", "lr", "seed")

Row = dict[str, Any]


def measure(method: str, sparsity: float, lr: float, seed: int) -> Row:
    """Validation loss at the end; None where the training fails."""
    place, problem = Place(MODEL, DATA, sparsity), ep.Problem(MODEL, DATA, seed=seed)
    asked = {"sparsity": sparsity} if ep.methods[method].sparse else {}
    sizes = SIZES[method](place) if method in SIZES else {}
    try:
        ticket = ep.methods[method](problem, epochs=EPOCHS.get(method, SPARSE), seed=seed, lr=lr, **asked, **sizes)
    except TrainingFailed:
        return {"val_loss": None}
    return {"val_loss": ticket.val_loss if math.isfinite(ticket.val_loss) else None}


def grid(methods: Sequence[str]) -> list[Row]:
    """Every rate with the first seed; what prunes nothing is measured once."""
    return [
        {"method": method, "sparsity": sparsity, "lr": lr, "seed": SEEDS[0]}
        for sparsity, method, lr in itertools.product(SPARSITIES, methods, RATES)
        if ep.methods[method].sparse or sparsity == SPARSITIES[0]
    ]


def best(rows: Sequence[Row]) -> dict[tuple[str, float], float]:
    """By method and sparsity, the rate of smallest loss with the first seed among those that failed with none.

    Beside a rate that failed, the next smaller one is taken where its loss is about as good: a longer training may fail.
    """
    chosen = {}
    for key, own in itertools.groupby(sorted(rows, key=_place), key=_place):
        tried = list(own)
        failed = {row["lr"] for row in tried if row["val_loss"] is None}
        losses = {row["lr"]: row["val_loss"] for row in tried if row["seed"] == SEEDS[0] and row["lr"] not in failed}
        rate = min(losses, key=lambda lr: losses[lr])
        larger = min((lr for lr in RATES if lr > rate), default=None)
        smaller = max((lr for lr in losses if lr < rate), default=rate)
        chosen[key] = smaller if larger in failed and losses[smaller] <= (1 + AS_GOOD) * losses[rate] else rate
    return chosen


def _place(row: Row) -> tuple[str, float]:
    return row["method"], row["sparsity"]


def untried(rows: Sequence[Row]) -> list[Row]:
    """The best rates with the seeds that they have not met."""
    made = {(row["method"], row["sparsity"], row["lr"], row["seed"]) for row in rows}
    pairs = [(*key, lr, seed) for (key, lr), seed in itertools.product(best(rows).items(), SEEDS)]
    return [dict(zip(ARGUMENTS, pair, strict=True)) for pair in pairs if pair not in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    what, wanted = f"{MODEL}-on-{DATA}, SGD with momentum .9", grid(options.methods.split(","))
    rows = collect(wanted, measure, what, options.json)
    while more := untried(rows):
        wanted += more
        rows = collect(wanted, measure, what, options.json)
    chosen: dict[str, dict[str, float]] = {}
    for (method, sparsity), lr in best(rows).items():
        chosen.setdefault(method, {})[str(sparsity)] = lr
    print(chosen)
    save({"what": what, "lr": chosen, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
