"""From which sparsity on the sparse engine is the fastest one: what `engine="auto"` goes by.

    python benchmarks/engine_choice.py [--json benchmarks/results/engine_choice.json]
    python benchmarks/engine_choice.py --device cuda --k 64 [--json FILE]

Whole training steps of the three engines on K networks a model, interleaved, medians, in milliseconds an individual.
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
from evoprune.training.recorded import WARM

MODELS = {"lenet-300-100": 128, "autoencoder": 128, "mlp:1024-1024": 128, "lenet5": 128, "conv4": 32, "resnet20": 32}
"""Batch sizes."""

SPARSITIES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 0.95, 0.98)
ENGINES = ("loop", "dense", "sparse")
REPEATS = 5


def measure(name: str, sparsity: float, batch: int, *, k: int, device: str) -> dict[str, Any]:
    """Milliseconds an individual and step, by engine."""
    problem = make_problem(name, batch, None if device == "cpu" else WARM + 2 + 2 * REPEATS)  # no epoch ends on the way
    masks = [ep.random_mask(problem.space, sparsity=sparsity, seed=seed) for seed in range(k)]
    generations = {
        engine: ep.Population(problem, masks, horizon=1000, engine=engine, batch_size=batch, device=device, lr=0.0)
        for engine in ENGINES
    }
    for generation in generations.values():
        generation.train_steps(WARM + 1 if device == "cuda" else 1)
    times: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(REPEATS):
        for engine, generation in generations.items():
            times[engine].append(seconds(lambda generation=generation: train(generation, 2)) / 2 / k * 1e3)
    return {"model": name, "batch": batch, "sparsity": sparsity, **{own: statistics.median(times[own]) for own in ENGINES}}


def train(generation: ep.Population, steps: int) -> None:
    generation.train_steps(steps)
    if generation.device.type == "cuda":
        torch.cuda.synchronize(generation.device)


def sparse_from(rows: list[dict[str, Any]]) -> float | None:
    """The smallest sparsity from which on sparse is faster than dense; None where it never is."""
    slower = [row["sparsity"] for row in rows if row["sparse"] > row["dense"]]
    return min((row["sparsity"] for row in rows if row["sparsity"] > max(slower, default=-1.0)), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--k", type=int, default=2, help="networks that train together")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--sparsities", nargs="*", type=float, default=SPARSITIES)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        batch = MODELS[name] if arguments.device == "cpu" else 128
        for sparsity in arguments.sparsities:
            rows.append(measure(name, sparsity, batch, k=arguments.k, device=arguments.device))
            print({key: round(value, 2) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True)
    found = {name: sparse_from([row for row in rows if row["model"] == name]) for name in arguments.models}
    where = {"device": arguments.device, "k": arguments.k, "threads": torch.get_num_threads(), "torch": torch.__version__}
    result = {**where, "sparse_from": found, "rows": rows}
    print(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
