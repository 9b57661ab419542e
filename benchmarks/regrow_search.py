"""Which dissipation and regrowth is best on validation data:  python benchmarks/regrow_search.py NAME=VALUE…

LeNet-300-100 on MNIST. One training a call, a few networks together on seeds that the published table does not use; the test
split stays closed. A row is appended to the CSV: its options, validation accuracy and loss, training accuracy. Several values
of `average` give one row each, of the same training. NAME is a key of `DEFAULTS`:

    python benchmarks/regrow_search.py sparsity=0.98 schedule=constant every=100 average=0,0.1,0.25
"""

from __future__ import annotations

import argparse
import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import evoprune as ep
from evoprune.methods.dissipation import RULES, check, geometric
from evoprune.methods.rewiring import annealed, rewire, steepest
from evoprune.training.parameters import Parameters

RESULTS = Path(__file__).parent / "results" / "regrow_search.csv"
FIRST_SEED = 100
DEFAULTS: dict[str, Any] = {
    "sparsity": 0.98,
    "seeds": 5,
    "epochs": 100,
    "start_density": 0.6,
    "checks": 25,
    "counts": "geometric",
    "reference": "zero",
    "fraction": 0.2,
    "until": 0.75,
    "weight_decay": 5e-4,
    "lr": 0.1,
    "schedule": "step",
    "drop_rate": 0.0,
    "every": 0,
    "step_every": 25_000,
    "average": "0",
}
"""counts: survivors after each check, "geometric" or "cubic" as in gradual pruning. reference: of `dissipate_regrow`.

every: steps between regrowths, 0 for an epoch. average: share of the training, at its end, that weights are averaged over; 0
for those of the last step. A weight counts as 0 for as long as it is out.
"""
Weights = dict[str, Tensor]
MEASURED = ["val_accuracy", "val_sd", "val_loss", "train_accuracy", "train_loss", "at_constant_inputs"]
"""Means over the networks; at_constant_inputs: survivors, of one network, at pixels that are the same in all training images."""


def survivors(options: dict[str, Any], start: int, budget: int) -> list[int]:
    """The number after each check."""
    if options["counts"] == "geometric":
        return geometric(start, budget, options["checks"])
    left = [(1 - step / options["checks"]) ** 3 for step in range(1, options["checks"] + 1)]
    return [budget + round((start - budget) * share) for share in left]


def dissipated(problem: ep.Problem, options: dict[str, Any]) -> ep.Population:
    """All networks of a configuration, at their last sparsity."""
    seeds = range(FIRST_SEED, FIRST_SEED + options["seeds"])
    masks = [ep.random_mask(problem.space, sparsity=1 - options["start_density"], seed=seed) for seed in seeds]
    generation = ep.Population(
        problem,
        masks,
        horizon=options["epochs"],
        seed=FIRST_SEED,
        weights=[problem.with_seed(seed).initial_weights() for seed in seeds],
        batch_size=100,
        engine="sparse",
        step_every=options["step_every"] if options["schedule"] == "step" else None,
        **{name: options[name] for name in ("lr", "weight_decay", "schedule", "drop_rate")},
    )
    for count in survivors(options, generation.masks[0].count, problem.space.budget(options["sparsity"])):
        generation.train(1)
        initial = generation.parameters.initial
        held = initial if options["reference"] == "init" else {name: torch.zeros_like(value) for name, value in initial.items()}
        check(generation, RULES["rank"], held, budget=count)
    return generation


def regrown(generation: ep.Population, options: dict[str, Any]) -> Iterator[list[Weights]]:
    """Train to the end; after each epoch the values of every network, pruned weights 0."""
    per_epoch = generation.batches.per_epoch
    total = generation.horizon * per_epoch
    end, every = int(options["until"] * total), options["every"] or per_epoch
    while generation.steps < total:
        if generation.steps < end and generation.steps % every == 0:
            rewire(generation, annealed(options["fraction"], generation.steps, end), steepest(generation, noise="regrow"))
        following = min(generation.steps // period * period + period for period in (every, per_epoch))
        generation.train_steps(following - generation.steps)
        if generation.steps % per_epoch == 0:
            yield [generation.parameters.row(position) for position in range(len(generation))]


def put(generation: ep.Population, values: list[list[Weights]]) -> None:
    """Give every network the mean of its values over some epochs."""
    rows = [[epoch[position] for epoch in values] for position in range(len(generation))]
    means = [{name: torch.stack([one[name] for one in own]).mean(0) for name in own[0]} for own in rows]
    trained = list(generation.parameters.leaves())
    held = Parameters.of(generation.masks, means, trained).leaves()
    with torch.no_grad():
        for name, leaf in generation.parameters.leaves().items():
            leaf.copy_(held[name])


def measured(generation: ep.Population) -> dict[str, float]:
    """Means over the networks; accuracies in [0, 1]."""
    validation, training = generation.evaluate("validation"), generation.evaluate("train")
    pixels = generation.problem.split("train").inputs.flatten(1)
    constant = (pixels == pixels[0]).all(0).numpy()
    return {
        "val_accuracy": validation["accuracy"].mean(),
        "val_sd": validation["accuracy"].std(),
        "val_loss": validation["loss"].mean(),
        "train_accuracy": training["accuracy"].mean(),
        "train_loss": training["loss"].mean(),
        "at_constant_inputs": np.mean([constant[mask.survivors[0] % len(constant)].sum() for mask in generation.masks]),
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
    shares = sorted(float(share) for share in options["average"].split(","))
    generation = dissipated(problem, options)
    kept = deque(regrown(generation, options), maxlen=max(1, round(shares[-1] * options["epochs"])))
    new = not arguments.out.exists()
    with arguments.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*DEFAULTS, *MEASURED])
        if new:
            writer.writeheader()
        for share in shares:
            put(generation, list(kept)[-max(1, round(share * options["epochs"])) :])
            row = {**options, "average": share, **measured(generation)}
            writer.writerow(row)
            print(row)


if __name__ == "__main__":
    main()
