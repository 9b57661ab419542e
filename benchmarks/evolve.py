"""`evolve` against `kstarts` at equal cost and equal survivors, paired over seeds.

    python benchmarks/evolve.py [--seeds 10] [--first-seed 100] [--sparsity 0.98,0.99] [--json benchmarks/results/evolve.json]

lenet-300-100 on Fashion-MNIST, 10 epochs of the returned network, defaults of both methods, but as many starts as make the cost
of `kstarts` (survivor updates in the ledger, dense gradients included) at least that of `evolve`; with its default criterion and
with the validation loss. A paired t test with Holm's correction decides. `random` is a control: one mask of the winner's layer
counts, which guided mutation leaves as the allocation made them. The seeds start at 100: `evolve_configurations.py`, which chose
the defaults on validation data, used others. Each row is written as it comes, and the command run again goes on.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

from _rows import collect, conclude

import evoprune as ep

EPOCHS = 10


def starts_for(cost: int, survivors: int, samples: int) -> int:
    """The fewest starts with which `kstarts` costs at least `cost` survivor updates; two epochs each, the best goes on."""
    epoch = 3 * survivors * samples
    return math.ceil((cost / epoch - (EPOCHS - 2)) / 2) + 1


def measure(problem: ep.Problem, sparsity: float, seed: int) -> dict[str, Any]:
    """Test accuracies and costs of one seed."""
    started, own = time.perf_counter(), problem.with_seed(seed)
    evolved = ep.evolve(own, sparsity=sparsity, epochs=EPOCHS, seed=seed)
    k = starts_for(evolved.ledger.survivor_updates, evolved.mask.count, len(own.split("train")))
    tickets = {
        "evolve": evolved,
        "kstarts": ep.kstarts(own, sparsity=sparsity, epochs=EPOCHS, k=k, seed=seed),
        "kstarts_loss": ep.kstarts(own, sparsity=sparsity, epochs=EPOCHS, k=k, seed=seed, criterion="loss"),
        "random": ep.methods["random"](own, sparsity=sparsity, epochs=EPOCHS, seed=seed),
    }
    if len({ticket.mask.counts for ticket in tickets.values()}) > 1:
        raise AssertionError("the methods do not keep equally many survivors in each layer")
    return {
        "k": k,
        "survivors": evolved.mask.count,
        **{name: ticket.test()["accuracy"] for name, ticket in tickets.items()},
        "cost": {name: round(ticket.ledger.dense_equivalent_epochs, 4) for name, ticket in tickets.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }


def verdicts(rows: list[dict[str, Any]], rivals: tuple[str, ...]) -> list[dict[str, Any]]:
    """Paired t tests of `evolve` against each rival at each sparsity, p corrected by Holm's method."""
    from scipy import stats

    found = []
    for sparsity in sorted({row["sparsity"] for row in rows}):
        for rival in rivals:
            differences = [row["evolve"] - row[rival] for row in rows if row["sparsity"] == sparsity]
            mean, error = statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
            p = float(stats.ttest_1samp(differences, 0).pvalue)
            found.append(
                {
                    "sparsity": sparsity, "rival": rival, "points": round(100 * mean, 3), "error": round(100 * error, 3),
                    "wins": sum(one > 0 for one in differences), "pairs": len(differences), "p": p,
                }
            )  # fmt: skip
    running = 0.0
    for place, one in enumerate(sorted(found, key=lambda entry: float(str(entry["p"])))):
        running = max(running, min(1.0, float(str(one["p"])) * (len(found) - place)))
        one["p_holm"] = running
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--sparsity", default="0.98,0.99")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    problem, what = ep.Problem("lenet-300-100", "fashion-mnist"), f"lenet-300-100, fashion-mnist, {EPOCHS} epochs, test accuracy"
    wanted = [
        {"sparsity": float(sparsity), "seed": arguments.first_seed + number}
        for number in range(arguments.seeds)
        for sparsity in arguments.sparsity.split(",")
    ]
    rows = collect(wanted, lambda **one: measure(problem, **one), what, arguments.json)
    result = {
        "command": f"python benchmarks/evolve.py --seeds {arguments.seeds} --first-seed {arguments.first_seed} "
        f"--sparsity {arguments.sparsity}",
        "what": what,
        "verdicts": verdicts(rows, ("kstarts", "kstarts_loss", "random")),
        "rows": rows,
    }
    conclude(result, arguments.json)


if __name__ == "__main__":
    main()
