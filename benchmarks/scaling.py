"""What workers and sub-batches cost and gain: wall seconds of one generation, and what one evaluation moves.

    python benchmarks/scaling.py [--quick] [--json benchmarks/results/scaling.json]

executor: "serial" is this process, "processes" and "ray" are workers of one thread each on this machine. chunk: networks of a
sub-batch. first_s: the first generation, in which workers start and receive the problem; then_s: the median of the next ones.
overhead_s: what workers cost, the seconds beyond those of this process with the same sub-batch divided by the workers.
speed_up: over this process with its best sub-batch. bytes: one mask as it is sent (pickled), its trained weights when they are
inherited, the problem once a worker, and a journal line. Rows are written as they come, and the command run again goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _rows import collect, save

import evoprune as ep
from evoprune.evolution.executors.processes import ProcessExecutor

GENERATION = 32
GRID = [
    *(("serial", 1, chunk) for chunk in (32, 16, 8, 4)),
    *(("processes", 1, chunk) for chunk in (16, 4)),
    *(("processes", 2, chunk) for chunk in (16, 8, 4)),
    *(("ray", 2, chunk) for chunk in (16, 4)),
]
"""Executor, workers, networks of a sub-batch."""


def executor_of(kind: str, workers: int) -> Any:
    """Workers of one thread each."""
    if kind == "ray":
        from evoprune.evolution.executors.ray import RayExecutor

        return RayExecutor(workers)
    return ProcessExecutor(workers) if kind == "processes" else None


def toolbox_of(problem: ep.Problem, kind: str, workers: int, chunk: int, epochs: int, journal: Path) -> Any:
    """A toolbox whose generations are trained by those workers."""
    executor = executor_of(kind, workers)
    return ep.make_toolbox(
        problem, sparsity=0.98, epochs=epochs, executor=executor, chunk=chunk, seed=1, journal=journal, engine="sparse"
    )


def measure(problem: ep.Problem, executor: str, workers: int, chunk: int, epochs: int, repeats: int) -> dict[str, Any]:
    """Seconds of the first generation and of those that follow."""
    with tempfile.TemporaryDirectory() as folder:
        toolbox = toolbox_of(problem, executor, workers, chunk, epochs, Path(folder) / "run.jsonl")
        seconds = []
        for _ in range(repeats + 1):
            individuals = toolbox.population(n=GENERATION)
            started = time.perf_counter()
            list(toolbox.map(toolbox.evaluate, individuals))
            seconds.append(time.perf_counter() - started)
        toolbox.map.close()
    load = round(os.getloadavg()[0], 1)
    return {"first_s": round(seconds[0], 3), "then_s": round(statistics.median(seconds[1:]), 3), "load": load}


def sizes(problem: ep.Problem) -> dict[str, int]:
    """Bytes that travel."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "run.jsonl"
        toolbox = ep.make_toolbox(problem, sparsity=0.98, epochs=1, inherit="weights", journal=journal, seed=1)
        (one,) = toolbox.population(n=1)
        toolbox.evaluate(one)
        trained = toolbox.map.store.get(one.evaluation)
        toolbox.map.close()
        return {
            "survivors": one.mask.count,
            "mask_bytes": len(pickle.dumps(one.mask)),
            "inherited_bytes": len(pickle.dumps(trained)),
            "lineage_bytes": len(json.dumps(toolbox.mutate(toolbox.clone(one))[0].lineage)),
            "line_bytes": len(journal.read_bytes().splitlines()[-1]),
            "problem_bytes": len(pickle.dumps(problem)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="digits, one repeat")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problem = ep.Problem("lenet-300-100", "digits" if arguments.quick else "fashion-mnist")
    epochs, repeats = (8, 1) if arguments.quick else (1, 3)
    what = f"{GENERATION} masks of lenet-300-100 at 98%, {epochs} epochs on {problem.data_name}"
    grid = [dict(zip(("executor", "workers", "chunk"), place, strict=True)) for place in GRID]
    rows = collect(grid, lambda **place: measure(problem, **place, epochs=epochs, repeats=repeats), what, arguments.json)
    alone = {row["chunk"]: row["then_s"] for row in rows if row["executor"] == "serial"}
    for row in rows:
        row["overhead_s"] = round(row["then_s"] - alone[row["chunk"]] / row["workers"], 3)
        row["speed_up"] = round(min(alone.values()) / row["then_s"], 3)
    result = {
        "command": "python benchmarks/scaling.py" + (" --quick" if arguments.quick else ""),
        "what": what,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "bytes": sizes(problem),
        "rows": rows,
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        save(result, arguments.json)


if __name__ == "__main__":
    main()
