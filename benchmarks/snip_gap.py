"""Why SNIP lies below its published values on LeNet-300-100 and MNIST:  python benchmarks/snip_gap.py [SPARSITY…]

The recipe of `published.py`, 5 seeds trained together, and what the authors' program does otherwise, one change a row:

lecun     weights of variance 1/fan-in, as there, for scores and for training; the table's have 2/fan-in (He-normal)
redrawn   the same, and other weights after pruning than those that were scored, as there

It reports the best checkpoint of a training; what that adds is `best_val_accuracy - val_accuracy`: every epoch is a checkpoint,
and validation data stand in for the test split, which is opened once a network, after its last epoch.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import torch
from published import RECIPE

import evoprune as ep

RESULTS = Path(__file__).parent / "results" / "snip_gap.csv"
VARIANTS = ("lecun", "redrawn")
COLUMNS = ["variant", "sparsity", "seed", "epochs", "test_accuracy", "val_accuracy", "best_val_accuracy", "survivors"]


def problem(seed: int, data_root: str | None = None) -> ep.Problem:
    """The problem with weights of half the variance."""
    module = ep.Problem("lenet-300-100", "mnist", seed=seed, data_root=data_root).module()
    with torch.no_grad():
        for value in module.parameters():
            value.div_(math.sqrt(2))
    return ep.Problem(module, "mnist", data_root=data_root)


def rows(variant: str, sparsity: float, seeds: int, epochs: int, data_root: str | None = None) -> list[dict[str, Any]]:
    """One row a seed."""
    scored = [problem(seed, data_root) for seed in range(seeds)]
    masks = [ep.scorers["snip"].select(own, sparsity=sparsity, seed=seed, device="cpu")[0] for seed, own in enumerate(scored)]
    redrawn = [problem(seed + 1000, data_root) for seed in range(seeds)] if variant == "redrawn" else scored
    weights = [own.initial_weights() for own in redrawn]
    generation = ep.Population(scored[0], masks, horizon=epochs, weights=weights, **RECIPE).train(epochs)
    tickets = [generation.ticket(row) for row in range(seeds)]
    return [
        {
            "variant": variant,
            "sparsity": sparsity,
            "seed": seed,
            "epochs": epochs,
            "test_accuracy": ticket.test("benchmarks/snip_gap.py")["accuracy"],
            "val_accuracy": ticket.val_accuracy,
            "best_val_accuracy": ticket.history["val_accuracy"].max(),
            "survivors": ticket.mask.count,
        }
        for seed, ticket in enumerate(tickets)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sparsities", nargs="*", type=float, default=[0.95, 0.98])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    new = not options.out.exists()
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        for sparsity in options.sparsities:
            for variant in VARIANTS:
                found = rows(variant, sparsity, options.seeds, options.epochs, options.data_root)
                writer.writerows(found)
                file.flush()
                means = {name: 100 * sum(row[name] for row in found) / len(found) for name in COLUMNS[4:7]}
                print(f"{variant:8} {sparsity:g}", *(f"{name} {value:.2f}" for name, value in means.items()), flush=True)


if __name__ == "__main__":
    main()
