"""Searches killed with SIGKILL at random moments and run again, compared with the uninterrupted ones.

    python benchmarks/kill.py [--kills 100] [--json benchmarks/results/kill.json]

Each campaign runs one DEAP script on a journal, kills it after a random part of its time, tears the last bytes off the journal
every other time (a write that the kill cut), and starts it again until it is done. Then logbook, population, hall of fame,
ledger and the state of `random` must be those of the uninterrupted run, byte for byte, and no finished training may have been
started again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _rows import conclude

from tests.evolution.killing import LOOPS, Campaign, ids
from tests.tiny import mlp

AGAIN = 8
"""Kills of one campaign at most; then it may finish and the next begins."""


def campaign(loop: str, inherit: str | None, seed: int, kills: int) -> dict[str, Any]:
    """One search, killed up to `kills` times."""
    options = {"inherit": inherit, **({"mutate": "mutGuided"} if seed % 2 else {})}
    with tempfile.TemporaryDirectory() as folder:
        made = Campaign(loop, mlp(), Path(folder), options)
        expected, seconds = made.whole()
        found = made.until_done(random.Random(seed), seconds, kills)
        whole, killed = (ids(Path(folder) / f"{name}.jsonl") for name in ("whole", "killed"))
        return {
            "loop": loop,
            "inherit": inherit,
            "seed": seed,
            "killed": made.killed,
            "torn_writes": made.cut,
            "same_result": found == expected,
            "same_evaluations": sorted(killed) == sorted(whole),
            "repeated_trainings": len(made.repeated),
            "evaluations": len(whole),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="runs killed, with and without inheritance each")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started, rows = time.perf_counter(), []
    for inherit in (None, "weights"):
        landed, seed = 0, 0
        while landed < arguments.kills:
            row = campaign(LOOPS[seed % len(LOOPS)], inherit, seed, min(AGAIN, arguments.kills - landed))
            rows.append(row)
            landed, seed = landed + row["killed"], seed + 1
            print(f"inherit={inherit} {landed}/{arguments.kills} killed: {row}", file=sys.stderr, flush=True)
    good = all(row["same_result"] and row["same_evaluations"] and not row["repeated_trainings"] for row in rows)
    result = {
        "command": f"python benchmarks/kill.py --kills {arguments.kills}",
        "good": good,
        "killed": {str(kind): sum(row["killed"] for row in rows if row["inherit"] == kind) for kind in (None, "weights")},
        "torn_writes": sum(row["torn_writes"] for row in rows),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": rows,
    }
    conclude(result, arguments.json)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
