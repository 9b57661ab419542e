"""At which learning rate each method trains the autoencoder in the study: by validation loss, on a seed of its own.

    python benchmarks/recipe.py --json benchmarks/results/recipe.json      # goes on where it was stopped

The gradients of a mean over 784 outputs are small, and smaller still in a sparse network: the default rate of .05 leaves random
masks far from their best, while the dense network turns NaN at a threefold one, and methods that begin nearly dense soon after.
So there is no one rate for all: each method takes the best of six in a short training on Fashion-MNIST, at 90 and at 98%, and
keeps it for every place of a density near to that one. The test split stays closed. `_plan.py` reads the file.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _plan import METHODS, SIZES, Place
from _rows import collect, save

import evoprune as ep
from evoprune.errors import TrainingFailed

MODEL, DATA = "autoencoder", "fashion-mnist"
SPARSITIES = (0.98, 0.9)
RATES = (0.02, 0.05, 0.15, 0.5, 1.0, 2.0)
EPOCHS = {"dense": 5, "gradual_magnitude": 5, "dissipating": 10, "combined": 10, "dissipate_regrow": 10}
"""Of methods that begin denser than they end; the others take `SPARSE`."""
SPARSE = 25


def measure(method: str, sparsity: float, lr: float, seed: int) -> dict[str, Any]:
    """Validation loss at the end; None where the training fails."""
    place, problem = Place(MODEL, DATA, sparsity), ep.Problem(MODEL, DATA, seed=seed)
    asked = {"sparsity": sparsity} if ep.methods[method].sparse else {}
    sizes = SIZES[method](place) if method in SIZES else {}
    try:
        ticket = ep.methods[method](problem, epochs=EPOCHS.get(method, SPARSE), seed=seed, lr=lr, **asked, **sizes)
    except TrainingFailed:
        return {"val_loss": None}
    return {"val_loss": ticket.val_loss if math.isfinite(ticket.val_loss) else None}


def wanted(methods: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """What is to be measured; what prunes nothing is measured once."""
    for sparsity, method, lr in itertools.product(SPARSITIES, methods, RATES):
        if ep.methods[method].sparse or sparsity == SPARSITIES[0]:
            yield {"method": method, "sparsity": sparsity, "lr": lr, "seed": seed}


def best(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The rate of smallest loss, by method and sparsity; one for a method that prunes nothing, at both."""
    found: dict[str, dict[str, float]] = {}
    for method, sparsity in itertools.product(dict.fromkeys(row["method"] for row in rows), SPARSITIES):
        measured = sparsity if ep.methods[method].sparse else SPARSITIES[0]
        own = [row for row in rows if (row["method"], row["sparsity"]) == (method, measured) and row["val_loss"] is not None]
        if own:
            found.setdefault(method, {})[str(sparsity)] = min(own, key=lambda row: row["val_loss"])["lr"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    what = f"{MODEL}-on-{DATA}, SGD with momentum .9"
    rows = collect(wanted(options.methods.split(","), options.seed), measure, what, options.json)
    print(best(rows))
    if options.json:
        save({"what": what, "lr": best(rows), "rows": rows}, options.json)


if __name__ == "__main__":
    main()
