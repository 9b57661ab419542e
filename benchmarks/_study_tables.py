"""The study's tables in Markdown, for README and docs: read from its files, so that no number is typed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from _plan import SEARCHES, SEEDS

from evoprune.evidence.checked import rejudged
from evoprune.evidence.samples import prunes
from evoprune.evidence.tables import plus_minus
from evoprune.words import counted

__all__ = ["answer", "checks", "costs", "coverage", "legend", "metric_of", "missing", "places", "protocol", "table", "verdict"]

MARKS = {"better": "**{}**", "worse": "*{}*"}


def places(folder: Path) -> list[tuple[str, str]]:
    """Model and data set of every table."""
    return [(row["model"], row["data"]) for row in _rows(_csv(folder, "summary")[["model", "data"]].drop_duplicates())]


def protocol(folder: Path) -> str:
    """How it was measured, in a sentence or two."""
    told, summary = _state(folder), _csv(folder, "summary")
    each = ", ".join(f"{target:g} for `{model}`" for model, target in told["targets"].items())
    sparse = summary["method"].map(prunes)
    references = summary[~sparse]
    named = " and ".join(f"`{name}`" for name in references["method"].unique())
    return f"""\
Every pruning method may cost the same, search, losers and scoring included, and its last training is as long as that allows: in
epochs of the dense network {each}.
{_loose(told["off_target"], int(sparse.sum()))}
{named} cost {references["dense_equivalent_epochs"].max():.3g}: they are references.
All methods share the initial weights and data of a seed; there are {told["seeds"]} seeds, but for what is named below.
Differences are paired by seed, ± is half of a 95% t interval. Better and worse are what paired t tests say with Holm's correction
over all differences of one model and data set: in a table of methods those to `random`, in the table of pairs those between the
pairs, so that one difference may be marked in one table alone."""


def _loose(cells: list[dict[str, Any]], number: int) -> str:
    """How well costs agree, in a sentence."""
    if not cells:
        return f"All {number} cells keep that within 5%."
    most = max(cells, key=lambda row: abs(row["cost"] / row["target"] - 1))
    where = f"`{most['method']}` of `{most['model']}` at {most['sparsity']:.4g}"
    return (
        f"{len(cells)} of {number} cells miss that by more than 5%, the most {where}: {most['cost'] / most['target'] - 1:+.0%}."
    )


def missing(folder: Path) -> str:
    """What of the plan is not there."""
    told = _state(folder)["missing"]
    return "\n".join(f"- {line}" for line in told) if told else "Every planned run is there."


def coverage(folder: Path) -> str:
    """Finished and planned runs, a row a model and data set."""
    told = _state(folder)["coverage"]
    asked = sorted({row["sparsity"] for row in told})
    cells = {(row["model"], row["data"], row["sparsity"]): f"{row['made']} of {row['planned']}" for row in told}
    lines = [f"| model, data | {' | '.join(f'{value:.4g}' for value in asked)} |", "|---|" + "---|" * len(asked)]
    for model, data in dict.fromkeys((row["model"], row["data"]) for row in told):
        lines.append(f"| `{model}`, {data} | {' | '.join(cells[model, data, value] for value in asked)} |")
    return "\n".join(lines)


def table(folder: Path, model: str, data: str) -> str:
    """Methods × sparsities: the random mask's and the dense score, of the others the difference to the random mask."""
    own = _csv(folder, "summary").query("model == @model and data == @data")
    asked = sorted(own["sparsity"].dropna().unique())
    cells = {(row["method"], row["sparsity"]): row for row in _rows(own)}
    lines = [f"| method | {' | '.join(f'{value:.4g}' for value in asked)} |", "|---|" + "---|" * len(asked)]
    for method in sorted(own["method"].unique(), key=lambda name: not prunes(name)):
        shown = [_cell(cells.get((method, value))) for value in asked]
        name = f"`{method}`" if method != "random" and prunes(method) else f"`{method}`, score"
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def legend(metric: str) -> str:
    """What the cells say."""
    score = "test accuracy in %, differences in points" if metric == "accuracy" else "test loss (mse), where less is better"
    return f"The {score}. Where a difference to `random` stands: **better**, *worse*, or plain where none is shown."


def metric_of(folder: Path, model: str, data: str) -> str:
    return str(_csv(folder, "summary").query("model == @model and data == @data")["metric"].iloc[0])


def answer(folder: Path) -> str:
    """Pairs of methods against each other, a row a place."""
    duels = _csv(folder, "duels")
    pairs = list(dict.fromkeys(zip(duels["method"], duels["rival"], strict=True)))
    head = " | ".join(f"`{method}` minus `{rival}`" for method, rival in pairs)
    lines = [f"| model, data | sparsity | {head} |", "|---|---|" + "---|" * len(pairs)]
    for (model, data, sparsity), own in duels.groupby(["model", "data", "sparsity"], sort=False):
        found = {(row["method"], row["rival"]): row for row in _rows(own)}
        lines.append(f"| `{model}`, {data} | {sparsity:.4g} | {' | '.join(_duel(found.get(pair)) for pair in pairs)} |")
    lossy = [f"`{model}`" for model in duels[duels["metric"] != "accuracy"]["model"].unique()]
    if lossy:
        lines += ["", f"Points of test accuracy; for {', '.join(lossy)} the test loss, where a negative difference is a gain."]
    return "\n".join(lines)


def verdict(folder: Path) -> str:
    """The same in words, as the numbers say it, a line a pair. A place is a model, a data set and a sparsity."""
    lines = []
    for (method, rival), own in _csv(folder, "duels").groupby(["method", "rival"], sort=False):
        words = [word if word in MARKS else "" for word in own["words"]]
        said = ", ".join(f"{_WORDS[word].format(rival)} at {words.count(word)}" for word in _WORDS if word in words)
        lines.append(f"- `{method}` is {said} of {len(own)} places.")
    return "\n".join(lines) or "No pair of methods has a common seed yet."


_WORDS = {"better": "better than `{}`", "worse": "worse than `{}`", "": "not shown to differ from `{}`"}


def checks(folder: Path) -> str:
    """Verdicts of the controls, a row a ticket, and how many of the planned ones these are."""
    lines = ["| ticket | verdict | because |", "|---|---|---|"]
    for path in sorted((folder / "checks").glob("*.json")):
        told = rejudged(json.loads(path.read_text()), pd.read_csv(path.with_suffix(".csv")))
        lines.append(f"| {path.stem} | {told['verdict']} | {told['because']} |")
    planned = len(SEARCHES) * len(_state(folder)["coverage"])
    lines += ["", f"{len(lines) - 2} of {planned} tickets are checked."]
    return "\n".join(lines) if len(lines) > 4 else "No ticket is checked yet."


def costs(folder: Path) -> str:
    """Cells whose cost misses the target by more than 5%."""
    told = _state(folder)["off_target"]
    rows = [
        f"| `{row['model']}`, {row['data']} | {row['sparsity']:.4g} | `{row['method']}` | {row['cost']:.3g} | {row['target']:g} |"
        for row in told
    ]
    head = ["| model, data | sparsity | method | cost | target |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else "Every cell keeps its target within 5%."


def _cell(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return "–"
    seeds = _few(row["runs"])
    if row["method"] == "random" or not prunes(row["method"]):
        return plus_minus(row["test_mean"], (row["test_high"] - row["test_low"]) / 2, row["metric"]) + seeds
    return _difference(row) + seeds


def _few(seeds: int) -> str:
    return "" if seeds >= SEEDS else f" ({counted(seeds, 'seed')})"


def _duel(row: Mapping[Any, Any] | None) -> str:
    return "–" if row is None else _difference(row) + _few(row["pairs"])


def _difference(row: Mapping[Any, Any]) -> str:
    if math.isnan(row["difference"]):
        return "not compared"
    half = (row["difference_high"] - row["difference_low"]) / 2
    return MARKS.get(row["words"], "{}").format(plus_minus(row["difference"], half, row["metric"], "+"))


def _state(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "study.json").read_text()))


def _csv(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=True).fillna({"words": ""})


def _rows(frame: pd.DataFrame) -> Iterator[dict[Any, Any]]:
    return iter(frame.to_dict("records"))
