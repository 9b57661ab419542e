"""Tables of the page on a thousand GPUs: formulas, evaluated here, and the measured table where one is there."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from _tables import number, size, table

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
NUMBERS = (10**6, 10**7, 10**8, 10**9)
SPARSITIES = (0.95, 0.98, 0.99)
GPUS = 1000
LINKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}
"""Bytes a second of the driver's link."""

__all__ = ["SCALING", "bound_bytes", "indices_bytes", "job_bytes", "lineage_bytes", "plan", "survivors", "trained_bytes"]


# ---- formulas ------------------------------------------------------------------------------------------------------------


def survivors(prunable: int, sparsity: float) -> int:
    """n = floor((1 - s)·N + 1/2)."""
    from evoprune.masks.space import MaskSpace

    return MaskSpace(("weight",), ((prunable,),)).budget(sparsity)


def indices_bytes(count: int) -> int:
    """A mask as it is sent: 4 bytes a survivor, in layers of at most 2^32 weights."""
    return 4 * count


def bound_bytes(prunable: int, count: int) -> float:
    """log2 of the number of masks of this size, N·H(n/N) bits to leading order: no code for arbitrary masks is shorter."""
    d = count / prunable
    return -prunable * (d * math.log2(d) + (1 - d) * math.log2(1 - d)) / 8


def trained_bytes(count: int) -> int:
    """A trained network as it is sent: indices, values and movement, 4 bytes each a survivor (float32)."""
    return 12 * count


def job_bytes(count: int, *, inherit: bool) -> int:
    """What goes to a worker for one evaluation."""
    return indices_bytes(count) + (trained_bytes(count) if inherit else 0)


@cache
def lineage_bytes() -> int:
    """The lineage of a child that was mated and then mutated, as JSON: parents' hashes, operators, their seeds."""
    from evoprune.evolution.individual import Individual
    from evoprune.evolution.operators import cxSetUniform, mutSwap
    from evoprune.masks.sampling import random_mask
    from evoprune.masks.space import MaskSpace

    space, rng = MaskSpace(("weight",), ((30, 30),)), random.Random(0)
    one, two = (Individual(random_mask(space, sparsity=0.5, seed=seed)) for seed in range(2))
    cxSetUniform(one, two, rng=rng)
    (child,) = mutSwap(one, rng=rng)
    return len(json.dumps(child.lineage))


def plan(jobs: int, workers: int, rows: int) -> tuple[int, int, int]:
    """Networks of a sub-batch, sub-batches, and rounds: what the map does with a generation."""
    each = min(rows, -(-jobs // workers))
    batches = -(-jobs // each)
    return each, batches, -(-batches // workers)


# ---- tables --------------------------------------------------------------------------------------------------------------


def sent() -> str:
    """Bytes of one evaluation."""
    rows = []
    for prunable in NUMBERS:
        for sparsity in SPARSITIES:
            n = survivors(prunable, sparsity)
            indices, bound = size(indices_bytes(n)), size(bound_bytes(prunable, n))
            inherited = size(job_bytes(n, inherit=True))
            rows.append((power(prunable), sparsity, f"{n:,}", indices, bound, inherited, size(lineage_bytes())))
    head = ("prunable N", "sparsity", "survivors n", "indices", "no code is below", "indices and inherited values", "lineage")
    return table(head, rows)


def generation() -> str:
    """Bytes and seconds of a generation of one network a GPU."""
    sparsity = SPARSITIES[1]
    rows = []
    for prunable in NUMBERS:
        n = survivors(prunable, sparsity)
        for what, one in (
            ("indices", indices_bytes(n)),
            ("indices and inherited values, there and back", job_bytes(n, inherit=True) + trained_bytes(n)),
            ("seed and lineage", lineage_bytes()),
        ):
            total = GPUS * one
            rows.append((power(prunable), what, size(total), *(f"{number(total / speed)} s" for speed in LINKS.values())))
    return table(("prunable N", "what is sent", f"for {GPUS:,} networks", *(f"at {name}" for name in LINKS)), rows)


def memory() -> str:
    """Memory of the driver and of a worker."""
    sparsity = SPARSITIES[1]
    rows = []
    for prunable in NUMBERS:
        n = survivors(prunable, sparsity)
        rows.append(
            (
                power(prunable),
                size(8 * n),
                size(2 * GPUS * 8 * n),
                size(GPUS * trained_bytes(n)),
                size(8 * prunable),
                size(12 * n),
            )
        )
    head = (
        *("prunable N", "a mask in memory, 8n", f"driver: {GPUS:,} parents and as many children"),
        *(
            "store on disk, a generation, if inherited",
            "dense engine: weights and gradients, 8N",
            "values, gradients, momentum, 12n",
        ),
    )
    return table(head, rows)


def busy() -> str:
    """What share of the GPUs' time a generation can use."""
    rows = []
    for jobs in (100, 1000, 1500, 4000, 16000):
        for rows_held in (1, 16):
            each, batches, rounds = plan(jobs, GPUS, rows_held)
            used = jobs / (GPUS * rounds * each)
            rows.append((f"{jobs:,}", rows_held, each, f"{batches:,}", rounds, f"{min(1.0, used):.0%}"))
    head = ("networks of a generation", "networks a GPU holds", "sub-batch", "sub-batches", "rounds", "places used")
    return table(head, rows)


def operators() -> str:
    """Seconds of the driver for the children of one generation, from benchmarks/results/operators.json."""
    path = RESULTS / "operators.json"
    if not path.exists():
        return f"`benchmarks/results/{path.name}` is not there: run `python benchmarks/operators.py`."
    wanted = ("random_mask", "mutSwap", "cxSetUniform", "pickle", "Mask.hash")
    rows = [
        (power(row["prunable"]), row["sparsity"], row["operator"], number(row["processor_s"]), number(GPUS * row["processor_s"]))
        for row in json.loads(path.read_text())["rows"]
        if row["layers"] == 1 and row["operator"].startswith(wanted)
    ]
    return table(("prunable N", "sparsity", "step", "measured, s", f"{GPUS:,} of them, s (computed)"), rows)


def measured() -> str:
    """The table of benchmarks/scaling.py."""
    path = RESULTS / "scaling.json"
    if not path.exists():
        return (
            "No measurement is committed yet. `python benchmarks/scaling.py --json benchmarks/results/scaling.json` makes one,\n"
            "and this place then shows it."
        )
    found: dict[str, Any] = json.loads(path.read_text())
    rows = found["rows"]
    head = ["executor", "workers", "sub-batch", "first generation, s", "later ones, s", "cost of the workers, s", "speed-up"]
    lines = [
        (
            row["executor"], row["workers"], row["chunk"], number(row["first_s"]), number(row["then_s"]),
            number(row["overhead_s"]), number(row["speed_up"]),
        )
        for row in rows
    ]  # fmt: skip
    sizes = found.get("bytes", {})
    parts = [f"{found['what']}. `{found['command']}`. Machine: {found['machine']}.", table(head, lines)]
    if sizes:
        n = sizes["survivors"]
        compared = [
            ("a mask", sizes["mask_bytes"], indices_bytes(n)),
            ("its trained weights", sizes["inherited_bytes"], trained_bytes(n)),
            ("a lineage", sizes["lineage_bytes"], lineage_bytes()),
        ]
        parts.append(f"What travels, at {n:,} survivors: measured, and by the formulas above (which leave out names and biases).")
        parts.append(table(("what", "measured bytes", "formula"), [(a, f"{b:,}", f"{c:,}") for a, b, c in compared]))
        parts.append(
            f"The problem is sent once: {size(sizes['problem_bytes'])}. A line of the journal takes {size(sizes['line_bytes'])}."
        )
    return "\n\n".join(parts)


def power(value: int) -> str:
    """A power of ten."""
    return f"10<sup>{round(math.log10(value))}</sup>"


SCALING: dict[str, Callable[[], str]] = {
    "scaling-busy": busy,
    "scaling-generation": generation,
    "scaling-measured": measured,
    "scaling-memory": memory,
    "scaling-operators": operators,
    "scaling-sent": sent,
}
