"""Dissipating gradients: weights that stay near their initial value leave.  [Haroon 2022, arXiv:2209.02201]"""

from __future__ import annotations

from typing import Any

from evoprune.masks.allocation import Allocation
from evoprune.masks.ranking import check_floors
from evoprune.masks.sampling import random_mask
from evoprune.methods.dissipation import (
    UNSET,
    check,
    check_count,
    check_options,
    geometric,
    snapshot,
    start_density,
    start_holding,
)
from evoprune.methods.registry import method
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["dissipating"]


@method(
    reference="Haroon 2022, arXiv:2209.02201",
    holds=start_holding,
    unset={**UNSET, "delta": "none, but the fraction rules need it"},
)
def dissipating(
    problem: Problem,
    *,
    sparsity: float | None = None,
    epochs: int = 10,
    rule: str = "rank",
    reference: str = "init",
    scope: str = "global",
    start_sparsity: float | None = None,
    checks: int | None = None,
    delta: float | None = None,
    control: str = "none",
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Remove the weights that stay near their initial value during the first epochs; survivors keep their current values.

    rule: which weights leave at a check (`RULES`); the rank rules follow a geometric schedule of exact counts, the fraction
    rules take `delta` and leave the sparsity open. reference: "init", or "epoch" for the value at the epoch's start. scope:
    "global", or "layer" to keep the allocation. checks: ends of the first epochs, max(2, 2·epochs // 5) unless given.
    start_sparsity: of the random mask it starts from. control: "rewind" survivors to their start, "inverted" (what moved
    most leaves), "zero_gradient" (decay alone moves weights). The rule "gradient" takes neither a reference nor this control.
    """
    how = check_options(rule, control, reference, scope, sparsity, delta, training.get("weight_decay", 0.0))
    checks = check_count(checks, epochs)
    budget = problem.space.budget(0.95 if sparsity is None else sparsity)
    if start_sparsity is None:
        start_sparsity = 1 - start_density(budget / problem.prunable) if how.counts else 0.0
    start = random_mask(problem.space, sparsity=start_sparsity, allocation=allocation, seed=seed)
    if how.counts:
        check_floors(start, budget)
    generation = Population(problem, [start], horizon=epochs, seed=seed, **training)
    schedule = geometric(start.count, budget, checks) if how.counts else [None] * checks
    for survivors in schedule:
        held = generation.parameters.initial if reference == "init" else snapshot(generation.parameters.survivors)
        generation.train(1, record=how.needs, gradients=control != "zero_gradient")
        check(generation, how, held, budget=survivors, delta=delta, inverted=control == "inverted", scope=scope)
    if control == "rewind":
        generation.rewind()
    return generation.train(epochs - checks).ticket()
