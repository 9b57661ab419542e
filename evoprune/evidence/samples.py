"""Which runs are samples of the same thing: of one method and asked sparsity, with the same options; and which were tested."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from evoprune.methods.registry import ASIDE, METHODS
from evoprune.training.ledger import Ledger
from evoprune.training.options import Training

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["no_samples", "opened", "prunes", "told_apart", "trained_apart"]

OUTCOMES = {
    *("sparsity_obtained", "survivors", "val_score", "val_accuracy", "mask_hash", "out", "folder"),
    *("test_score", "test_accuracy", "test_opened"),
    *({entry.name for entry in fields(Ledger)} - {"device", "engine"}),
}
"""Columns that tell what came out of a run, not what it was asked."""
WHERE = {"device", "engine", "compile", "cuda_graphs", *ASIDE}
"""Options of where and how a run is computed, which are no other experiment."""


def opened(result: Mapping[str, Any]) -> bool:
    """Whether the test split was opened for a run, also where no number came of it."""
    return result.get("test_score") is not None or result.get("test_opened") is not None


def prunes(method: str) -> bool:
    """Whether the method removes weights at all; an unknown one does."""
    return method not in METHODS or METHODS[method].sparse


def no_samples(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs are no further samples: of the method, the asked sparsity and the seed of one before them, or of other options
    than the first of their method and sparsity."""
    own = _options(runs)
    other = (own != own.groupby(_kinds(runs)).transform("first")).any(axis=1)
    return _asked(runs).duplicated() | other.to_numpy()


def told_apart(runs: pd.DataFrame, most: int = 4) -> str:
    """In which options runs of the same method and sparsity differ, as in "epochs: 2, 5; lr: 0.1, 0.2"; at most `most`.

    Where they differ in none, what else keeps those of one seed apart.
    """
    options, asked = _options(runs), _asked(runs).reset_index(drop=True)
    rest = _told(runs[[name for name in runs if name not in OUTCOMES]])[asked.duplicated(keep=False)]
    seeds = asked.groupby(list(asked), dropna=False).ngroup()
    return _values(options, _kinds(runs), most) or _values(rest, seeds, most)


def trained_apart(runs: pd.DataFrame, most: int = 4) -> str:
    """In which options of training the methods differ, as in "lr: 0.1 (random), not set (kstarts, snip)"; at most `most`.

    Epochs are not named: they are what equal cost is made with, and costs have words of their own.
    """
    options, methods = _options(runs), runs["method"].astype(str).reset_index(drop=True)
    common = [name for name in options if name in Training.__dataclass_fields__ and options[name].nunique() > 1]
    found = []
    for name in common[:most]:
        values = methods.groupby(options[name], sort=False).unique()
        found.append(f"{name}: " + ", ".join(f"{value} ({', '.join(own)})" for value, own in values.items()))
    return "; ".join(found)


def _values(own: pd.DataFrame, groups: pd.Series[int], most: int) -> str:
    """Name and values of the columns that differ within a group."""
    differs = own.groupby(groups).transform("nunique") > 1
    values = {name: own[name][differs[name]].unique() for name in own}
    found = [f"{name}: {', '.join(several[:most])}" for name, several in values.items() if len(several)]
    return "; ".join(found[:most])


def _options(runs: pd.DataFrame) -> pd.DataFrame:
    """What the runs were asked for beside sparsity and seed, as text."""
    import pandas as pd

    known = {"epochs", *Training.__dataclass_fields__}.union(*(entry.options for entry in METHODS.values()))
    known -= {"sparsity", "seed", *WHERE}
    common = Training().as_dict()
    usual = {name: {**common, **METHODS[name].options} if name in METHODS else common for name in runs["method"].unique()}
    asked = {
        name: [
            usual[method].get(name) if _is_missing(value) else value for method, value in zip(runs["method"], own, strict=True)
        ]
        for name, own in runs.items()
        if name in known
    }  # a run of before an option was there had what is its default now
    return _told(pd.DataFrame(asked, index=range(len(runs)), dtype=object))


def _told(columns: pd.DataFrame) -> pd.DataFrame:
    """Every entry as text; pandas keeps a missing one missing, which equals nothing, and whole numbers beside it as floats."""
    return columns.reset_index(drop=True).map(_text)


def _text(value: Any) -> str:
    if _is_missing(value):
        return "not set"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kinds(runs: pd.DataFrame) -> pd.Series[int]:
    """A number for each method and asked sparsity."""
    asked = _asked(runs)[["method", "sparsity"]].reset_index(drop=True)
    return asked.groupby(list(asked), dropna=False).ngroup()


def _asked(runs: pd.DataFrame) -> pd.DataFrame:
    """Method, sparsity and seed of each run; what prunes nothing is the same at every sparsity."""
    sparse = runs["method"].map(lambda method: prunes(str(method))).astype(bool)
    sparsity = runs["sparsity"].astype(float).where(sparse)
    return runs[["method", "seed"]].assign(sparsity=sparsity)
