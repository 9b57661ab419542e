"""Which dissipation and regrowth is best on validation data:  python benchmarks/regrow_search.py NAME=VALUE…

LeNet-300-100 on MNIST. One configuration a call, a few networks trained together on seeds that the published table does not
use; the test split stays closed. A row is appended to the CSV: its options, validation accuracy and loss, training accuracy.
NAME is a key of `DEFAULTS`:

    python benchmarks/regrow_search.py sparsity=0.98 schedule=step weight_decay=5e-4 reference=zero seeds=2
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import torch

import evoprune as ep
from evoprune.methods.dissipate_regrow import regrow
from evoprune.methods.dissipation import RULES, check, geometric

RESULTS = Path(__file__).parent / "results" / "regrow_search.csv"
FIRST_SEED = 100
DEFAULTS: dict[str, Any] = {
    "sparsity": 0.98,
    "seeds": 3,
    "epochs": 100,
    "start_density": 0.6,
    "checks": 25,
    "counts": "geometric",
    "reference": "init",
    "fraction": 0.2,
    "until": 0.75,
    "weight_decay": 4e-4,
    "lr": 0.1,
    "schedule": "cosine",
    "drop_rate": 0.0,
}
"""counts: survivors after each check, "geometric" or "cubic" as in gradual pruning. reference: of `dissipate_regrow`."""
MEASURED = ["val_accuracy", "val_sd", "val_loss", "train_accuracy", "train_loss"]


def survivors(options: dict[str, Any], start: int, budget: int) -> list[int]:
    """The number after each check."""
    if options["counts"] == "geometric":
        return geometric(start, budget, options["checks"])
    left = [(1 - step / options["checks"]) ** 3 for step in range(1, options["checks"] + 1)]
    return [budget + round((start - budget) * share) for share in left]


def train(problem: ep.Problem, options: dict[str, Any]) -> ep.Population:
    """All networks of a configuration, trained to the end."""
    seeds = range(FIRST_SEED, FIRST_SEED + options["seeds"])
    masks = [ep.random_mask(problem.space, sparsity=1 - options["start_density"], seed=seed) for seed in seeds]
    generation = ep.Population(
        problem,
        masks,
        horizon=options["epochs"],
        seed=FIRST_SEED,
        weights=[problem.with_seed(seed).initial_weights() for seed in seeds],
        batch_size=100,
        step_every=25_000,
        engine="sparse",
        **{name: options[name] for name in ("lr", "weight_decay", "schedule", "drop_rate")},
    )
    for count in survivors(options, generation.masks[0].count, problem.space.budget(options["sparsity"])):
        generation.train(1)
        initial = generation.parameters.initial
        held = initial if options["reference"] == "init" else {name: torch.zeros_like(value) for name, value in initial.items()}
        check(generation, RULES["rank"], held, budget=count)
    return regrow(generation, options["fraction"], options["until"])


def measured(generation: ep.Population) -> dict[str, float]:
    """Means over the networks; accuracies in [0, 1]."""
    validation, training = generation.evaluate("validation"), generation.evaluate("train")
    return {
        "val_accuracy": validation["accuracy"].mean(),
        "val_sd": validation["accuracy"].std(),
        "val_loss": validation["loss"].mean(),
        "train_accuracy": training["accuracy"].mean(),
        "train_loss": training["loss"].mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", help="NAME=VALUE, of " + ", ".join(DEFAULTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--data-root", default=None)
    arguments = parser.parse_args()
    options = dict(DEFAULTS)
    for given in arguments.options:
        name, _, value = given.partition("=")
        if name not in DEFAULTS:
            parser.error(f"unknown option {name!r}: choose from {', '.join(DEFAULTS)}")
        options[name] = type(DEFAULTS[name])(value)
    problem = ep.Problem("lenet-300-100", "mnist", seed=0, data_root=arguments.data_root)
    row = {**options, **measured(train(problem, options))}
    new = not arguments.out.exists()
    with arguments.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*DEFAULTS, *MEASURED])
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
