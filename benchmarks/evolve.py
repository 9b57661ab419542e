"""`evolve` against `kstarts` at equal cost and equal survivors, paired over seeds.

    python benchmarks/evolve.py [--seeds 10] [--sparsity 0.98,0.99] [--json benchmarks/results/evolve.json]

lenet-300-100 on Fashion-MNIST, 10 epochs of the returned network, defaults of both methods, but as many starts as make the cost
of `kstarts` (survivor updates in the ledger, dense gradients included) at least that of `evolve`; with its default criterion and
with the validation loss. A paired t test with Holm's correction decides. `random` is a control: one mask of the winner's layer
counts, which guided mutation leaves as the allocation made them.
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

import torch

import evoprune as ep

EPOCHS = 10


def measure(problem: ep.Problem, sparsity: float, seed: int) -> dict[str, Any]:
    """Test accuracies and costs of one seed."""
    own = problem.with_seed(seed)
    evolved = ep.evolve(own, sparsity=sparsity, epochs=EPOCHS, seed=seed)
    epoch = 3 * evolved.mask.count * len(own.split("train"))
    k = math.ceil((evolved.ledger.survivor_updates / epoch - (EPOCHS - 2)) / 2) + 1
    tickets = {
        "evolve": evolved,
        "kstarts": ep.kstarts(own, sparsity=sparsity, epochs=EPOCHS, k=k, seed=seed),
        "kstarts_loss": ep.kstarts(own, sparsity=sparsity, epochs=EPOCHS, k=k, seed=seed, criterion="loss"),
        "random": ep.methods["random"](own, sparsity=sparsity, epochs=EPOCHS, seed=seed),
    }
    assert len({ticket.mask.count for ticket in tickets.values()}) == 1
    return {
        "sparsity": sparsity,
        "seed": seed,
        "k": k,
        **{name: ticket.test()["accuracy"] for name, ticket in tickets.items()},
        "cost": {name: round(ticket.ledger.dense_equivalent_epochs, 4) for name, ticket in tickets.items()},
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
                {"sparsity": sparsity, "rival": rival, "points": round(100 * mean, 3), "error": round(100 * error, 3), "p": p}
            )
    running = 0.0
    for place, one in enumerate(sorted(found, key=lambda entry: float(str(entry["p"])))):
        running = max(running, min(1.0, float(str(one["p"])) * (len(found) - place)))
        one["p_holm"] = running
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sparsity", default="0.98,0.99")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    started, problem, rows = time.perf_counter(), ep.Problem("lenet-300-100", "fashion-mnist"), []
    for seed in range(arguments.seeds):
        for sparsity in map(float, arguments.sparsity.split(",")):
            rows.append(measure(problem, sparsity, seed))
            print(rows[-1], file=sys.stderr, flush=True)
    result = {
        "command": f"python benchmarks/evolve.py --seeds {arguments.seeds} --sparsity {arguments.sparsity}",
        "what": f"lenet-300-100, fashion-mnist, {EPOCHS} epochs, test accuracy",
        "verdicts": verdicts(rows, ("kstarts", "kstarts_loss", "random")),
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
