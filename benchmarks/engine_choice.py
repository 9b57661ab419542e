"""From which sparsity on the sparse engine is the fastest one on a CPU: what `engine="auto"` goes by.

    python benchmarks/engine_choice.py [--json benchmarks/results/engine_choice.json]

Whole training steps of the three engines on two networks a model, interleaved, medians, in milliseconds an individual.
`sparse_from` is the smallest measured sparsity from which on the sparse engine is faster than the dense one, which `auto` would
take in its place; the rule is the largest of them, over models with Linear layers alone and over the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from engine_speed import make_problem, seconds

import evoprune as ep

MODELS = {"lenet-300-100": 128, "autoencoder": 128, "mlp:1024-1024": 128, "lenet5": 128, "conv4": 32, "resnet20": 32}
"""Batch sizes."""

SPARSITIES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
ENGINES = ("loop", "dense", "sparse")
K, REPEATS = 2, 5


def measure(name: str, sparsity: float, batch: int) -> dict[str, Any]:
    """Milliseconds an individual and step, by engine."""
    problem = make_problem(name, batch)
    masks = [ep.random_mask(problem.space, sparsity=sparsity, seed=seed) for seed in range(K)]
    generations = {
        engine: ep.Population(problem, masks, horizon=1000, engine=engine, batch_size=batch, device="cpu", lr=0.0)
        for engine in ENGINES
    }
    for generation in generations.values():
        generation.train_steps(1)
    times: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(REPEATS):
        for engine, generation in generations.items():
            times[engine].append(seconds(lambda generation=generation: generation.train_steps(2)) / 2 / K * 1e3)
    return {"model": name, "batch": batch, "sparsity": sparsity, **{own: statistics.median(times[own]) for own in ENGINES}}


def sparse_from(rows: list[dict[str, Any]]) -> float:
    """The smallest sparsity from which on sparse is faster than dense."""
    slower = [row["sparsity"] for row in rows if row["sparse"] > row["dense"]]
    return min(row["sparsity"] for row in rows if row["sparsity"] > max(slower, default=-1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    rows = []
    for name, batch in MODELS.items():
        for sparsity in SPARSITIES:
            rows.append(measure(name, sparsity, batch))
            print({key: round(value, 2) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True)
    found = {name: sparse_from([row for row in rows if row["model"] == name]) for name in MODELS}
    result = {"threads": torch.get_num_threads(), "torch": torch.__version__, "sparse_from": found, "rows": rows}
    print(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
