"""A pilot: how much of a result is the mask's doing, and how early it shows, before a tournament is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evoprune import seeds
from evoprune.criteria import CRITERIA
from evoprune.errors import InputError, TrainingFailed
from evoprune.evolution.assess import initial_population
from evoprune.masks.allocation import Allocation
from evoprune.problems.problem import Problem
from evoprune.training.ledger import Ledger
from evoprune.training.population import Population
from evoprune.values import whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Pilot", "pilot"]

Floats = npt.NDArray[np.float64]

SPREAD = 0.05
"""Share of the loss by which masks must differ for the signal not to be called low."""


@dataclass(frozen=True, eq=False)
class Pilot:
    """What k masks trained to the end under several seeds say about choosing among them.

    icc: share of the variance of the final validation loss that is due to the mask, one-way ICC(1), at most 1; below 0 counts
    as none. p: of the F test that masks differ at all. spread: standard deviation between masks (noise taken off) over the mean
    of that loss: what there is to win. The initial weights are the problem's throughout.
    frame: seed, individual, epoch, the criteria, val_loss. correlations: per epoch and criterion the mean Spearman rank
    correlation (both signed so that larger is fitter) with the final validation loss of the `same` run, and with its mean over
    the `other` seeds; only the latter is free of common noise. lost: individuals that turned NaN under any seed, left out of all
    but the frame.
    """

    icc: float
    p: float
    spread: float
    frame: pd.DataFrame
    correlations: pd.DataFrame
    ledger: Ledger
    lost: tuple[int, ...] = ()

    @property
    def verdict(self) -> str:
        """In words."""
        half = max(1, int(self.correlations["epoch"].max()) // 2)
        sooner = self.correlations[self.correlations["epoch"] <= half]
        best = sooner.sort_values("other", ascending=False, kind="stable").iloc[0]
        share = f"{max(self.icc, 0):.0%} of the variance of the final validation loss is due to the mask (p = {self.p:.2g})"
        said = f"{share}, masks differ by {self.spread:.1%} of it"
        if self.lost:
            said += f" ({len(self.lost)} that turned NaN are left out)"
        sign = f"{best['criterion']} at epoch {best['epoch']} (rank correlation {best['other']:.2f})"
        early = f"the best sign in the first half of training is {sign}"
        if not self.p < 0.05:
            return f"the choice is noise: {said}; choosing among such masks wins nothing, take any"
        if self.icc < 0.5 or self.spread < SPREAD:
            return f"the signal is low: {said}; {early}; judge finalists on fresh seeds"
        return f"the masks differ: {said}; {early}"

    def __repr__(self) -> str:
        return f"Pilot({self.verdict})"


def pilot(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    k: int = 16,
    runs: int = 3,
    epochs: int = 10,
    criteria: Sequence[str] = ("grad", "loss"),
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Pilot:
    """Train k random masks to the end under `runs` seeds of the batches, and see whether the same masks win each time.

    Raises `TrainingFailed` when fewer than three masks are left that did not turn NaN.
    """
    import pandas as pd

    for name, value, least in (("k", k, 3), ("runs", runs, 2), ("epochs", epochs, 2)):
        whole(name, value, least)
    if training.get("own_weights"):
        raise InputError("own_weights gives every mask weights of its own, which a pilot could not tell from the mask: drop it")
    rules = [CRITERIA[name] for name in criteria]
    individuals = initial_population(problem.space, k, sparsity=sparsity, allocation=allocation, seed=seed)
    rows: list[dict[str, Any]] = []
    ledger = Ledger()
    for run in range(runs):
        own = seeds.derive(seed, "pilot", run)
        generation = Population(problem, individuals, horizon=epochs, seed=own, **training)
        for epoch in range(1, epochs + 1):
            generation.train(1, record={need for rule in rules for need in rule.needs})
            columns = {rule.name: rule.weight * rule(generation.trace, generation.masks) for rule in rules}
            columns["val_loss"] = generation.trace.last("val_loss")
            rows += [
                {"seed": run, "individual": row, "epoch": epoch, **{name: float(values[row]) for name, values in columns.items()}}
                for row in range(k)
            ]
        ledger += generation.ledger
    frame = pd.DataFrame(rows)
    lost = sorted({int(row["individual"]) for row in rows if not np.isfinite(row["val_loss"])})
    if k - len(lost) < 3:
        raise TrainingFailed(f"{len(lost)} of {k} masks turned NaN, and fewer than 3 are left to choose from: lower lr=")
    sound = frame[~frame["individual"].isin(lost)]
    final = sound[sound["epoch"] == epochs].pivot(index="individual", columns="seed", values="val_loss").to_numpy()
    icc, p = intraclass(final)
    between = max(0.0, icc) * final.var(ddof=1)
    return Pilot(
        icc,
        p,
        float(np.sqrt(between) / final.mean()),
        frame,
        _correlations(sound, final, [rule.name for rule in rules]),
        ledger,
        tuple(lost),
    )


def intraclass(values: Floats) -> tuple[float, float]:
    """One-way ICC(1) of `(targets, raters)` values, and p of its F test.  [Shrout 1979]"""
    from scipy import stats

    k, runs = values.shape
    between = runs * values.mean(1).var(ddof=1)
    within = float(((values - values.mean(1, keepdims=True)) ** 2).sum() / (k * (runs - 1)))
    if within == 0:
        return (1.0, 0.0) if between > 0 else (0.0, 1.0)
    p = float(stats.f.sf(between / within, k - 1, k * (runs - 1)))
    return float((between - within) / (between + (runs - 1) * within)), p


def _correlations(frame: pd.DataFrame, final: Floats, names: Sequence[str]) -> pd.DataFrame:
    import pandas as pd
    from scipy import stats

    rows = []
    for name in names:
        for epoch, part in frame.groupby("epoch"):
            early = part.pivot(index="individual", columns="seed", values=name).to_numpy()
            pairs = {
                "same": [(early[:, run], final[:, run]) for run in range(final.shape[1])],
                "other": [(early[:, run], np.delete(final, run, axis=1).mean(1)) for run in range(final.shape[1])],
            }
            means = {kind: _mean([-stats.spearmanr(a, b).statistic for a, b in found]) for kind, found in pairs.items()}
            rows.append({"criterion": name, "epoch": epoch, **means})
    return pd.DataFrame(rows)


def _mean(values: Sequence[float]) -> float:
    """Mean; a correlation with a constant counts 0."""
    return float(np.mean(np.nan_to_num(np.array(values))))
