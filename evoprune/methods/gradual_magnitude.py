"""Gradual pruning: a dense network loses its smallest weights while it trains.  [Zhu and Gupta 2017, arXiv:1710.01878]"""

from __future__ import annotations

from typing import Any

from evoprune.errors import InputError
from evoprune.masks.allocation import Allocation, allocate, is_layerwise
from evoprune.masks.mask import Mask
from evoprune.masks.ranking import keep_counts, keep_top
from evoprune.methods.registry import dense_network, method, starts_dense
from evoprune.methods.rewiring import ROUNDING, check_period, check_share, magnitudes
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from evoprune.values import is_number

__all__ = ["gradual_magnitude", "prune_gradually"]


@method(reference="Zhu and Gupta 2017, arXiv:1710.01878, eq. 1", holds=dense_network, unset={"every": "an epoch"})
def gradual_magnitude(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    epochs: int = 10,
    every: int | None = None,
    start: float = 0.0,
    until: float = 0.75,
    scope: str = "global",
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Train the dense network and prune its smallest weights on a cubic schedule: survivors n + (N - n)·(1 - t)^3.

    t runs from 0 to 1 between the shares `start` and `until` of training. every: steps between prunings, an epoch unless given.
    scope: "global" ranks all layers together, "layer" each on its own, towards the counts of `allocation`.
    Cost: that of the dense network, less what has left.
    """
    starts_dense("gradual_magnitude", training, "rescale")
    generation = Population(problem, [Mask.full(problem.space)], horizon=epochs, seed=seed, **training)
    return prune_gradually(
        generation, sparsity, every=every, start=start, until=until, scope=scope, allocation=allocation
    ).ticket()


def prune_gradually(
    generation: Population,
    sparsity: float,
    *,
    every: int | None = None,
    start: float = 0.0,
    until: float = 0.75,
    scope: str = "global",
    allocation: Allocation = "erk",
) -> Population:
    """Train every (dense) network of `generation` to its horizon and to `sparsity`."""
    check_period(every)
    check_share(until=until)
    if not (is_number(start) and 0 <= start < until):
        raise InputError(f"start={start!r} is not usable: give a share of training in [0, until={until})")
    layerwise = is_layerwise(scope, allocation)
    space = generation.problem.space
    final = allocate(space, sparsity, allocation if layerwise else "erk")
    total = generation.horizon * generation.batches.per_epoch
    first = int(start * total + ROUNDING)
    last = max(int(until * total + ROUNDING), first + 1)
    period = min(every or generation.batches.per_epoch, last - first)
    updates = (last - first) // period
    for update in range(1, updates + 1):
        generation.train_steps(first + update * period - generation.steps)
        left = (1 - update / updates) ** 3
        budget = sum(final) + round((space.prunable - sum(final)) * left)
        counts = [end + round((size - end) * left) for size, end in zip(space.sizes, final, strict=True)]
        scores = [magnitudes(generation, row) for row in range(len(generation))]
        generation.prune(
            [
                keep_counts(mask, own, counts) if layerwise else keep_top(mask, own, budget)
                for mask, own in zip(generation.masks, scores, strict=True)
            ]
        )
    generation.train_steps(total - generation.steps)
    return generation.measure() if last >= total else generation  # what was pruned in the last step was not yet judged
