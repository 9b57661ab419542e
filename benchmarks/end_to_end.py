"""How much sooner the main comparison ends because the generation is sparse, and whether it says the same.

    python benchmarks/end_to_end.py [--seeds 2] [--json benchmarks/results/end_to_end.json]

Every method of the comparison on Fashion-MNIST that trains sparse masks (lenet-300-100, 10 epochs, defaults), at 98 and 99%, once
with the dense engine and once with the sparse one, in one process on all cores, engines interleaved cell by cell. Seconds are
those of the method's call; the test split is opened after it. `difference`: mean of the paired differences of test accuracy in
points, with half of its 95% t interval.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from _rows import conclude

import evoprune as ep

METHODS = ("random", "kstarts", "dissipating", "combined")
SPARSITIES = (0.98, 0.99)
ENGINES = ("sparse", "dense")
EPOCHS = 10


def run(problem: ep.Problem, method: str, sparsity: float, seed: int, engine: str) -> dict[str, Any]:
    """One method with one engine."""
    start = time.perf_counter()
    ticket = ep.methods[method](problem.with_seed(seed), sparsity=sparsity, epochs=EPOCHS, seed=seed, engine=engine)
    seconds = time.perf_counter() - start
    row = {"method": method, "sparsity": sparsity, "seed": seed, "engine": engine}
    return {**row, "seconds": round(seconds, 2), "test_accuracy": ticket.test()["accuracy"]}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of both engines in all and by method, and the paired difference of accuracies."""
    from scipy import stats

    seconds = {engine: sum(row["seconds"] for row in rows if row["engine"] == engine) for engine in ENGINES}
    by_method = {
        method: {
            engine: round(sum(row["seconds"] for row in rows if (row["engine"], row["method"]) == (engine, method)), 1)
            for engine in ENGINES
        }
        for method in METHODS
    }
    accuracy = {(row["method"], row["sparsity"], row["seed"], row["engine"]): row["test_accuracy"] for row in rows}
    differences = [100 * (value - accuracy[*key[:3], "dense"]) for key, value in accuracy.items() if key[3] == "sparse"]
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return {
        "seconds": {engine: round(value, 1) for engine, value in seconds.items()},
        "times_faster": round(seconds["dense"] / seconds["sparse"], 2),
        "by_method": by_method,
        "difference": round(statistics.mean(differences), 3),
        "half_interval": round(float(half), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    problem, rows = ep.Problem("lenet-300-100", "fashion-mnist"), []
    for engine in ENGINES:
        run(problem, "random", 0.99, 1000, engine)  # compiled kernels are loaded before anything is timed
    for seed in range(arguments.seeds):
        for sparsity in SPARSITIES:
            for method in METHODS:
                for engine in ENGINES:
                    rows.append(run(problem, method, sparsity, seed, engine))
                    print(rows[-1], file=sys.stderr, flush=True)
    result = {
        "command": f"python benchmarks/end_to_end.py --seeds {arguments.seeds}",
        **summary(rows),
        "rows": rows,
    }
    conclude(result, arguments.json)


if __name__ == "__main__":
    main()
