"""One self-contained HTML page about many runs: the question, the answer in words, tables, figures, and how to repeat it."""

from __future__ import annotations

import html
import io
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune.errors import InputError
from evoprune.evidence.plots import log_ticks, looks, plot_accuracy, plot_controls, plot_cost
from evoprune.evidence.statistics import Interval, paired_difference
from evoprune.evidence.tables import prunes, score_column, summarise
from evoprune.evidence.verdict import DIFFERENCE, table
from evoprune.methods.registry import METHODS
from evoprune.training.options import Training

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Material", "command", "page"]

BASELINE = "random"
WIDE, NARROW = (8.0, 4.6), (4.5, 4.2)
EARLY = 0.2
"""Share of the epochs after which a run is looked at early."""
THEMED = {
    "#222222": "var(--ink)",
    "#000000": "var(--ink)",
    "#555555": "var(--soft)",
    "#8a8a8a": "var(--soft)",
    "#bbbbbb": "var(--line)",
    "#e6e6e6": "var(--line)",
    "#ececec": "var(--bar)",
    "#ffffff": "var(--page)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--red)",
    "#009e73": "var(--green)",
    "#7a5195": "var(--violet)",
    "#444444": "var(--soft)",
}
"""Colours of the figures that follow the page's theme."""


@dataclass(frozen=True)
class Material:
    """What a page is made of.

    runs: as of `load_runs`. results: the contents of the `result.json` files, in the same order. histories: each run's
    `history.csv`, None where there is none. checks: (name, content of check.json, frame of check.csv). commands: that repeat
    the whole; the runs' own when empty. missing: what the page should say is not there. title: None for one made of the runs.
    """

    runs: pd.DataFrame
    results: Sequence[Mapping[str, Any]]
    histories: Sequence[pd.DataFrame | None] = ()
    checks: Sequence[tuple[str, Mapping[str, Any], pd.DataFrame]] = ()
    commands: Sequence[str] = ()
    missing: Sequence[str] = ()
    title: str | None = None


@dataclass
class Group:
    """The runs of one model on one data set, ready for the template."""

    name: str
    question: str
    answers: list[str]
    rows: list[dict[str, Any]]
    note: str
    figures: list[dict[str, str]]
    baseline: str
    checks: list[dict[str, Any]] = field(default_factory=list)


def page(material: Material) -> str:
    """The page as HTML: no script, no network, no fonts; figures are inline SVG in the colours of the page.

    Raises `InputError` when there is no run at all; whatever else is missing is said on the page.
    """
    if not len(material.runs):
        raise InputError("there are no runs to report: give the --out of a run or a comparison")
    runs, missing = material.runs.reset_index(drop=True), list(material.missing)
    groups = []
    for (model, data, _), own in runs.groupby(["model", "data", "metric"], sort=False, dropna=False):
        groups.append(_group(f"{model} on {data}", own, material, missing))
    _place_checks(groups, material)
    versions = _versions(material.results, missing)
    methods = ", ".join(map(str, runs["method"].unique()))
    title = material.title or f"{methods}: {' and '.join(group.name for group in groups)}"
    return str(
        _template().render(
            title=title,
            groups=groups,
            missing=missing,
            commands=list(material.commands) or list(dict.fromkeys(command(result) for result in material.results)),
            notes=_notes(runs, material.results),
            versions=sorted(versions.items()),
        )
    )


def command(result: Mapping[str, Any]) -> str:
    """The command that makes a run again, from the content of its `result.json`."""
    arguments = result["arguments"]
    options, problem = arguments.get("options", {}), arguments.get("problem", {})
    parts = ["evoprune", "run", str(result["method"]), "--data", str(problem.get("data", result.get("data")))]
    parts += ["--model", str(result.get("model"))]
    if options.get("sparsity") is not None and prunes(str(result["method"])):
        parts += ["--sparsity", repr(options["sparsity"])]
    for name in ("epochs", "seed"):
        if options.get(name) is not None:
            parts += [f"--{name}", str(options[name])]
    parts += settings(str(result["method"]), options)
    return shlex.join([*parts, *(["--test"] if result.get("test_score") is not None else [])])


def settings(method: str, options: Mapping[str, Any]) -> list[str]:
    """`--engine`, `--device` and `--set` for every option that is not at its default."""
    defaults = {**Training().as_dict(), **(METHODS[method].options if method in METHODS else {})}
    found: list[str] = []
    for name, value in options.items():
        default = defaults.get(name)
        same = value == default or (isinstance(default, tuple) and value == list(default))
        if name in ("sparsity", "epochs", "seed") or same or name not in defaults:
            continue
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        found += [f"--{name}", text] if name in ("engine", "device") else ["--set", f"{name}={text}"]
    return found


# ---- one model on one data set ------------------------------------------------------------------------------------


def _group(name: str, runs: pd.DataFrame, material: Material, missing: list[str]) -> Group:
    missing += _gaps(name, runs)
    metric = str(runs["metric"].iloc[0])
    methods = [str(method) for method in runs["method"].unique()]
    baseline = BASELINE if BASELINE in methods else methods[0]
    summary = summarise(runs, baseline=baseline)
    intervals = [_difference(runs, row, baseline) for row in summary.to_dict("records")]
    accuracy = metric == "accuracy"
    smallest = DIFFERENCE if accuracy else 0.02 * abs(float(runs["val_score"].mean()) or 1.0)
    smallest = smallest if smallest == smallest else DIFFERENCE
    judged = [interval is not None and prunes(str(method)) for interval, method in zip(intervals, summary["method"], strict=True)]
    compared = [interval for interval, yes in zip(intervals, judged, strict=True) if yes and interval is not None]
    words = iter([word for _, word in table(compared, difference=smallest, accuracy=accuracy)])
    said = [next(words) if yes else "" for yes in judged]  # a method that prunes nothing is a reference, not a rival
    rows = list(_rows(summary, intervals, said, metric))
    seeds = sorted(int(seed) for seed in runs["seed"].unique())
    tests = f"Holm's correction over {len(compared)} comparisons" if len(compared) > 1 else "one comparison"
    note = (
        f"Seeds {', '.join(map(str, seeds))}. Mean ± half of the 95% t interval; differences are paired by seed on the "
        f"{score_column(runs).replace('_score', '').replace('val', 'validation')} split; the words come from paired t tests with "
        f"{tests}. "
        f"Cost: epochs of the dense network, losers included; {_costs(summary)}."
    )
    kept = [index for index in runs.index if index < len(material.results)]
    figures = _figures(f"{name}, {metric}", runs, [material.results[index] for index in kept], _histories(material, runs))
    return Group(
        name, _question(name, methods, summary, baseline), _answers(summary, said, baseline), rows, note, figures, baseline
    )


def _question(name: str, methods: Sequence[str], summary: pd.DataFrame, baseline: str) -> str:
    asked = [f"{value:.4g}" for value in summary["sparsity"].dropna().unique()]
    at = f" at sparsity {', '.join(asked)}" if asked else ""
    others = [method for method in methods if method != baseline and prunes(method)]
    if not others:
        return f"How well does {baseline} do with {name}{at}?"
    rival = "a random mask" if baseline == BASELINE else baseline
    return f"Does {_either(others)} do better than {rival} with {name}{at}, how sure is that, and what does it cost?"


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _answers(summary: pd.DataFrame, said: Sequence[str], baseline: str) -> list[str]:
    lines = []
    for sparsity in dict.fromkeys(summary["sparsity"].astype(float).fillna(-1.0)):  # -1: an outcome
        own = summary[summary["sparsity"].astype(float).fillna(-1.0) == sparsity]
        told = [f"{summary['method'][index]}: {said[index]}" for index in own.index if said[index]]
        if told:
            where = "where the sparsity is an outcome" if sparsity < 0 else f"at sparsity {sparsity:.4g}"
            lines.append(f"Against {baseline}, {where}: {'; '.join(told)}.")
    return lines


def _difference(runs: pd.DataFrame, row: Mapping[Any, Any], baseline: str) -> Interval | None:
    """Of a row of the summary to the baseline, larger is better; None where there is nothing to compare."""
    if row["method"] == baseline:
        return None
    score, asked = score_column(runs), runs["sparsity"].astype(float)
    own = runs[runs["method"] == row["method"]]
    if prunes(str(row["method"])):
        own = own[asked[own.index].isna() if math.isnan(row["sparsity"]) else asked[own.index] == row["sparsity"]]
    rival = runs[runs["method"] == baseline]
    if prunes(baseline):
        rival = rival[asked[rival.index] == row["sparsity"]]
    pairs = own[["seed", score]].merge(rival[["seed", score]], on="seed", suffixes=("", "_rival"))
    if not len(pairs):
        return None
    sign = 1.0 if row["metric"] == "accuracy" else -1.0
    return paired_difference(sign * pairs[score].astype(float), sign * pairs[f"{score}_rival"].astype(float))


def _rows(
    summary: pd.DataFrame, intervals: Sequence[Interval | None], said: Sequence[str], metric: str
) -> Iterator[dict[str, Any]]:
    previous = None
    sign = 1.0 if metric == "accuracy" else -1.0
    for row, interval, words in zip(summary.to_dict("records"), intervals, said, strict=True):
        asked = f"outcome, {row['sparsity_obtained']:.2%}" if row["sparsity"] != row["sparsity"] else f"{row['sparsity']:.4g}"
        difference = "" if interval is None else _pm(sign * interval.mean, interval.half, metric, "+")
        yield {
            "first": asked != previous,
            "sparsity": asked if asked != previous else "",
            "method": row["method"],
            "runs": row["runs"],
            "survivors": f"{row['survivors']:,.0f}",
            "val": _pm(row["val_mean"], (row["val_high"] - row["val_low"]) / 2, metric),
            "test": _pm(row["test_mean"], (row["test_high"] - row["test_low"]) / 2, metric),
            "difference": difference,
            "cost": f"{row['dense_equivalent_epochs']:.3g}",
            "words": words or ("" if prunes(str(row["method"])) else "a reference, prunes nothing"),
            "mark": words if words in ("better", "worse") else "",
        }
        previous = asked


def _pm(mean: float, half: float, metric: str, sign: str = "") -> str:
    if mean != mean:
        return "–"
    text = f"{mean * 100:{sign}.2f}" if metric == "accuracy" else f"{mean:{sign}.4g}"
    if half != half:
        return text
    return f"{text} ± {half * 100:.2f}" if metric == "accuracy" else f"{text} ± {half:.2g}"


def _costs(summary: pd.DataFrame) -> str:
    sparse = summary[[prunes(str(method)) for method in summary["method"]]]
    low, high = sparse["dense_equivalent_epochs"].min(), sparse["dense_equivalent_epochs"].max()
    if not low > 0 or not high > low * 1.05:
        return "the same for all within 5%"
    return f"not equal, the dearest method takes {high / low:.3g} times as much as the cheapest"


# ---- what is not there --------------------------------------------------------------------------------------------


def _gaps(name: str, runs: pd.DataFrame) -> list[str]:
    """Single seeds, scores that are not numbers, cells without a run, no baseline."""
    found = []
    seeds = sorted(runs["seed"].unique())
    if len(seeds) == 1:
        found.append(f"{name}: a single seed ({seeds[0]}), so there are no intervals and nothing can be shown.")
    failed = runs[runs["val_score"].isna()]
    found += [f"{name}: {_cell(row)} turned NaN and counts nowhere." for row in failed.to_dict("records")]
    if BASELINE not in set(runs["method"]):
        found.append(f"{name}: no runs of {BASELINE!r}; {runs['method'].iloc[0]} is what the others are compared with.")
    asked = sorted(runs[[prunes(str(method)) for method in runs["method"]]]["sparsity"].astype(float).dropna().unique())
    for method, own in runs.groupby("method", sort=False):
        sparsity = own["sparsity"].astype(float)
        cells = [None] if not prunes(str(method)) or sparsity.isna().all() else asked
        for value in cells:
            there = set((own if value is None else own[sparsity == value])["seed"])
            absent = [str(seed) for seed in seeds if seed not in there]
            if absent:
                at = "" if value is None else f" at sparsity {value:.4g}"
                found.append(f"{name}: {method}{at} has no run of seed {', '.join(absent)}.")
    if runs["test_score"].isna().any():
        untested = int(runs["test_score"].isna().sum())
        found.append(f"{name}: the test split was not opened for {untested} of {len(runs)} runs.")
    return found


def _cell(row: Mapping[Any, Any]) -> str:
    at = "" if row["sparsity"] is None or row["sparsity"] != row["sparsity"] else f" at sparsity {row['sparsity']:.4g}"
    return f"{row['method']}{at}, seed {row['seed']},"


def _versions(results: Sequence[Mapping[str, Any]], missing: list[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for result in results:
        for name, version in result["arguments"].get("versions", {}).items():
            found.setdefault(name, [])
            if version not in found[name]:
                found[name].append(version)
    several = [f"{name} ({', '.join(own)})" for name, own in found.items() if len(own) > 1]
    if several:
        missing.append(f"The runs were made by different versions of {'; '.join(several)}: differences may come from that.")
    return {name: ", ".join(own) for name, own in found.items()}


def _notes(runs: pd.DataFrame, results: Sequence[Mapping[str, Any]]) -> list[str]:
    devices = ", ".join(sorted({f"{result['ledger'].get('device')} ({result['ledger'].get('engine')})" for result in results}))
    seconds = sum(float(result["ledger"].get("wall_s") or 0) for result in results)
    return [
        f"{len(runs)} runs, {seconds:,.0f} s of training in all, on {devices}.",
        "Equal bits are promised on one CPU model, one set of libraries and one thread count; elsewhere numbers agree in float "
        "tolerance.",
    ]


# ---- figures ------------------------------------------------------------------------------------------------------


def _figures(
    name: str, runs: pd.DataFrame, results: Sequence[Mapping[str, Any]], histories: Sequence[tuple[str, pd.DataFrame]]
) -> list[dict[str, str]]:
    score = score_column(runs)
    sound = runs[runs[score].notna()]
    figures = []
    if len(sound):
        shown = "On the test split." if score == "test_score" else "On the validation split, the test split is not open."
        figures.append(
            _figure("Score against sparsity", f"{shown} Bars: 95% t intervals.", lambda ax: plot_accuracy(sound, ax), name)
        )
        figures.append(
            _figure("Score against cost", "A small point is a run, a large one a mean.", lambda ax: plot_cost(sound, ax), name)
        )
    if any(result.get("layers") for result in results):
        caption = "Share of each layer's weights that is kept, mean over runs."
        figures.append(_figure("Layer densities", caption, lambda ax: _densities(results, ax), name))
    pairs = [(method, *_early_late(history)) for method, history in histories if len(history) > 1]
    pairs = [pair for pair in pairs if all(math.isfinite(value) for value in pair[1:])]
    if len(pairs) > 2:
        figures.append(_figure("Early against final", _early_words(runs, pairs), lambda ax: _scatter(pairs, ax), name))
    return figures


def _figure(title: str, caption: str, draw: Callable[[Axes], object], about: str = "") -> dict[str, str]:
    label = f"{title}: {about}" if about else title
    return {"title": title, "caption": caption, **{name: _svg(draw, size, label) for name, size in _SIZES.items()}}


_SIZES = {"wide": WIDE, "narrow": NARROW}


def _svg(draw: Callable[[Axes], object], size: tuple[float, float], label: str) -> str:
    """Inline SVG that takes its greys from the page's theme, with ids of its own."""
    import matplotlib
    from matplotlib.figure import Figure

    figure, text = Figure(figsize=size, layout="constrained"), io.StringIO()
    ax = figure.subplots()
    ax.set_facecolor("none")
    draw(ax)
    legend = ax.get_legend()
    if legend is not None and size[0] < WIDE[0]:  # no room at the side
        handles, names = ax.get_legend_handles_labels()
        ax.legend(handles, names, frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    with matplotlib.rc_context({"svg.hashsalt": f"evoprune {label}"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg.replace(' height="', ' data-height="', 1), count=1)
    own = re.sub(r"\W+", "-", f"{label}-{size[0]:g}").lower()
    svg = re.sub(r'\bid="', f'id="{own}-', svg)
    svg = re.sub(r'href="#', f'href="#{own}-', svg).replace("url(#", f"url(#{own}-")
    for grey, variable in THEMED.items():
        svg = svg.replace(grey, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def _densities(results: Sequence[Mapping[str, Any]], ax: Axes) -> None:
    from evoprune.evidence.plots import _percent, _style

    _style(ax)
    sparse = [result for result in results if result.get("layers") and prunes(str(result["method"]))] or list(results)
    asked = [result["sparsity"] for result in sparse if result.get("sparsity") is not None]
    highest = max(asked, default=None)
    chosen = [result for result in sparse if result.get("sparsity") in (highest, None)]
    names = [layer["name"].removesuffix(".weight") for layer in chosen[0]["layers"]]
    methods = list(dict.fromkeys(str(result["method"]) for result in chosen))
    for index, method in enumerate(methods):
        own = [result for result in chosen if result["method"] == method]
        shares = np.array([[layer["survivors"] / layer["prunable"] for layer in result["layers"]] for result in own])
        colour, marker = looks(methods)[method]
        where = np.arange(len(names)) + (index - (len(methods) - 1) / 2) * 0.06
        ax.plot(where, shares.mean(0), marker=marker, color=colour, label=method, linewidth=1.2)
    ax.set_xticks(range(len(names)), names, rotation=0 if len(names) < 8 else 90)
    ax.set_yscale("log")
    log_ticks(ax.yaxis, _percent())
    ax.set_ylabel("weights kept")
    ax.set_title("layer by layer" + ("" if highest is None else f", sparsity {highest:.4g}"), loc="left", fontsize=11)
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _histories(material: Material, runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    kept = [(index, material.histories[index]) for index in runs.index if index < len(material.histories)]
    return [(str(runs["method"][index]), history) for index, history in kept if history is not None]


def _early_late(history: pd.DataFrame) -> tuple[float, float]:
    """The validation score early and at the end."""
    column = "val_accuracy" if "val_accuracy" in history and history["val_accuracy"].notna().any() else "val_loss"
    if column not in history or "epoch" not in history:
        return math.nan, math.nan
    last = history["epoch"].max()
    early = history[history["epoch"] <= max(1.0, EARLY * last)]
    return float((early if len(early) else history)[column].iloc[-1]), float(history[column].iloc[-1])


def _early_words(runs: pd.DataFrame, pairs: Sequence[tuple[str, float, float]]) -> str:
    from scipy import stats

    early, late = (np.array([pair[index] for pair in pairs]) for index in (1, 2))
    if len(set(early)) < 2 or len(set(late)) < 2:
        return "A point is a run; the scores do not vary."
    rho = float(stats.spearmanr(early, late).statistic)
    return (
        f"A point is a run: its validation score after the first fifth of the epochs, and at the end. Rank correlation {rho:.2f} "
        f"over {len(pairs)} runs of {runs['method'].nunique()} methods; most of it may come from differences between methods."
    )


def _scatter(pairs: Sequence[tuple[str, float, float]], ax: Axes) -> None:
    from evoprune.evidence.plots import _percent, _style

    _style(ax)
    for method, (colour, marker) in looks(dict.fromkeys(name for name, _, _ in pairs)).items():
        own = np.array([pair[1:] for pair in pairs if pair[0] == method])
        ax.scatter(own[:, 0], own[:, 1], s=26, marker=marker, color=colour, alpha=0.75, label=method)
    if all(0 <= value <= 1 for pair in pairs for value in pair[1:]):
        ax.xaxis.set_major_formatter(_percent())
        ax.yaxis.set_major_formatter(_percent())
    ax.set_xlabel("early validation score")
    ax.set_ylabel("final validation score")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


# ---- controls -----------------------------------------------------------------------------------------------------


def _place_checks(groups: Sequence[Group], material: Material) -> None:
    for name, told, frame in material.checks:
        wanted = f"{told.get('model')} on {told.get('data')}"
        group = next((group for group in groups if group.name == wanted), groups[0])
        metric = str(told.get("metric", "accuracy"))
        rows = [_control_row(row, metric) for row in told.get("controls", ())]
        figure = _figure(f"Controls of {name}", "", lambda ax, frame=frame: plot_controls(frame, ax))  # type: ignore[misc]
        group.checks.append(
            {"name": name, "verdict": told.get("verdict"), "because": told.get("because"), "rows": rows, "figure": figure}
        )


def _control_row(row: Mapping[str, Any], metric: str) -> dict[str, str]:
    values = {
        name: math.nan if row.get(name) is None else float(row[name])
        for name in ("mean", "gain", "gain_low", "gain_high", "p_holm")
    }
    words = str(row.get("ticket_is", ""))
    return {
        "control": str(row["control"]).replace("_", " "),
        "networks": str(row["networks"]),
        "mean": _pm(values["mean"], math.nan, metric),
        "gain": _pm(values["gain"], (values["gain_high"] - values["gain_low"]) / 2, metric, "+"),
        "p": "–" if math.isnan(values["p_holm"]) else f"{values['p_holm']:.2g}",
        "words": words,
        "mark": words if words in ("better", "worse") else "",
    }


def _template() -> Any:
    from jinja2 import Environment, PackageLoader

    return Environment(loader=PackageLoader("evoprune.evidence"), autoescape=True, trim_blocks=True).get_template("report.html")
