"""Does halving find what full training finds, at which cost; and what does the pilot say about uniform and ERK layers?

    python benchmarks/halving.py [--seeds 10] [--k 32] [--json benchmarks/results/halving.json]

lenet-300-100 on Fashion-MNIST, 99%. For each seed k masks train for all epochs (the full-cost choice: the smallest validation
loss), and compete by halving (2, 4, 8 epochs; `grad` first, then validation loss). Reported: test accuracies of both choices
and of a random mask, the paired difference of the choices with half of its 95% t interval, the cost in samples, and the pilot's
verdict with uniform and with ERK layers. Rows are written as they come, and the command run again goes on.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from _rows import collect, conclude

import evoprune as ep
from evoprune.evolution.assess import initial_population
from evoprune.evolution.pilot import pilot

SPARSITY, EPOCHS = 0.99, 10


def compare(problem: ep.Problem, seed: int, k: int, allocation: str) -> dict[str, Any]:
    """One seed: the full-cost choice, halving's, and a random one."""
    own = problem.with_seed(seed)
    individuals = initial_population(own.space, k, sparsity=SPARSITY, allocation=allocation, seed=seed)
    full = ep.Population(own, individuals, horizon=EPOCHS, seed=seed).train(EPOCHS)
    losses = full.trace.last("val_loss")
    choice = int(np.argmin(losses))
    halved = ep.methods["halving"](own, sparsity=SPARSITY, k=k, epochs=EPOCHS, allocation=allocation, seed=seed)
    rank = next((place for place, row in enumerate(np.argsort(losses)) if individuals[row].mask == halved.mask), -1)
    return {
        "full": full.ticket(choice).test()["accuracy"],
        "halving": halved.test()["accuracy"],
        "random": full.ticket(0).test()["accuracy"],
        "rank_of_halvings_choice": rank,
        "cost": halved.ledger.samples / full.ledger.samples,
    }


def half_interval(values: list[float]) -> float:
    """Half of the 95% t interval of the mean."""
    from scipy import stats

    error = statistics.stdev(values) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * error


def asked(problem: ep.Problem, allocation: str) -> dict[str, Any]:
    """What the pilot says about an allocation."""
    found = pilot(problem, sparsity=SPARSITY, k=16, runs=3, epochs=EPOCHS, allocation=allocation)
    return {
        "icc": found.icc, "p": found.p, "spread": found.spread, "verdict": found.verdict,
        "correlations": found.correlations.round(3).to_dict("records"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    problem = ep.Problem("lenet-300-100", "fashion-mnist")
    what = f"lenet-300-100, fashion-mnist, {SPARSITY:.0%}, uniform layers, {EPOCHS} epochs, k={arguments.k}"
    rows = collect(
        ({"seed": seed} for seed in range(arguments.seeds)),
        lambda seed: compare(problem, seed, arguments.k, "uniform"),
        what,
        arguments.json,
    )
    differences = [row["halving"] - row["full"] for row in rows]
    result = {
        "command": f"python benchmarks/halving.py --seeds {arguments.seeds} --k {arguments.k}",
        "what": what,
        "cost": round(max(row["cost"] for row in rows), 4),
        "means": {name: round(statistics.mean(row[name] for row in rows), 4) for name in ("full", "halving", "random")},
        "difference": round(statistics.mean(differences), 4),
        "half_interval_95": round(half_interval(differences), 4),
        "pilots": {allocation: asked(problem, allocation) for allocation in ("uniform", "erk")},
        "rows": rows,
    }
    conclude(result, arguments.json)


if __name__ == "__main__":
    main()
