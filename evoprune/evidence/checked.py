"""What the networks of a check show: the ticket's gain over each control, in numbers and in words."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from evoprune.errors import DamagedFile
from evoprune.evidence.statistics import Interval, mean_interval, paired_difference
from evoprune.evidence.verdict import BETTER, RANDOM, SEEDS, WORSE, Verdict, judge, smallest_of_interest, table
from evoprune.files import atomic_write
from evoprune.formats import read_json, without_nan, write_csv, write_json
from evoprune.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TICKET", "Check", "rejudged"]

log = logging.getLogger("evoprune")

TICKET = "ticket"
ABOUT = ("method", "model", "data", "metric", "sparsity", "mask_hash")


@dataclass(frozen=True, eq=False)
class Check:
    """What `check` gives.

    frame: one row a network: control ("ticket" for the ticket itself), seed, draw, score, metric, survivors, failed.
    table: one row a control: control, networks, mean, low, high (of its seeds' means), gain, gain_low, gain_high (of the ticket
    over it, larger is better), p, p_holm, ticket_is (words). verdict: `str(verdict)` is the answer, `verdict.because` the reason.
    difference: the smallest gain of interest. seeds, epochs: how many. counts_chosen: whether the ticket's layer counts are
    others than a random mask's. about: method, model, data, metric, sparsity, mask_hash. options: what else was asked
    for, such as draws or lr.
    """

    frame: pd.DataFrame
    table: pd.DataFrame
    verdict: Verdict
    difference: float
    seeds: int
    epochs: int
    counts_chosen: bool
    about: dict[str, Any]
    options: dict[str, Any]

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        about: Mapping[str, Any],
        *,
        counts_chosen: bool,
        difference: float | None,
        epochs: int,
        options: Mapping[str, Any],
    ) -> Check:
        """The judgement of trained networks, a row each."""
        accuracy = frame["metric"].iloc[0] == "accuracy"
        sign, seeds = 1.0 if accuracy else -1.0, int(frame["seed"].max()) + 1  # sign: of a gain
        by_seed = {
            str(name): [float(own[own["seed"] == seed]["score"].mean()) for seed in range(seeds)]
            for name, own in frame.groupby("control", sort=False)
        }
        smallest = difference or smallest_of_interest(by_seed[TICKET], accuracy=accuracy)
        own = [sign * score for score in by_seed[TICKET]]
        arms = {name: [sign * score for score in scores] for name, scores in by_seed.items() if name != TICKET}
        gains = {name: paired_difference(own, scores) for name, scores in arms.items()}
        words = table(list(gains.values()), difference=smallest, accuracy=accuracy)
        shown = [
            _row(name, frame[frame["control"] == name], by_seed[name], gains[name], p, word)
            for name, (p, word) in zip(gains, words, strict=True)
        ]
        verdict = _of_the_sound(judge(gains, counts_chosen=counts_chosen, difference=smallest), frame)
        fresh = sign * frame[frame["control"] == "fresh_counts"]["score"].dropna()
        reached = f"{int((fresh >= mean_interval(own).mean).sum())} of {len(fresh)} fresh masks reach its mean"
        searched = _of_the_search({row["control"]: str(row["ticket_is"]) for row in shown})
        told = [verdict.because, reached, *_failures(frame), *searched]
        verdict = replace(verdict, because="; ".join(told))
        whole = {**{name: about.get(name) for name in ABOUT}, "ticket": without_nan(mean_interval(by_seed[TICKET]).mean)}
        return cls(frame, pd.DataFrame(shown), verdict, smallest, seeds, epochs, counts_chosen, whole, dict(options))

    def figure(self) -> Figure:
        """Every network's score, control by control."""
        from matplotlib.figure import Figure

        from evoprune.evidence.plots import plot_controls

        figure = Figure(figsize=(8.0, 1.6 + 0.42 * len(self.table)), layout="constrained")
        plot_controls(self.frame, figure.subplots())
        return figure

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: verdict, because, seeds_needed, seeds, epochs, difference, counts_chosen, options, what `about` holds, and
        controls, the rows of the table."""
        rows = without_nan(self.table.to_dict("records"))
        told = {"verdict": str(self.verdict), "because": self.verdict.because, "seeds_needed": self.verdict.seeds}
        asked = {"seeds": self.seeds, "epochs": self.epochs, "difference": self.difference, "counts_chosen": self.counts_chosen}
        return {**told, **asked, **self.about, "options": self.options, "controls": rows}

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write `check.csv` (the frame), `check.json` and `check.png` into a folder, atomically; returns the paths.

        A check of other seeds or controls that the folder holds is replaced, and the log says so.
        """
        where, picture = Path(folder), io.BytesIO()
        held, own = _size_of(where / "check.json"), _size(self.as_dict())
        if held not in (None, own):
            log.warning("%s held a check of %s, and is replaced by one of %s", where / "check.json", held, own)
        self.figure().savefig(picture, format="png", dpi=150)
        return [
            write_csv(where / "check.csv", self.frame),
            write_json(where / "check.json", self.as_dict()),
            atomic_write(where / "check.png", picture.getvalue()),
        ]

    def __repr__(self) -> str:
        return f"Check({self.verdict}: {self.verdict.because})"

    def _repr_html_(self) -> str:
        shown = self.table.to_html(index=False, float_format=lambda value: f"{value:.4f}")
        return f"<p><b>{self.verdict}</b>: {self.verdict.because}</p>{shown}"


def _size(told: Mapping[str, Any]) -> str:
    controls = [str(row["control"]) for row in told["controls"]]
    return f"{counted(told['seeds'], 'seed')} with {', '.join(controls)}"


def _size_of(path: Path) -> str | None:
    """Of the check that a file holds, if it holds one."""
    try:
        return _size(read_json(path, lost="the check")) if path.is_file() else None
    except (DamagedFile, KeyError, TypeError):
        return None


def rejudged(told: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """The content of a saved check in the words that are said today; as it is where it lacks what that takes."""
    asked = {name: told[name] for name in ("counts_chosen", "difference", "epochs") if name in told}
    return Check.of(frame, told, options=told.get("options", {}), **asked).as_dict() if len(asked) == 3 else dict(told)


def _of_the_sound(verdict: Verdict, frame: pd.DataFrame) -> Verdict:
    """Nothing is found by a ticket some of whose networks failed: the others are no fair sample of it."""
    own = frame[frame["control"] == TICKET]
    if verdict.kind in (RANDOM, SEEDS) or not own["failed"].any():
        return verdict
    advice = "some of the ticket's networks turned NaN: check it again with a lower lr="
    return Verdict(SEEDS, f"{advice}; of the others, {verdict.because}")


def _failures(frame: pd.DataFrame) -> Iterator[str]:
    """How many networks of the ticket and of its controls failed, where any did."""
    own = frame["control"] == TICKET
    for what, group in (("the ticket's", frame[own]), ("the controls'", frame[~own])):
        if failed := int(group["failed"].sum()):
            yield f"{failed} of {len(group)} of {what} networks turned NaN"


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


def _row(name: str, own: pd.DataFrame, by_seed: list[float], gain: Interval, p: float, word: str) -> dict[str, Any]:
    scores = mean_interval(by_seed)  # draws of one seed share batches: they are no independent values
    return {
        "control": name,
        "networks": len(own),
        **{"mean": scores.mean, "low": scores.low, "high": scores.high},
        **{"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high},
        **{"p": gain.p, "p_holm": p, "ticket_is": word},
    }
