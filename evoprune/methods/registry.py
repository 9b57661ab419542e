"""The table of methods: a decorator makes a function appear in the command line, the docs, the contract tests, the benchmarks."""

from __future__ import annotations

import functools
import inspect
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from types import SimpleNamespace
from typing import Any, NamedTuple, get_type_hints

from evoprune import seeds
from evoprune.errors import InputError, UnknownName
from evoprune.formats import as_json
from evoprune.masks.allocation import ALLOCATIONS
from evoprune.masks.space import check_sparsity
from evoprune.problems.gradients import trainable
from evoprune.problems.problem import Problem
from evoprune.registry import Registry, programs
from evoprune.training.options import Training
from evoprune.training.ticket import Ticket
from evoprune.values import native, whole

__all__ = ["ASIDE", "METHODS", "Holding", "Holds", "Method", "hint", "method", "starts_dense", "versions"]

METHODS: Registry[Method] = Registry("method")

ASIDE = ("journal", "executor")
"""Options that decide where a method is worked on, never what comes out; the command line sees to them itself."""


class Holding(NamedTuple):
    """What a method holds at once at most, in multiples of the prunable weights, so that memory can be foreseen.

    weights: survivors of all networks that train together. gradients: one for each network whose pruned weights get one too.
    """

    weights: float
    gradients: int = 0


Holds = Callable[[float, Mapping[str, Any]], Holding]
"""(asked density, options with their defaults) -> what is held."""


def sparse_networks(density: float, options: Mapping[str, Any]) -> Holding:
    """`k` networks of the asked density, one where there is no such option."""
    return Holding(options.get("k", 1) * density)


def dense_network(density: float, options: Mapping[str, Any]) -> Holding:
    """One network that starts with every weight."""
    return Holding(1.0)


@dataclass(frozen=True)
class Method:
    """A registered method; call it as `method(problem, sparsity=…, epochs=…, seed=…, **options) -> Ticket`.

    reference: paper and equation. sparse: False when nothing is pruned (`survivors` = prunable). holds: how much it holds at
    once. unset: what an option that is None stands for, in words. options: defaults by name.
    """

    name: str
    function: Callable[..., Ticket]
    reference: str
    sparse: bool = True
    holds: Holds = sparse_networks
    unset: Mapping[str, str] = field(default_factory=dict)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self.function.__doc__ or ""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.__doc__.strip().splitlines()[0] if self.__doc__ else ""

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @property
    def options(self) -> dict[str, Any]:
        """Own options of the method with their defaults, without problem, sparsity, epochs, seed and training options."""
        common = ("problem", "sparsity", "epochs", "seed")
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = self.__signature__.parameters.values()
        return {p.name: p.default for p in parameters if p.kind in kinds and p.name not in common}

    def versions(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Of what decides a result: packages, and programs of what a user registered, the method and what options name."""
        return versions() | programs(self.name, options)

    def holding(self, density: float, options: Mapping[str, Any]) -> Holding:
        """What it holds at once at most with these options, the others at their defaults."""
        return self.holds(density, {**self.options, **options})

    def check(self, options: dict[str, Any]) -> None:
        """Refuse unknown options and bad common values, before any work. Raises `UnknownName`, `InputError`."""
        training = Training.__dataclass_fields__
        known = {"sparsity", "epochs", "seed", *self.options, *training}
        for name in options:
            if name not in known:
                raise UnknownName(f"option of {self.name}", name, known)
        Training.of(**{name: value for name, value in {**self.options, **options}.items() if name in training})
        seeds.check_seed(options.get("seed", 0))
        whole("epochs", options.get("epochs", 1), 1)
        asked = options.get("sparsity")
        for one in asked if isinstance(asked, (tuple, list)) else () if asked is None else (asked,):
            check_sparsity(one)
        if isinstance(options.get("allocation"), str):
            ALLOCATIONS[options["allocation"]]  # also where it would not be used
        for name, value in options.items():
            for one in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(one, float) and not math.isfinite(one):  # JSON has none, so the run would not be known again
                    raise InputError(f"{name}={value!r} is not usable: give a finite number")

    def __call__(self, problem: Problem, **options: Any) -> Ticket:
        if not isinstance(problem, Problem):
            raise InputError(
                f"{self.name} needs a Problem, not a {type(problem).__name__}: make one with ep.Problem(model, data)"
            )
        options = {name: native(value) for name, value in options.items()}
        options |= {"device": str(options["device"])} if "device" in options else {}  # of torch's own class, too
        self.check(options)
        started = time.perf_counter()
        with trainable(), seeds.isolated(options.get("seed", 0), self.name):
            ticket = self.function(problem, **options)
        ticket.ledger.wall_s = ticket.earlier_s + time.perf_counter() - started
        defaults = {name: p.default for name, p in self.__signature__.parameters.items() if p.default is not p.empty}
        every = as_json({**defaults, **options})
        return ticket.with_provenance({"method": self.name, "options": every, "versions": self.versions(every)})


def starts_dense(what: str, training: Mapping[str, Any], *names: str) -> None:
    """Refuse training options that mean nothing for a full network. Raises `InputError`."""
    for name in names:
        if training.get(name):
            raise InputError(f"{what} starts with one full network, on which {name}=True would do nothing: leave it out")


def method(
    *, reference: str, sparse: bool = True, holds: Holds | None = None, unset: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Ticket]], Method]:
    """Register a function as the method of its name.

    reference: where it comes from. sparse: False when it prunes nothing. holds: from the asked density and the options to what
    it holds at once, by which a comparison chooses its workers; left out, `k` networks (or one) of the asked density, or the
    dense network where nothing is pruned. unset: for each option whose default is None, what that stands for in a few words.
    """
    held = holds or (sparse_networks if sparse else dense_network)

    def register(function: Callable[..., Ticket]) -> Method:
        name = getattr(function, "__name__", "method").rstrip("_")
        return METHODS.add(name, Method(name, function, reference, sparse, held, unset or {}))

    return register


def hint(taker: Callable[..., object], name: str) -> Any:
    """The type that a parameter of a function, or a field of a dataclass, is annotated with; None where there is none to be had.

    An annotation that is imported for type checkers alone costs its own parameter, not the others.
    """
    taker = inspect.unwrap(taker)
    known = vars(sys.modules[taker.__module__]) if isinstance(taker, type) else getattr(taker, "__globals__", {})
    given = {key: own for key, own in getattr(taker, "__annotations__", {}).items() if key == name}
    try:
        return get_type_hints(SimpleNamespace(__annotations__=given), known).get(name)
    except NameError:
        return None


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"python": platform.python_version()}
    for package in ("evoprune", "torch", "numpy", "deap", "numba"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
