"""The table of operators: a decorator makes one appear in the command line, the docs, the benchmarks and `replay`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from evoprune.masks.mask import Mask
from evoprune.registry import Registry

__all__ = ["OPERATORS", "Kind", "Operator", "Rule", "operator"]

Kind = Literal["init", "mutate", "mate", "model"]
Rule = Callable[..., tuple[Mask, ...]]
"""`rule(generator, *parents' masks, **options) -> children's masks`, a pure function; without parents it gets the space."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operator:
    """A registered operator.

    function: what a toolbox registers. kind: "init" makes an individual, "mutate" changes one, "mate" two, "model" learns from
    many and makes many. rule: what it does to masks, free of DEAP, lineage and global state.
    """

    name: str
    function: Callable[..., Any]
    kind: Kind
    rule: Rule

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self.function.__doc__ or ""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.__doc__.strip().splitlines()[0] if self.__doc__ else ""


OPERATORS: Registry[Operator] = Registry("operator")


def operator(kind: Kind, rule: Rule) -> Callable[[F], F]:
    """Register a function, or a class, as the operator of its name."""

    def register(function: F) -> F:
        name = getattr(function, "__name__", repr(function))
        OPERATORS.add(name, Operator(name, function, kind, rule))
        return function

    return register
