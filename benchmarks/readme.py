"""Put the tables of README.md in order: `python benchmarks/readme.py`, or with --check say whether they are.

The table of results comes from benchmarks/results/fashion_mnist/summary.csv, that of speed from engine_speed.json and
end_to_end.json beside it, that of methods from the registry.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "benchmarks/results/fashion_mnist"
COMMAND = (
    "evoprune compare random kstarts dissipating combined dense --data fashion-mnist --model lenet-300-100 "
    "--sparsity 0.95,0.98,0.99 --seeds 5 --epochs 10 --out results/fashion_mnist"
)


def results() -> str:
    """Test accuracy, difference to random, and cost, with half-widths of the 95% intervals."""
    with open(ROOT / RESULTS / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [
        f"![test accuracy against sparsity]({RESULTS}/accuracy.png)",
        "",
        "`lenet-300-100` on Fashion-MNIST, 10 epochs, 5 seeds; ± is half of a 95% t interval, differences are paired by seed,",
        "cost is in epochs of the dense network, losers included:",
        "",
        "| sparsity | method | survivors | test accuracy % | minus random, points | cost |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        mean, low, gap = (100 * float(row[name] or "nan") for name in ("test_mean", "test_low", "difference"))
        paired = "" if row["difference"] == "" else f"{gap:+.2f} ± {gap - 100 * float(row['difference_low']):.2f}"
        survivors, cost = f"{float(row['survivors']):,.0f}", f"{float(row['dense_equivalent_epochs']):.3g}"
        lines.append(f"| {row['sparsity']} | {row['method']} | {survivors} | {mean:.2f} ± {mean - low:.2f} | {paired} | {cost} |")
    return "\n".join([*lines, "", "```sh", COMMAND, "```"])


def speed() -> str:
    """What a training step costs, against the loop that a user writes today and against the dense network's limit."""
    folder = ROOT / "benchmarks" / "results"
    speed, whole = (json.loads((folder / f"{name}.json").read_text()) for name in ("engine_speed", "end_to_end"))
    lines = [
        "| model | sparsity | networks | µs a network and step | times faster than a loop | share of the dense limit |",
        "|---|---|---|---|---|---|",
    ]
    for row in speed["rows"]:
        if row["sparsity"] in (0.95, 0.98, 0.99) and row["k"] in (16 if row["model"] != "lenet-300-100" else 32, 32, 512):
            loop, share = f"{row['ratio_loop']:.1f}", f"{row['ratio_roofline']:.3f}"
            cells = (row["model"], row["sparsity"], row["k"], f"{row['us_per_individual']:,.0f}", loop, share)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    threads, peak = speed["machine"]["threads"], speed["machine"]["peak_gflops"]
    seconds, difference = whole["seconds"], f"{whole['difference']:+.2f} ± {whole['half_interval']:.2f}"
    return f"""\
Whole training steps on {threads} CPU cores ({peak:.0f} GFLOP/s measured), batch 128. The loop is `torch.nn.utils.prune` and SGD,
one network after the other; the dense limit is the dense network's operations at that peak:

{chr(10).join(lines)}

```sh
python benchmarks/engine_speed.py --json benchmarks/results/engine_speed.json
{whole["command"]} --json benchmarks/results/end_to_end.json
```

The second command: `random`, `kstarts`, `dissipating` and `combined` on Fashion-MNIST at 98 and 99%, one seed, take
{seconds["sparse"]:.0f} s in place of {seconds["dense"]:.0f} s with stacked dense networks, {whole["times_faster"]:.1f} times less
and with the same accuracy ({difference} points)."""


def methods() -> str:
    """One row a registered method."""
    from evoprune.methods import METHODS

    lines = ["| method | does | source |", "|---|---|---|"]
    rows = [f"| `{name}` | {entry.summary} | {entry.reference} |" for name, entry in sorted(METHODS.items())]
    return "\n".join([*lines, *rows])


def filled(text: str) -> str:
    """`text` with its tables as they should be."""
    for name, make in (("results", results), ("speed", speed), ("methods", methods)):
        block = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
        text = re.sub(f"<!-- {name} -->.*<!-- /{name} -->", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when README.md is out of date")
    check, readme = parser.parse_args().check, ROOT / "README.md"
    text = readme.read_text()
    if check:
        return int(text != filled(text))
    readme.write_text(filled(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
