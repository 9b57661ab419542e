"""What is to be run: every method at every sparsity and seed, on every problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evoprune import seeds as streams
from evoprune.errors import InputError, UnknownName
from evoprune.masks.space import check_sparsity
from evoprune.methods.registry import METHODS, Method
from evoprune.problems.problem import Problem
from evoprune.runs import Arguments, default_sparsity
from evoprune.training.options import Training
from evoprune.values import native

__all__ = ["EPOCHS", "Cell", "Problems", "cells_of", "check_seeds", "common_options", "named_problems", "own_options"]

EPOCHS = 10
"""Of every method, where a comparison is not told otherwise."""

Problems = Mapping[str, Problem]
"""The problems of a comparison by the name of their folder; a single one has the empty name."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    sparsity: None where the method prunes nothing or leaves it open. problem: its name among several, "" for the only one.
    """

    method: str
    sparsity: float | None
    seed: int
    options: Mapping[str, Any]
    problem: str = ""

    @property
    def name(self) -> str:
        """Of its folder, and for people."""
        return f"{self.kind}-seed{self.seed}"

    @property
    def kind(self) -> str:
        """What it shares with the cells of other seeds: problem, method and sparsity."""
        asked = "" if self.sparsity is None else f"-{self.sparsity!r}"
        return f"{self.problem}/{self.method}{asked}" if self.problem else f"{self.method}{asked}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What `run` is called with."""
        asked = {} if self.sparsity is None else {"sparsity": self.sparsity}
        return {**self.options, **asked, "seed": self.seed}

    def lasting(self, epochs: int) -> Cell:
        """The same cell with other epochs."""
        return replace(self, options={**self.options, "epochs": epochs})


def named_problems(problems: Problem | Sequence[Problem]) -> Problems:
    """Each problem by a name of its own, in the order given. Raises `InputError` for none, or the same one twice."""
    given = [problems] if isinstance(problems, Problem) else list(problems)
    if len(given) == 1:
        return {"": given[0]}
    named = {f"{problem.model_name}-on-{problem.data_name}".replace("/", "_"): problem for problem in given}
    if not given or len(named) != len(given):
        told = ", ".join(named) or "none"
        raise InputError(
            f"{len(given)} problems ({told}) cannot be compared: give at least one, each model and data set once, "
            "and data files whose names differ"
        )
    return named


def cells_of(
    names: Sequence[str], problems: Problems, sparsities: Sequence[float], seeds: Sequence[int], options: Mapping[str, Any]
) -> list[Cell]:
    """Every run, seed by seed, so that whatever is finished can be compared. Raises `InputError` for what cannot be run."""
    methods = [METHODS[name] for name in names]
    if not methods or len(set(names)) != len(methods):
        raise InputError(f"methods {', '.join(names) or '(none)'} cannot be compared: name at least one, and each once")
    asked_for = [float(check_sparsity(value)) for value in sparsities]
    if not asked_for or len(set(asked_for)) != len(asked_for):
        raise InputError(f"sparsities {list(sparsities)} are not usable: give at least one, and each once")
    _check_known(methods, options)
    cells = []
    for seed in seeds:
        for name, problem in problems.items():
            for method in methods:
                own = own_options(method, options)
                fixed = not method.sparse or default_sparsity(method, {**method.options, **own}) is None
                found = [Cell(method.name, value, seed, own, name) for value in ((None,) if fixed else asked_for)]
                for cell in found:
                    Arguments.of(method, problem, cell.arguments)  # refuses before any work
                cells += found
    return cells


def _check_known(methods: Sequence[Method], options: Mapping[str, Any]) -> None:
    known = {"epochs", *Training.__dataclass_fields__}.union(*(method.options for method in methods))
    for name in options:
        if name not in known:
            raise UnknownName("option of these methods", name, known)


def common_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that every method takes: epochs, and how networks train."""
    return {name: value for name, value in options.items() if name == "epochs" or name in Training.__dataclass_fields__}


def own_options(method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the method takes."""
    common = common_options(options)
    return {name: value for name, value in options.items() if name in common or name in method.options}


def check_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Which seeds. Raises `InputError`."""
    seeds = native(seeds)
    if isinstance(seeds, int) and (isinstance(seeds, bool) or seeds < 1):
        raise InputError(f"seeds={seeds!r} is not usable: give how many, at least 1")
    chosen = [streams.check_seed(seed) for seed in (range(seeds) if isinstance(seeds, int) else seeds)]
    if not chosen or len(set(chosen)) != len(chosen):
        raise InputError(f"seeds {chosen} are not usable: give at least one, and each once")
    return chosen
