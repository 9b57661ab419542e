"""Does halving find what full training finds, at which cost; and what does the pilot say about uniform and ERK layers?

    python benchmarks/halving.py [--seeds 5] [--k 32] [--json benchmarks/results/halving.json]

lenet-300-100 on Fashion-MNIST, 99%. For each seed k masks train for all epochs (the full-cost choice: the smallest validation
loss), and compete by halving (2, 4, 8 epochs; `grad` first, then validation loss). Reported: test accuracies of both choices,
their paired difference with its standard error, the cost in samples, and the pilot's verdict with uniform and with ERK layers.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
        "seed": seed,
        "full": full.ticket(choice).test()["accuracy"],
        "halving": halved.test()["accuracy"],
        "random": full.ticket(0).test()["accuracy"],
        "rank_of_halvings_choice": rank,
        "cost": halved.ledger.samples / full.ledger.samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    started, problem = time.perf_counter(), ep.Problem("lenet-300-100", "fashion-mnist")
    rows = []
    for seed in range(arguments.seeds):
        rows.append(compare(problem, seed, arguments.k, "uniform"))
        print(rows[-1], file=sys.stderr, flush=True)
    differences = [row["halving"] - row["full"] for row in rows]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    pilots = {}
    for allocation in ("uniform", "erk"):
        found = pilot(problem, sparsity=SPARSITY, k=16, runs=2, epochs=EPOCHS, allocation=allocation)
        pilots[allocation] = {
            "icc": found.icc, "p": found.p, "spread": found.spread, "verdict": found.verdict,
            "correlations": found.correlations.round(3).to_dict("records"),
        }  # fmt: skip
        print(allocation, found.verdict, file=sys.stderr, flush=True)
    result = {
        "command": f"python benchmarks/halving.py --seeds {arguments.seeds} --k {arguments.k}",
        "what": f"lenet-300-100, fashion-mnist, {SPARSITY:.0%}, uniform layers, {EPOCHS} epochs, k={arguments.k}",
        "cost": round(rows[0]["cost"], 4),
        "means": {name: round(statistics.mean(row[name] for row in rows), 4) for name in ("full", "halving", "random")},
        "difference": round(statistics.mean(differences), 4),
        "standard_error": round(error, 4),
        "pilots": pilots,
        "rows": rows,
        "seconds": round(time.perf_counter() - started, 1),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }
    text = json.dumps(result, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
