"""Put the tables of README.md in order: `python benchmarks/readme.py`, or with --check say whether they are.

The study's figure, tables and words come from benchmarks/results/study (`python benchmarks/study.py --report` makes them of its
runs), the table of speed from engine_speed.json and end_to_end.json beside it, that of methods from the registry.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import _study_tables as tables

ROOT = Path(__file__).resolve().parents[1]
STUDY = "benchmarks/results/study"


def study() -> str:
    """What the study found: figure, the table of its first model and data set, the duels in words, and what is missing."""
    folder = ROOT / STUDY
    model, data = tables.places(folder)[0]
    return f"""\
![gain of each method over a random mask, with 95% intervals]({STUDY}/study.png)

{tables.protocol(folder)}

`{model}` on {data}, by sparsity. {tables.legend(tables.metric_of(folder, model, data))}

{tables.table(folder, model, data)}

Does the combination beat each of its parts and the random mask, and mutation the selection? A place is a model, a data set and a
sparsity:

{tables.verdict(folder)}

{tables.answer(folder)}

What is not there:

{tables.missing(folder)}

```sh
python benchmarks/study.py
python benchmarks/study.py --report && python benchmarks/readme.py
```"""


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
    for name, make in (("study", study), ("speed", speed), ("methods", methods)):
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
