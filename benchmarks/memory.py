"""How much memory a run takes, beside what `compare` foresees when it chooses how many workers fit.

    python benchmarks/memory.py [--json benchmarks/results/memory.json]

One process a row trains `mlp:2000-2000` on digits (4,148,000 prunable weights) at 95% sparsity on one thread. measured_mb: the
most memory it ever held. foreseen_mb: `evoprune.compare.workers.need`. ratio: foreseen over measured. Rows are written as they
come, and the command run again goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from _rows import collect, conclude

MODEL, SPARSITY, EPOCHS = "mlp:2000-2000", 0.95, 4
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("random", "set", "eoi", "dissipating", "dissipate_regrow", "dense", "gradual_magnitude")),
    *(("kstarts", {"k": k}) for k in (4, 16)),
    ("kstarts", {"k": 16, "form": "shared"}),
    ("combined", {"k": 4}),
    ("halving", {"k": 16}),
    ("evolve", {"ngen": 1}),
    ("evolve", {"form": "plain", "ngen": 0, "fitness_epochs": 1}),
    ("imp", {"rate": 0.8}),
    ("rigl", {"every": 20}),
    *((name, {}) for name in ("magnitude", "snip", "grasp", "prospr")),
    *((name, {"steps": 3}) for name in ("force", "synflow", "ntk_sap")),
]


def measure(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Megabytes of a run in a process of its own, and those foreseen."""
    command = [sys.executable, __file__, "--one", json.dumps([method, options])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def one(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The same of this very process."""
    import torch

    import evoprune as ep
    from evoprune.compare.cells import Cell
    from evoprune.compare.workers import need

    torch.set_num_threads(1)
    problem = ep.Problem(MODEL, "digits")
    sparsity = SPARSITY if ep.methods[method].sparse else None
    foreseen = need({"": problem}, Cell(method, sparsity, 0, options)) / 1e6
    ep.methods[method](problem, sparsity=SPARSITY, epochs=EPOCHS, **options)
    measured = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return {"measured_mb": round(measured), "foreseen_mb": round(foreseen), "ratio": round(foreseen / measured, 2)}


def main() -> None:
    """Measure every case, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(*asked.one)))
        return
    what = f"memory of a run: {MODEL} on digits, sparsity {SPARSITY}, {EPOCHS} epochs, one thread"
    rows = collect(({"method": name, "options": options} for name, options in CASES), measure, what, asked.json)
    conclude({"what": what, "command": "python benchmarks/memory.py", "rows": rows}, asked.json)


if __name__ == "__main__":
    main()
