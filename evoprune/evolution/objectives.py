"""Objectives: what a fitness is made of. Any absolute criterion, and counts that a mask alone decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from evoprune.criteria import CRITERIA, Criterion
from evoprune.errors import InputError, UnknownName
from evoprune.masks.mask import Mask
from evoprune.problems.problem import Problem
from evoprune.training.trace import Floats, Trace

__all__ = ["COUNTS", "Objective", "find_objectives", "multiply_adds"]

COUNTS = {"survivors": "weights that are kept", "macs": "multiply-adds of one sample"}
"""Objectives that are counted on the mask; both are minimised."""


@dataclass(frozen=True)
class Objective:
    """One value of a fitness.

    weight: +1 to maximise, -1 to minimise. rule: the criterion, None for what is counted on the mask.
    """

    name: str
    weight: float
    rule: Criterion | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Per-weight sums to record."""
        return () if self.rule is None else self.rule.needs

    @property
    def trained(self) -> bool:
        """Whether training decides it."""
        return self.rule is not None and self.rule.trained

    @property
    def worst(self) -> float:
        """Infinite, on the losing side: what a failed individual gets."""
        return -self.weight * np.inf

    def values(self, trace: Trace, masks: Sequence[Mask]) -> Floats:
        """One value a current row of the trace, `(K,)`; the worst for a failed row."""
        if self.rule is not None:
            return self.rule(trace, masks)
        if self.name == "survivors":
            counts = [mask.count for mask in masks]
        else:
            uses = multiply_adds(trace.problem)
            counts = [sum(count * use for count, use in zip(mask.counts, uses, strict=True)) for mask in masks]
        return np.where(trace.failed, self.worst, np.array(counts, dtype=np.float64))


def find_objectives(criterion: str, objectives: Sequence[str] | None) -> tuple[Objective, ...]:
    """The objectives called `objectives`, or the one called `criterion`.

    Raises `UnknownName`, and `InputError` for one that depends on the cohort, for none, and for a repeated one.
    """
    if isinstance(objectives, str):
        raise InputError(f"objectives={objectives!r} is not usable: give a sequence of names, as in ('loss', 'survivors')")
    names = (criterion,) if objectives is None else tuple(objectives)
    if not names or len(set(names)) < len(names):
        raise InputError(f"objectives={list(names)} are not usable: give different names, one at least")
    return tuple(_find(name) for name in names)


def _find(name: str) -> Objective:
    if name in COUNTS:
        return Objective(name, -1.0)
    if name not in CRITERIA and not callable(name):
        raise UnknownName("criterion", name, [*CRITERIA, *COUNTS])
    rule = CRITERIA[name]
    if rule.relative:
        absolute = [other for other, found in CRITERIA.items() if not found.relative]
        raise InputError(
            f"criterion {name!r} depends on the cohort, so no fitness can be kept: choose one of {', '.join(absolute)}"
        )
    return Objective(name, rule.weight, rule)


def multiply_adds(problem: Problem) -> tuple[int, ...]:
    """How often one sample uses a weight of each prunable layer: 1 in a linear layer, the output's pixels in a convolution."""
    model = problem.module().eval()
    uses = dict.fromkeys(problem.space.names, 0)
    owners = {id(model.get_parameter(name)): name for name in problem.space.names}

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        name = owners.get(id(getattr(layer, "weight", None)))
        if name is not None:
            channels = problem.space.shapes[problem.space.index[name]][0]
            uses[name] += output.numel() // channels

    hooks = [layer.register_forward_hook(count) for layer in model.modules()]
    with torch.no_grad():
        model(problem.split("train").inputs[:1].clone())
    for hook in hooks:
        hook.remove()
    return tuple(uses[name] for name in problem.space.names)
