"""Time and memory of the operators at 10^8 and 10^9 prunable weights, 99% sparsity, on one core.

    python benchmarks/operators.py [--quick] [--repeats 7] [--json benchmarks/results/operators.json]

Every layout runs in a process of its own, whose peak memory is reported (it includes the interpreter, torch and numpy). Within
it the operators take turns, repeat by repeat, so that a busy machine slows all of them alike. The limits are held against the
median of the processor's time, which other processes on the machine do not lengthen; the median and the best on the clock
stand beside it, and agree with it on an idle machine.

Individuals are what a search holds: evaluated, their masks' hashes known; making the copies that an operator changes is not
timed. glibc is told to keep freed memory, since a virtual machine can take 50 ms to hand out 8 MB that no process had before,
which says nothing about an operator. One layer of all weights is the worst case for most operators; those that need several
layers have 16.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import pickle
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evoprune.evolution.individual import Individual
from evoprune.evolution.operators import (
    UMDA,
    Told,
    cxLayers,
    cxRAR,
    cxSetUniform,
    mutGuided,
    mutMoveBudget,
    mutResize,
    mutSwap,
)
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask
from evoprune.masks.space import MaskSpace

SPARSITY = 0.99
LIMITS = {  # seconds, at 10^8; at 10^9 all must stay below the last one
    "random_mask": 0.2,
    "mutSwap, 1 swap": 0.01,
    "mutSwap, 1,000 swaps": 0.01,
    "mutSwap, all survivors": 0.3,
    "cxSetUniform, unrelated": 0.2,
    "cxSetUniform, relatives": 0.2,
    "pickle.dumps": 0.01,
    "pickle.loads": 0.01,
}
LARGE_LIMIT, LARGE_MIB = 4.0, 1536
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
LAYOUTS = {"promised": 1, "single layer": 1, "many layers": 16, "model": 16}

Row = dict[str, Any]
Job = Callable[[], Callable[[], object]]
"""Prepares a call, which is not timed, and returns it."""


def space_of(prunable: int, layers: int) -> MaskSpace:
    names = tuple(f"{layer}.weight" for layer in range(layers))
    return MaskSpace(names, ((prunable // layers // 1000, 1000),) * layers)


def evaluated(mask: Mask) -> Individual:
    individual = Individual(mask)
    individual.fitness.values = (float(int(mask.hash, 16) % 1000),)
    return individual


def jobs(layout: str, prunable: int) -> dict[str, Job]:
    """The operators of a layout, by name."""
    space = space_of(prunable, LAYOUTS[layout])
    a, b = (evaluated(random_mask(space, sparsity=SPARSITY, allocation="uniform", seed=seed)) for seed in (1, 2))
    rng = random.Random(0)

    def on(operator: Callable[..., object], *parents: Individual, **options: Any) -> Job:
        def prepare() -> Callable[[], object]:
            children = copy.deepcopy(parents)
            return lambda: operator(*children, rng=rng, **options)

        return prepare

    if layout == "promised":
        relative = copy.deepcopy(a)
        mutSwap(relative, swaps=a.mask.count // 20, rng=rng)
        raw = pickle.dumps(a.mask)
        return {
            "random_mask": lambda: lambda: random_mask(space, sparsity=SPARSITY, seed=rng.getrandbits(31)),
            "mutSwap, 1 swap": on(mutSwap, a, swaps=1),
            "mutSwap, 1,000 swaps": on(mutSwap, a, swaps=1000),
            "mutSwap, all survivors": on(mutSwap, a, swaps=a.mask.count),
            "cxSetUniform, unrelated": on(cxSetUniform, a, b),
            "cxSetUniform, relatives": on(cxSetUniform, a, relative),
            "pickle.dumps": lambda: lambda: pickle.dumps(a.mask),
            "pickle.loads": lambda: lambda: pickle.loads(raw),
        }
    if layout == "single layer":
        draw = np.random.default_rng(0)
        movement = (draw.random(a.mask.count, dtype=np.float32),)
        grown = ((b.mask.survivors[0][: 10**5], draw.random(10**5, dtype=np.float32)),)
        a.told = Told(a.mask, movement, grown)  # type: ignore[attr-defined]
        return {
            "mutGuided, 1,000 swaps": on(mutGuided, a, swaps=1000),
            "mutGuided, share 0.1": on(mutGuided, a, share=0.1),
            "mutResize, heavy-tailed": on(mutResize, a, low=a.mask.count // 2, high=2 * a.mask.count),
            "mutResize, a tenth": on(mutResize, a, low=a.mask.count // 2, high=2 * a.mask.count, number=a.mask.count // 10),
            "cxRAR": on(cxRAR, a, b),
            "Mask.hash": lambda: lambda: Mask._trusted(space, a.mask.survivors).hash,
        }
    if layout == "many layers":
        mutMoveBudget(b, number=b.mask.counts[0] // 2, rng=rng)
        return {
            "mutSwap, heavy-tailed": on(mutSwap, a),
            "mutMoveBudget, heavy-tailed": on(mutMoveBudget, a),
            "mutMoveBudget, half a layer": on(mutMoveBudget, a, number=a.mask.counts[0] // 2),
            "cxSetUniform, unrelated, 16 layers": on(cxSetUniform, a, b),
            "cxLayers, unequal counts": on(cxLayers, a, b),
        }
    model = UMDA([a, b], lambda_=1, rng=rng)
    return {
        "UMDA.update, 2 selected": lambda: lambda: UMDA([a, b], rng=rng),
        "UMDA.generate, a child": lambda: lambda: model.generate(Individual),
    }


def measure(layout: str, prunable: int, repeats: int) -> Row:
    """One layout: seconds (processor, clock) of every repeat by operator, and the peak memory of this process."""
    todo = jobs(layout, prunable)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in todo}
    for repeat in range(repeats + 1):
        for name, prepare in todo.items():
            call = prepare()
            clock, processor = time.perf_counter(), time.thread_time()
            result = call()
            taken = time.thread_time() - processor, time.perf_counter() - clock
            del result, call
            if repeat:  # the first round warms up
                seconds[name].append(taken)
        gc.collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return {"seconds": seconds, "peak_mib": round(peak)}


def rows_of(layout: str, prunable: int, measured: Row) -> list[Row]:
    limit = LIMITS if prunable <= 10**8 else dict.fromkeys(LIMITS, LARGE_LIMIT)
    return [
        {
            "prunable": prunable,
            "sparsity": SPARSITY,
            "layers": LAYOUTS[layout],
            "operator": name,
            "processor_s": round(statistics.median(processor for processor, _ in seconds), 5),
            "clock_s": round(statistics.median(clock for _, clock in seconds), 5),
            "best_clock_s": round(min(clock for _, clock in seconds), 5),
            "limit_s": limit.get(name) if layout == "promised" else None,
            "repeats": len(seconds),
            "process_peak_mib": measured["peak_mib"],
        }
        for name, seconds in measured["seconds"].items()
    ]


def table(rows: list[Row]) -> str:
    lines = [
        f"{'prunable':>9} {'layers':>6}  {'operator':<36}{'processor':>10}{'clock':>9}{'best':>9}{'limit':>7}{'peak MiB':>10}"
    ]
    for row in rows:
        late = row["limit_s"] is not None and row["processor_s"] >= row["limit_s"]
        limit = f"{row['limit_s'] if row['limit_s'] is not None else '':>7}"
        numbers = (
            f"{row['processor_s']:>10.4f}{row['clock_s']:>9.4f}{row['best_clock_s']:>9.4f}{limit}{row['process_peak_mib']:>10}"
        )
        lines.append(f"{row['prunable']:>9.0e} {row['layers']:>6}  {row['operator']:<36}{numbers}{'  too slow' if late else ''}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="10^8 only, 3 repeats")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "operators.json")
    parser.add_argument("--layout", choices=LAYOUTS, help=argparse.SUPPRESS)
    parser.add_argument("--prunable", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.layout:
        print(json.dumps(measure(options.layout, options.prunable, options.repeats)))
        return 0
    repeats = 3 if options.quick else options.repeats
    rows: list[Row] = []
    load = os.getloadavg()[0]
    for prunable in (10**8,) if options.quick else (10**8, 10**9):
        for layout in LAYOUTS:
            job = ["--layout", layout, "--prunable", str(prunable), "--repeats", str(repeats)]
            command = [sys.executable, __file__, *job]
            done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True, check=True)
            rows += rows_of(layout, prunable, json.loads(done.stdout))
    promised = [row for row in rows if row["limit_s"] is not None]
    kept = all(row["processor_s"] < row["limit_s"] for row in promised)
    small = all(row["process_peak_mib"] < LARGE_MIB for row in promised)
    machine = {"processor": processor(), "cores": os.cpu_count(), "load_before": load, "load_after": os.getloadavg()[0]}
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    result = {"rows": rows, "limits_kept": kept, "memory_kept": small, "memory_limit_mib": LARGE_MIB, **machine, **versions}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))
    kept_words = [f"{what} {'kept' if well else 'NOT kept'}" for what, well in (("limits", kept), ("memory", small))]
    print(f"{', '.join(kept_words)}; load {load:.1f} on {os.cpu_count()} cores")
    return 0 if kept and small else 1


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    sys.exit(main())
