"""What the study is to run: places, methods with their options, and the order of the runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import evoprune as ep
from evoprune.compare.cells import Cell

__all__ = [
    "LATER",
    "METHODS",
    "PAIRS",
    "PLAN",
    "RECIPES",
    "SEARCHES",
    "SEEDS",
    "Key",
    "Place",
    "check_stem",
    "key",
    "options_of",
    "plan",
    "planned",
]

Key = tuple[str, str, str, float, int]

SEEDS = 8
METHODS = (
    *("random", "kstarts", "dissipating", "combined", "evolve", "halving", "snip", "synflow", "magnitude", "set", "rigl"),
    *("gradual_magnitude", "dense", "dissipate_regrow"),
)
LATER = ("regrow_average", "iterative_snip", "force", "grasp", "prospr", "ntk_sap", "imp", "eoi", "dropout")
"""Methods whose turn comes after all others."""
SEARCHES = ("dissipating", "combined", "kstarts", "evolve")
"""Methods whose first ticket is checked against its controls."""
PAIRS = (("combined", "random"), ("combined", "kstarts"), ("combined", "dissipating"), ("evolve", "kstarts"))
"""The question that the author of the methods left open, and what mutation adds to selection."""

PLAN = (
    ("lenet-300-100", "fashion-mnist", (0.98, 0.95, 0.99)),
    ("lenet-300-100", "mnist", (0.98, 0.95, 0.99)),
    ("autoencoder", "fashion-mnist", (0.98, 0.95, 0.99)),
    ("autoencoder", "mnist", (0.98, 0.95, 0.99)),
    ("lenet5", "fashion-mnist", (0.98, 0.95, 0.99)),
    ("lenet-300-100", "fashion-mnist", (0.9, 0.995)),
    ("lenet-300-100", "mnist", (0.9, 0.995)),
    ("autoencoder", "fashion-mnist", (0.9, 0.995)),
    ("autoencoder", "mnist", (0.9, 0.995)),
    ("lenet5", "fashion-mnist", (0.9, 0.995)),
)
"""Models, data sets and sparsities, the most telling first."""
TARGETS = {"lenet-300-100": 2.0, "autoencoder": 2.0, "lenet5": 1.0}
"""What a network may cost, in epochs of the dense one; a convolutional one takes ten times as long for the same count."""
RECIPES = {model: Path(__file__).parent / "results" / f"recipe_{model}.json" for model in ("autoencoder", "lenet5")}
"""Where the default learning rate does not serve: a file with the rate of each method (see recipe.py)."""


@dataclass(frozen=True)
class Place:
    """A model on a data set at one sparsity."""

    model: str
    data: str
    sparsity: float

    @property
    def name(self) -> str:
        return f"{self.model}-on-{self.data}"

    @property
    def target(self) -> float:
        """What a network may cost, search and losers included, in epochs of the dense one."""
        return TARGETS[self.model]

    @property
    def room(self) -> float:
        """The same in epochs of a network of this sparsity."""
        return self.target / (1 - self.sparsity)

    def cell(self, method: str, seed: int) -> Cell:
        asked = self.sparsity if ep.methods[method].sparse else None
        return Cell(method, asked, seed, options_of(self, method), self.name)


def options_of(place: Place, method: str) -> dict[str, Any]:
    """A search may take four fifths of the room, and no more than a usual size; some models have a rate for each method."""
    size = SIZES[method](place) if method in SIZES else {}
    rate = rate_of(place, method)
    return size if rate is None else {**size, "lr": rate}


def rate_of(place: Place, method: str) -> float | None:
    """The learning rate of a method, as chosen at the nearest density (by ratio); None where the default serves."""
    chosen = rates(place.model).get(method, {})
    asked = math.log(1 - place.sparsity)
    return chosen[min(chosen, key=lambda sparsity: abs(math.log(1 - float(sparsity)) - asked))] if chosen else None


@cache
def rates(model: str) -> dict[str, dict[str, float]]:
    """The learning rates of each method, by sparsity; none where the default serves."""
    return dict(json.loads(RECIPES[model].read_text())["lr"]) if model in RECIPES else {}


def _kstarts(place: Place) -> dict[str, Any]:
    return {"k": min(16, _within(place, 2))}


def _combined(place: Place) -> dict[str, Any]:
    return {"k": max(1, int(2 * place.target)), "start_sparsity": 0.85}


def _evolve(place: Place) -> dict[str, Any]:
    """Four children of an epoch a generation, and the first parents."""
    return {"form": "guided", "ngen": min(7, _within(place, 4) - 1)}


def _halving(place: Place) -> dict[str, Any]:
    if _within(place, 1) >= 32:
        return {"k": 8, "rungs": [2, 4], "finalists": 2}
    return {"k": 4, "rungs": [2], "finalists": 2}


def _gradual_magnitude(place: Place) -> dict[str, Any]:
    """Pruned once an epoch, unless the first, dense one would take the whole target."""
    return {} if place.target >= 2 else {"every": 100}


def _within(place: Place, epochs: int) -> int:
    """How many times a search may train that many epochs."""
    return int(0.8 * place.room / epochs + 1e-9)


SIZES = {
    "kstarts": _kstarts,
    "combined": _combined,
    "evolve": _evolve,
    "halving": _halving,
    "gradual_magnitude": _gradual_magnitude,
}
"""Options by method and place."""


def plan(methods: Sequence[str]) -> Iterator[tuple[Place, str, int | None]]:
    """Place, method and seed of every run, seed by seed, so that whatever is finished can be compared; no seed: a check."""
    for model, data, sparsities in PLAN:
        places = [Place(model, data, sparsity) for sparsity in sparsities]
        for place in places:
            for seed in range(SEEDS):
                yield from ((place, method, seed) for method in methods)
        for place in places:
            yield from ((place, method, None) for method in SEARCHES if method in methods)


def key(place: Place, method: str, seed: int) -> Key:
    """By which a finished run is known; what prunes nothing is run once for all sparsities."""
    return place.model, place.data, method, place.sparsity if ep.methods[method].sparse else 0.0, seed


def planned(methods: Sequence[str]) -> set[Key]:
    """Keys of every run, checks left out."""
    return {key(place, method, seed) for place, method, seed in plan(methods) if seed is not None}


def check_stem(out: Path, place: Place, method: str) -> Path:
    """Where a check lies, without its ending."""
    return out / "checks" / f"{place.name}-{method}-{round(10000 * place.sparsity)}"
