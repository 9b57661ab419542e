"""Is the ticket real? It is trained again beside its controls, on fresh batches, and judged in words."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune import seeds as streams
from evoprune.errors import InputError, TrainingFailed
from evoprune.evidence.controls import CONTROLS, Control, original, reference_counts
from evoprune.evidence.search_controls import SEARCH_CONTROLS, search_controls_of
from evoprune.evidence.statistics import Interval, mean_interval, paired_difference
from evoprune.evidence.verdict import BETTER, DIFFERENCE, RELATIVE, WORSE, Verdict, judge, table
from evoprune.files import atomic_write
from evoprune.problems.problem import Problem
from evoprune.training.options import Training
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Check", "check"]

TICKET = "ticket"
NEEDED = ("fresh_counts", "fresh_random")

log = logging.getLogger("evoprune")


@dataclass(frozen=True, eq=False)
class Check:
    """What `check` gives.

    frame: one row a network: control ("ticket" for the ticket itself), seed, draw, score, metric, survivors, failed.
    table: one row a control: control, networks, mean, low, high (of its scores), gain, gain_low, gain_high (of the ticket over
    it, larger is better), p, p_holm, ticket_is (words). verdict: `str(verdict)` is the answer, `verdict.because` the reason.
    difference: the smallest gain of interest. seeds, epochs: how many. about: method, model, data.
    """

    frame: pd.DataFrame
    table: pd.DataFrame
    verdict: Verdict
    difference: float
    seeds: int
    epochs: int
    about: dict[str, Any]

    def figure(self) -> Figure:
        """Every network's score, control by control."""
        from matplotlib.figure import Figure

        from evoprune.evidence.plots import plot_controls

        figure = Figure(figsize=(8.0, 1.6 + 0.42 * len(self.table)), layout="constrained")
        plot_controls(self.frame, figure.subplots())
        return figure

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: verdict, because, seeds_needed, seeds, epochs, difference, about, and the table's rows."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.table.to_dict("records")]
        told = {"verdict": str(self.verdict), "because": self.verdict.because, "seeds_needed": self.verdict.seeds}
        return {**told, "seeds": self.seeds, "epochs": self.epochs, "difference": self.difference, **self.about, "controls": rows}

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write `check.csv` (the frame), `check.json` and `check.png` into a folder, atomically; returns the paths."""
        where, text, picture = Path(folder), io.StringIO(), io.BytesIO()
        self.frame.to_csv(text, index=False, lineterminator="\n")
        self.figure().savefig(picture, format="png", dpi=150)
        content = json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n"
        parts = {"check.csv": text.getvalue().encode(), "check.json": content.encode(), "check.png": picture.getvalue()}
        return [atomic_write(where / name, part) for name, part in parts.items()]

    def __repr__(self) -> str:
        return f"Check({self.verdict}: {self.verdict.because})"

    def _repr_html_(self) -> str:
        shown = self.table.to_html(index=False, float_format=lambda value: f"{value:.4f}")
        return f"<p><b>{self.verdict}</b>: {self.verdict.because}</p>{shown}"


def check(
    source: Ticket | str | os.PathLike[str],
    *,
    seeds: int = 5,
    epochs: int | None = None,
    controls: Sequence[str] | None = None,
    search: bool = False,
    draws: int = 4,
    difference: float | None = None,
    problem: Problem | None = None,
    seed: int = 0,
    **training: Any,
) -> Check:
    """Train a ticket's mask and initial weights again beside its controls, and say what the search found.

    source: a ticket, or the folder of a run; its weights start where they started: those that came during training at 0, after
    rewinding at the values of that epoch. seeds: times that everything is trained; each has its own batches and controls,
    and the networks of one seed train together as one population, on the same batches, which pairs them. epochs: of each; None
    takes the ticket's. controls: names of `CONTROLS` and `SEARCH_CONTROLS`; None takes all of the first, those that the verdict
    needs are always trained. search: add all of the second that apply; each searches again, once a seed, at the ticket's cost.
    draws: fresh masks with the ticket's layer counts for each seed, the null distribution. difference: the smallest gain that
    matters, in units of the score; None takes 0.002 of an accuracy (0.2 points), 2% of a loss. problem: needed for a ticket
    from a file whose model or data have no name. training: options of `Training` that differ from the ticket's own.

    The verdict is about this ticket: a random mask that is a lucky draw does beat the others, and is told so; the reason says
    how many fresh masks reach its mean. Scores are of the validation split, at the last epoch.

    Raises `InputError` for a ticket that keeps every weight.
    """
    for name, value in (("seeds", seeds), ("draws", draws), *((("epochs", epochs),) if epochs is not None else ())):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r} is not usable: give a whole number >= 1")
    if difference is not None and not (isinstance(difference, (int, float)) and 0 < difference < math.inf):
        raise InputError(f"difference={difference!r} is not usable: give the smallest gain that matters, such as 0.002")
    streams.check_seed(seed)
    ticket = _ticket(source, problem)
    counts_chosen = reference_counts(ticket) != ticket.mask.counts  # refuses a ticket without a choice, before any work
    chosen = _chosen(controls, search_controls_of(ticket) if search else ())
    horizon = epochs or _epochs(ticket)
    options = {**ticket.provenance.get("training", {}), **training}
    Training.of(**options)  # refuses before any work
    rows: list[dict[str, Any]] = []
    for number in range(seeds):
        log.info("check: seed %d of %d, %d epochs", number + 1, seeds, horizon)
        rows += _train(ticket, list(_networks(ticket, chosen, number, draws, seed)), number, horizon, seed, options)
    if all(row["failed"] for row in rows):
        raise TrainingFailed("every network turned NaN: lower lr=")
    return _judged(rows, ticket, counts_chosen, difference, seeds, horizon)


# ---- what is trained ----------------------------------------------------------------------------------------------


def _ticket(source: Ticket | str | os.PathLike[str], problem: Problem | None) -> Ticket:
    if isinstance(source, Ticket):
        found = source
    else:
        path = Path(source)
        if path.is_dir():
            path = path / "ticket.safetensors"
        if not path.is_file():
            raise InputError(f"{source} holds no ticket: give the folder of a finished run, or a ticket's file")
        found = Ticket.load(path, problem=problem)
    if problem is not None and found.problem is not problem:
        found = Ticket(**{**vars(found), "problem": problem})
    found._problem("check")
    return found


def _chosen(controls: Sequence[str] | None, more: Sequence[str]) -> list[str]:
    if isinstance(controls, str):
        raise InputError(f"controls={controls!r} is not usable: give names in a list, as in [{controls!r}]")
    names = list(CONTROLS) if controls is None else [*NEEDED, *controls]
    names = list(dict.fromkeys([*names, *more]))
    for name in names:
        _control(name)
    return names


def _control(name: str) -> Control:
    """By its name. Raises `UnknownName`."""
    return SEARCH_CONTROLS[name] if name in SEARCH_CONTROLS else CONTROLS[name]


def _epochs(ticket: Ticket) -> int:
    asked = ticket.provenance.get("options", {}).get("epochs")
    return asked if isinstance(asked, int) else max((int(row["epoch"]) for row in ticket.history_rows), default=10)


def _networks(ticket: Ticket, controls: Sequence[str], number: int, draws: int, seed: int) -> Iterator[tuple[str, int, Ticket]]:
    """Name, draw and untrained network, the ticket itself first."""
    yield TICKET, 0, original(ticket)
    for name in controls:
        for draw in range(draws if name == "fresh_counts" else 1):
            yield name, draw, _control(name)(ticket, streams.derive(seed, "check", number, draw))


def _train(
    ticket: Ticket, networks: list[tuple[str, int, Ticket]], number: int, epochs: int, seed: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """The networks of one seed, as one population."""
    problem = ticket._problem("check")
    rate = options.get("drop_rate", 0.0)
    weights = [
        {name: value / (1 - rate) if name in one.mask.space.index else value for name, value in one.weights.items()}
        for _, _, one in networks
    ]  # a population multiplies by (1 - rate) again
    generation = Population(
        problem,
        [one for _, _, one in networks],
        horizon=epochs,
        seed=streams.derive(seed, "check", number),
        weights=weights,
        **options,
    )
    column = "val_accuracy" if problem.metric == "accuracy" else "val_loss"
    try:
        generation.train(epochs)
        scores = generation.trace.last(column)
    except TrainingFailed:
        scores = np.full(len(networks), math.nan)
    failed = generation.trace.failed | ~np.isfinite(scores)
    return [
        {
            "control": name,
            "seed": number,
            "draw": draw,
            "score": math.nan if bad else float(score),
            "metric": problem.metric,
            "survivors": one.mask.count,
            "failed": bool(bad),
        }
        for (name, draw, one), score, bad in zip(networks, scores, failed, strict=True)
    ]


# ---- what came out ------------------------------------------------------------------------------------------------


def _judged(
    rows: list[dict[str, Any]], ticket: Ticket, counts_chosen: bool, difference: float | None, seeds: int, epochs: int
) -> Check:
    import pandas as pd

    frame = pd.DataFrame(rows)
    accuracy = frame["metric"].iloc[0] == "accuracy"
    sign = 1.0 if accuracy else -1.0  # of a gain
    by_seed = {
        str(name): [float(own[own["seed"] == seed]["score"].mean()) for seed in range(seeds)]
        for name, own in frame.groupby("control", sort=False)
    }
    smallest = difference or (DIFFERENCE if accuracy else RELATIVE * float(frame["score"].mean()))
    own = [sign * score for score in by_seed[TICKET]]
    names = [name for name in by_seed if name != TICKET]
    gains = {name: paired_difference(own, [sign * score for score in by_seed[name]]) for name in names}
    words = table(list(gains.values()), difference=smallest, accuracy=accuracy)
    shown = [
        _row(name, frame[frame["control"] == name], gains[name], p, word) for name, (p, word) in zip(names, words, strict=True)
    ]
    problem = ticket._problem("check")
    about = {
        "method": ticket.provenance.get("method"),
        "model": problem.model_name,
        "data": problem.data_name,
        "metric": problem.metric,
        "sparsity": ticket.mask.sparsity,
        "mask_hash": ticket.mask.hash,
        "ticket": _plain(mean_interval(by_seed[TICKET]).mean),
    }
    verdict = judge(gains, counts_chosen=counts_chosen, difference=smallest)
    fresh = sign * frame[frame["control"] == "fresh_counts"]["score"].dropna()
    reached = f"{int((fresh >= np.nanmean(own)).sum())} of {len(fresh)} fresh masks reach its mean"
    told = [f"{verdict.because}; {reached}", *_of_the_search({row["control"]: str(row["ticket_is"]) for row in shown})]
    verdict = replace(verdict, because="; ".join(told))
    return Check(frame, pd.DataFrame(shown), verdict, smallest, seeds, epochs, about)


def _of_the_search(words: dict[str, str]) -> Iterator[str]:
    """What the controls of the search add to the reason."""
    meaning = {
        "random_selection": "the same search with survivors drawn by lot",
        "best_of_k": "the best of as many random masks as it cost",
        "shuffled_labels": "the same search on shuffled labels",
    }
    for name, what in meaning.items():
        if name in words:
            word = words[name] if words[name] in (BETTER, WORSE) else "not shown to differ"
            yield f"{word} {'from' if word not in (BETTER, WORSE) else 'than'} {what}"


def _row(name: str, own: pd.DataFrame, gain: Interval, p: float, word: str) -> dict[str, Any]:
    scores = mean_interval(own["score"])
    return {
        "control": name,
        "networks": len(own),
        **{"mean": scores.mean, "low": scores.low, "high": scores.high},
        **{"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high},
        **{"p": gain.p, "p_holm": p, "ticket_is": word},
    }


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
