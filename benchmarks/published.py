"""The LeNet-300-100 / MNIST table of the published rivals, repeated:  python benchmarks/published.py

100 epochs of 54,000 images (the rest is for validation), batch 100, SGD .1 with momentum .9, weight decay 5e-4, learning
rate x0.1 every 25,000 steps (regrow_average: constant, its own), 5 seeds. Static masks and the rules that change masks train
all seeds of a cell together, as one population with common batches; kstarts, dissipating and combined run seed by seed. The
sparsities of imp share their rounds.
Each finished cell is appended to the CSV, so that the command goes on where it was stopped, and can be given in pieces:

    python benchmarks/published.py --methods set,rigl --sparsities 0.95 --seeds 5
    python benchmarks/published.py --unit-inputs --methods snip --out benchmarks/results/published_lenet_unit_inputs.csv
    python benchmarks/published.py --epochs 1 --seeds 1 --out /tmp/smoke.csv       # a trial; other epochs, other rows

MNIST is read from EVOPRUNE_DATA or --data-root, in torchvision's layout, else fetched.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import evoprune as ep
from evoprune.masks.mask import Mask
from evoprune.methods.dissipate_regrow import NEARLY_DENSE, dissipate, regrow
from evoprune.methods.gradual_magnitude import prune_gradually
from evoprune.methods.imp import next_round, rounds, train_to_rewinding_point
from evoprune.methods.regrow_average import averaged_epochs
from evoprune.methods.rigl import rewire_by_gradient
from evoprune.methods.set_ import rewire_at_random
from evoprune.training.averaging import train_averaged

RESULTS = Path(__file__).parent / "results" / "published_lenet.csv"
RECIPE = {
    "batch_size": 100,
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "step_every": 25_000,
    "engine": "sparse",
}
OWN = {"regrow_average": {"schedule": "constant", "step_every": None}}
"""What a method sets by itself in place of the recipe's."""
COLUMNS = [
    "method",
    "sparsity",
    "seed",
    "epochs",
    "test_accuracy",
    "val_accuracy",
    "test_loss",
    "survivors",
    "samples",
    "dense_equivalent_epochs",
    "wall_s",
    "engine",
    "together_with",
    "mask_hash",
]
PUBLISHED = {
    "random_uniform": {0.9: 97.94, 0.95: 96.68, 0.98: 82.8, 0.99: 49.5},
    "snip": {0.95: 98.4, 0.98: 97.6},
    "set": {0.9: 98.39, 0.95: 98.14, 0.98: 97.74, 0.99: 95.80},
    "gradual_magnitude": {0.9: 98.55, 0.95: 98.47, 0.98: 98.12, 0.99: 97.47},
    "sparse momentum": {0.9: 98.67, 0.95: 98.53, 0.98: 98.20, 0.99: 97.53},
}
"""Test accuracy in %; `random_uniform` stands beside the published static random masks, whose allocation is not said."""

Rows = list[dict[str, Any]]


def mask_of(method: str, problem: ep.Problem, sparsity: float, seed: int) -> tuple[Mask, ep.Ledger]:
    """The mask that a cell's network of `seed` starts from, and what finding it cost."""
    if method in ep.scorers:
        return ep.scorers[method].select(problem, sparsity=sparsity, seed=seed, device="cpu")
    if method in ("imp", "gradual_magnitude"):
        return Mask.full(problem.space), ep.Ledger()
    if method in ("dissipate_regrow", "regrow_average"):
        sparsity = 1 - NEARLY_DENSE
    allocation = "uniform" if method == "random_uniform" else "erk"
    return ep.random_mask(problem.space, sparsity=sparsity, allocation=allocation, seed=seed), ep.Ledger()


def whole(generation: ep.Population, sparsity: float) -> ep.Population:
    """Train the masks as they are, to the end."""
    return generation.train(generation.horizon - generation.epoch)


def dissipated(generation: ep.Population, sparsity: float) -> ep.Population:
    """Dissipate to `sparsity` in the first quarter."""
    return dissipate(generation, generation.problem.space.budget(sparsity), max(1, generation.horizon // 4))


TOGETHER: dict[str, Callable[[ep.Population, float], ep.Population]] = {
    **dict.fromkeys(("random_uniform", "random_erk", "magnitude", "snip", "synflow", "grasp"), whole),
    "set": lambda generation, sparsity: rewire_at_random(generation),
    "rigl": lambda generation, sparsity: rewire_by_gradient(generation),
    "gradual_magnitude": prune_gradually,
    "dissipate_regrow": lambda generation, sparsity: whole(regrow(dissipated(generation, sparsity)), sparsity),
    "regrow_average": lambda generation, sparsity: train_averaged(
        regrow(dissipated(generation, sparsity), every=100), averaged_epochs(generation.horizon, 0.25)
    ),
}
ONE_BY_ONE = ("kstarts", "dissipating", "combined")


def cell(method: str, sparsity: float, problem: ep.Problem, seeds: Sequence[int], epochs: int) -> Rows:
    """Train one method at one sparsity for all `seeds`, and open the test split once a network."""
    started = time.perf_counter()
    if method in TOGETHER:
        generation, scoring = start(method, sparsity, problem, seeds, epochs)
        return rows_of(method, sparsity, TOGETHER[method](generation, sparsity), seeds, scoring, started)
    options = {"sparsity": sparsity, "epochs": epochs, **RECIPE}
    tickets = [ep.methods[method](problem.with_seed(seed), seed=seed, **options) for seed in seeds]
    seconds = (time.perf_counter() - started) / len(seeds)
    return [
        _row(method, sparsity, seed, epochs, ticket, ticket.ledger, seconds, 1)
        for seed, ticket in zip(seeds, tickets, strict=True)
    ]


def start(
    method: str, sparsity: float, problem: ep.Problem, seeds: Sequence[int], epochs: int
) -> tuple[ep.Population, list[ep.Ledger]]:
    """The networks of a cell before training, one a seed with its own initial weights, and what finding each mask cost."""
    problems = [problem.with_seed(seed) for seed in seeds]
    found = [mask_of(method, own, sparsity, seed) for own, seed in zip(problems, seeds, strict=True)]
    weights = [own.initial_weights() for own in problems]
    generation = ep.Population(
        problem, [mask for mask, _ in found], horizon=epochs, weights=weights, **RECIPE | OWN.get(method, {})
    )
    return generation, [ledger for _, ledger in found]


def rows_of(
    method: str,
    sparsity: float,
    generation: ep.Population,
    seeds: Sequence[int],
    scoring: Sequence[ep.Ledger],
    started: float,
) -> Rows:
    """The rows of networks that have trained together, each with its share of the cost."""
    seconds, share = (time.perf_counter() - started) / len(seeds), _share(generation.ledger, len(seeds))
    return [
        _row(method, sparsity, seed, generation.horizon, generation.ticket(row), share + scoring[row], seconds, len(seeds))
        for row, seed in enumerate(seeds)
    ]


def imp_cells(sparsities: Sequence[float], problem: ep.Problem, seeds: Sequence[int], epochs: int) -> Iterator[Rows]:
    """Iterative magnitude pruning at every sparsity in turn, on one chain of rounds.

    The rounds of two sparsities are the same until the denser one is reached, so they are trained once; the ledger of each
    has all of its rounds, as if it had run alone.
    """
    started = time.perf_counter()
    generation, scoring = start("imp", max(sparsities), problem, seeds, epochs)
    begin = train_to_rewinding_point(generation, 0)
    generation.train(epochs)
    left = {sparsity: problem.space.budget(sparsity) for sparsity in sorted(sparsities)}
    for survivors in rounds(problem.prunable, min(left.values()), 0.2):
        for sparsity in [one for one, budget in left.items() if budget >= survivors]:
            last = next_round(generation, left.pop(sparsity), begin, 0)
            yield rows_of("imp", sparsity, last, seeds, scoring, started)
        if left:
            generation = next_round(generation, survivors, begin, 0)


def _share(ledger: ep.Ledger, k: int) -> ep.Ledger:
    """What one of k networks that trained together cost."""
    return ep.Ledger(
        samples=ledger.samples // k,
        survivor_updates=ledger.survivor_updates // k,
        dense_equivalent_epochs=ledger.dense_equivalent_epochs / k,
        engine=ledger.engine,
    )


def _row(
    method: str, sparsity: float, seed: int, epochs: int, ticket: ep.Ticket, cost: ep.Ledger, seconds: float, together: int
) -> dict[str, Any]:
    test = ticket.test("benchmarks/published.py")
    return {
        "method": method,
        "sparsity": sparsity,
        "seed": seed,
        "epochs": epochs,
        "test_accuracy": test["accuracy"],
        "val_accuracy": ticket.val_accuracy,
        "test_loss": test["loss"],
        "survivors": ticket.mask.count,
        "samples": cost.samples,
        "dense_equivalent_epochs": cost.dense_equivalent_epochs,
        "wall_s": round(seconds, 2),
        "engine": cost.engine,
        "together_with": together,
        "mask_hash": ticket.mask.hash,
    }


def finished(path: Path) -> set[tuple[str, float, int, int]]:
    """Cells (method, sparsity, seed, epochs) that the file holds."""
    if not path.exists():
        return set()
    frame = pd.read_csv(path)
    return {(row.method, float(row.sparsity), int(row.seed), int(row.epochs)) for row in frame.itertuples()}


def append(path: Path, rows: Rows) -> None:
    """Add rows to the file, with its header where it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def compared(path: Path, epochs: int = 100) -> Rows:
    """One row a cell of the file and one a published value that has none: accuracies in %, their difference, the cost.

    Keys method, sparsity, seeds, mean, sd (of the seeds; NaN for one), published, difference, dense_equivalent_epochs (a seed).
    """
    frame = pd.read_csv(path)
    frame = frame[frame["epochs"] == epochs]
    order = list(dict.fromkeys([*TOGETHER, *ONE_BY_ONE, "imp", *PUBLISHED]))
    cells = {*frame[["method", "sparsity"]].itertuples(index=False, name=None)}
    cells |= {(name, sparsity) for name, values in PUBLISHED.items() for sparsity in values}
    rows = []
    for method, sparsity in sorted(cells, key=lambda cell: (cell[1], order.index(cell[0]))):
        own = frame[(frame["method"] == method) & (frame["sparsity"] == sparsity)]
        mean, theirs = 100 * own["test_accuracy"].mean(), PUBLISHED.get(method, {}).get(sparsity, math.nan)
        rows.append(
            {
                "method": method,
                "sparsity": sparsity,
                "seeds": len(own),
                "mean": mean,
                "sd": 100 * own["test_accuracy"].std(ddof=1),
                "published": theirs,
                "difference": mean - theirs,
                "dense_equivalent_epochs": own["dense_equivalent_epochs"].mean(),
            }
        )
    return rows


def table(path: Path, epochs: int) -> str:
    """Mean test accuracy in % ± its standard deviation over seeds, for reading in a terminal."""
    lines = [f"{'method':20}{'sparsity':>9}{'seeds':>6}{'test %':>16}{'published':>10}{'difference':>11}"]
    lines += [
        f"{row['method']:20}{row['sparsity']:>9}{row['seeds']:>6}{row['mean']:>9.2f} ± {row['sd']:4.2f}"
        f"{row['published']:>10.2f}{row['difference']:>11.2f}".replace("nan", "  -")
        for row in compared(path, epochs)
    ]
    return "\n".join(lines)


def main() -> None:
    known = [*TOGETHER, *ONE_BY_ONE, "imp"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(known), help="of " + ", ".join(known))
    parser.add_argument("--sparsities", default="0.9,0.95,0.98,0.99")
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, … (this many)")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--unit-inputs", action="store_true", help="pixels in [0, 1], not standardized; give another --out")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    methods = options.methods.split(",")
    if unknown := [name for name in methods if name not in known]:
        parser.error(f"unknown method {unknown[0]!r}: choose from {', '.join(known)}")
    problem = ep.Problem("lenet-300-100", "mnist", seed=0, data_root=options.data_root, standardize=not options.unit_inputs)
    if options.unit_inputs and options.out == RESULTS:
        parser.error("--unit-inputs gives other results than the table's: name another file with --out")
    sparsities = [float(sparsity) for sparsity in options.sparsities.split(",")]

    def missing(method: str, sparsity: float) -> list[int]:
        done = finished(options.out)
        return [seed for seed in range(options.seeds) if (method, sparsity, seed, options.epochs) not in done]

    for sparsity in sparsities:
        for method in (name for name in methods if name != "imp"):
            if seeds := missing(method, sparsity):
                print(f"{method} at {sparsity:g}, seeds {seeds} ...", flush=True)
                append(options.out, cell(method, sparsity, problem, seeds, options.epochs))
    if "imp" in methods and (todo := [sparsity for sparsity in sparsities if missing("imp", sparsity)]):
        seeds = missing("imp", todo[-1])
        print(f"imp at {todo}, seeds {seeds} ...", flush=True)
        for rows in imp_cells(todo, problem, seeds, options.epochs):
            append(options.out, rows)
    print(table(options.out, options.epochs))


if __name__ == "__main__":
    main()
