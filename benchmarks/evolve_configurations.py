"""Configurations of `evolve` at about equal cost, judged on validation data: where its defaults come from.

    python benchmarks/evolve_configurations.py [--seeds 3] [--finalists 3] [--more 4] [--json FILE]

lenet-300-100 on Fashion-MNIST at 98 and 99%, 10 epochs of the returned network. The score is the validation accuracy of the
returned network at its last epoch; the test split stays closed. Every configuration gets `--seeds` seeds (those of `PROBES`,
slow ones, the first alone), the best `--finalists` get `--more` others as well. The default is changed only for a configuration
that beats it beyond the 95% interval of the paired difference; `evolve.py` judges it on other seeds and on test data. Each
configuration searches for about 60 epochs of training; the mean cost in the ledger stands beside its score. `kstarts` by
validation loss, with as many starts as cost what the default costs (`evolve.py` works them out), is the rival. Rows are
written as they come, and the command run again goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _rows import collect, conclude

import evoprune as ep

EPOCHS = 10
STARTS = {0.98: 37, 0.99: 40}
"""Of `kstarts`, by sparsity."""

GUIDED = {"fitness_epochs": 1, "mu": 1, "lambda_": 4, "ngen": 15, "cxpb": 0.0, "mutpb": 1.0, "comma": True}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "share .1": {"share": 0.1},
    "share .2": {"share": 0.2},
    "share .5": {"share": 0.5},
    "(1, 1), 60 generations": {"lambda_": 1, "ngen": 60},
    "(1, 1), 60 generations, share .2": {"lambda_": 1, "ngen": 60, "share": 0.2},
    "(1, 2), 30 generations": {"lambda_": 2, "ngen": 30},
    "(1, 2), 30 generations, share .2": {"lambda_": 2, "ngen": 30, "share": 0.2},
    "(1, 8), 7 generations": {"lambda_": 8, "ngen": 7},
    "(2, 6), 10 generations": {"mu": 2, "lambda_": 6, "ngen": 10},
    "(1 + 4)": {"comma": False},
    "fitness of 2 epochs, 7 generations": {"fitness_epochs": 2, "ngen": 7},
    "fitness by accuracy": {"criterion": "accuracy"},
    "no inheritance": {**GUIDED, "form": "plain", "mutate": "mutGuided"},
    "swaps at random, inherited weights": {"mutate": "mutSwap"},
    "plain (8 + 8), 3 generations": {"form": "plain", "mu": 8, "lambda_": 8, "ngen": 3},
    "plain (4 + 4), 7 generations": {"form": "plain", "mu": 4, "lambda_": 4, "ngen": 7},
}
"""By name; "default" is what `evolve` does without options: (1, 4), 15 generations, one epoch, share .3, inherited weights."""
PROBES = ("(1, 1), 60 generations", "(1, 1), 60 generations, share .2", "(1, 2), 30 generations, share .2")


def measure(problem: ep.Problem, sparsity: float, seed: int, configuration: str) -> dict[str, Any]:
    """Validation accuracy and cost of one configuration."""
    own, options = problem.with_seed(seed), {"sparsity": sparsity, "epochs": EPOCHS, "seed": seed}
    if configuration == "kstarts":
        ticket = ep.kstarts(own, k=STARTS[sparsity], criterion="loss", **options)
    else:
        ticket = ep.evolve(own, **options, **CONFIGURATIONS[configuration])
    return {
        "accuracy": float(ticket.history["val_accuracy"].iloc[-1]),
        "cost": round(ticket.ledger.dense_equivalent_epochs, 4),
    }


def against_default(rows: list[dict[str, Any]], name: str) -> dict[str, float | None]:
    """Mean difference to the default in points, paired by seed and averaged over sparsities, and half of its 95% t interval."""
    from scipy import stats

    scores = {(row["configuration"], row["seed"], row["sparsity"]): row["accuracy"] for row in rows}
    both = {row["seed"] for row in rows if all((one, row["seed"], s) in scores for one in (name, "default") for s in STARTS)}
    differences = [
        100 * statistics.mean(scores[name, seed, s] - scores["default", seed, s] for s in STARTS) for seed in sorted(both)
    ]
    found: dict[str, float | None] = {"minus_default": round(statistics.mean(differences), 3), "half_interval_95": None}
    if name != "default" and len(differences) > 1:
        error = statistics.stdev(differences) / len(differences) ** 0.5
        found["half_interval_95"] = round(float(stats.t.ppf(0.975, len(differences) - 1)) * error, 3)
    return found


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean validation accuracy in % and cost of each configuration, by sparsity; finalists first, then the best mean."""
    found = []
    for name in dict.fromkeys(row["configuration"] for row in rows):
        seeds = len({row["seed"] for row in rows if row["configuration"] == name})
        entry: dict[str, Any] = {"configuration": name, "seeds": seeds, "options": CONFIGURATIONS.get(name, {})}
        for sparsity in STARTS:
            own = [row for row in rows if row["configuration"] == name and row["sparsity"] == sparsity]
            entry[f"accuracy_{sparsity}"] = round(100 * statistics.mean(row["accuracy"] for row in own), 3)
            entry[f"cost_{sparsity}"] = round(statistics.mean(row["cost"] for row in own), 4)
        found.append(entry | against_default(rows, name))
    return sorted(found, key=lambda entry: (-entry["seeds"], -sum(entry[f"accuracy_{sparsity}"] for sparsity in STARTS)))


def wanted(names: Iterable[str], seeds: Iterable[int]) -> list[dict[str, Any]]:
    """The arguments of each run."""
    return [
        {"configuration": name, "sparsity": sparsity, "seed": seed} for seed in seeds for name in names for sparsity in STARTS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--finalists", type=int, default=3)
    parser.add_argument("--more", type=int, default=4, help="further seeds of each finalist")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    problem = ep.Problem("lenet-300-100", "fashion-mnist")
    what = f"lenet-300-100, fashion-mnist, {EPOCHS} epochs, validation accuracy of the returned network"
    end = arguments.first_seed + arguments.seeds
    every = wanted([*CONFIGURATIONS, "kstarts"], [arguments.first_seed])
    every += wanted([name for name in (*CONFIGURATIONS, "kstarts") if name not in PROBES], range(arguments.first_seed + 1, end))
    rows = collect(every, lambda **one: measure(problem, **one), what, arguments.json)
    ranked = [entry["configuration"] for entry in table(rows) if entry["configuration"] not in ("kstarts", *PROBES)]
    every += wanted(ranked[: arguments.finalists], range(end, end + arguments.more))
    rows = collect(every, lambda **one: measure(problem, **one), what, arguments.json)
    result = {
        "command": f"python benchmarks/evolve_configurations.py --seeds {arguments.seeds} --first-seed {arguments.first_seed} "
        f"--finalists {arguments.finalists} --more {arguments.more}",
        "what": what,
        "configurations_tried": len(CONFIGURATIONS),
        "table": table(rows),
        "rows": rows,
    }
    conclude(result, arguments.json)


if __name__ == "__main__":
    main()
