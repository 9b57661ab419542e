"""At which learning rate each method trains the autoencoder in the study: by validation loss, on a seed of its own.

    python benchmarks/recipe.py --json benchmarks/results/recipe.json      # goes on where it was stopped

The gradients of a mean over 784 outputs are small, and smaller still in a sparse network: the default rate of .05 leaves random
masks far from their best, while the dense network turns NaN at a tenfold one, and so do methods that begin nearly dense. So there
is no one rate for all: each method takes the best of three, at 98% on Fashion-MNIST and with a short training, and keeps it for
every place. The test split stays closed. `_plan.py` reads the file.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

from _plan import METHODS, SIZES, Place
from _rows import collect, save

import evoprune as ep
from evoprune.errors import TrainingFailed

PLACE = Place("autoencoder", "fashion-mnist", 0.98)
RATES = (0.05, 0.5, 2.0)
EPOCHS = {"dense": 5, "gradual_magnitude": 5, "dissipating": 10, "combined": 10, "dissipate_regrow": 10}
"""Of methods that begin denser than they end; the others take `SPARSE`."""
SPARSE = 25


def measure(method: str, lr: float, seed: int) -> dict[str, Any]:
    """Validation loss at the end; None where the training fails."""
    problem = ep.Problem(PLACE.model, PLACE.data, seed=seed)
    asked = {"sparsity": PLACE.sparsity} if ep.methods[method].sparse else {}
    sizes = SIZES[method](PLACE) if method in SIZES else {}
    try:
        ticket = ep.methods[method](problem, epochs=EPOCHS.get(method, SPARSE), seed=seed, lr=lr, **asked, **sizes)
    except TrainingFailed:
        return {"val_loss": None}
    return {"val_loss": ticket.val_loss if math.isfinite(ticket.val_loss) else None}


def best(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The rate of smallest loss, by method."""
    found = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and row["val_loss"] is not None]
        found[method] = min(own, key=lambda row: row["val_loss"])["lr"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    pairs = itertools.product(options.methods.split(","), RATES)
    wanted = [{"method": method, "lr": lr, "seed": options.seed} for method, lr in pairs]
    what = f"{PLACE.name} at {PLACE.sparsity:g}, SGD with momentum .9"
    rows = collect(wanted, measure, what, options.json)
    print(best(rows))
    if options.json:
        save({"what": what, "lr": best(rows), "rows": rows}, options.json)


if __name__ == "__main__":
    main()
