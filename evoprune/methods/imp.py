"""Iterative magnitude pruning with rewinding: the lottery ticket.  [Frankle 2019, arXiv:1803.03635; 2020, arXiv:1912.05671]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from evoprune.errors import InputError
from evoprune.masks.allocation import Allocation, allocate, is_layerwise
from evoprune.masks.mask import Mask
from evoprune.masks.ranking import keep_counts, keep_top
from evoprune.methods.registry import dense_network, method, starts_dense
from evoprune.methods.rewiring import check_share, magnitudes
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from evoprune.training.trace import Floats
from evoprune.values import is_whole

__all__ = ["imp", "next_round", "prune_and_rewind", "rounds", "train_to_rewinding_point"]


@method(reference="Frankle 2019, arXiv:1803.03635; rewinding: Frankle 2020, arXiv:1912.05671", holds=dense_network)
def imp(
    problem: Problem,
    *,
    sparsity: float = 0.95,
    epochs: int = 10,
    rate: float = 0.2,
    rewind: int = 0,
    scope: str = "global",
    allocation: Allocation = "erk",
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Train, remove the 20% of survivors nearest zero, set the others back to where they were after epoch `rewind`, and repeat.

    epochs: of each round; the last round trains the network that is returned. rate: share that leaves after a round.
    scope: "global" ranks all layers together, "layer" each on its own, towards the counts of `allocation`.
    Cost: 1 + ln(d)/ln(1 - rate) trainings for the density d, the first of the dense network.
    """
    starts_dense("imp", training, "rescale")
    generation = Population(problem, [Mask.full(problem.space)], horizon=epochs, seed=seed, **training)
    last, start = prune_and_rewind(generation, sparsity, rate=rate, rewind=rewind, scope=scope, allocation=allocation)
    ticket = last.ticket()
    ticket.start = {name: value.cpu() for name, value in start[0].items()} if rewind else None
    return ticket


def prune_and_rewind(
    generation: Population,
    sparsity: float,
    *,
    rate: float = 0.2,
    rewind: int = 0,
    scope: str = "global",
    allocation: Allocation = "erk",
) -> tuple[Population, list[dict[str, Tensor]]]:
    """Train every (dense) network of `generation`, prune and rewind, in rounds of its horizon.

    Returns the last round's population, and what each network was set back to.
    Its ledger has all rounds in it. Each round is a new population, so that `engine="auto"` follows the sparsity.
    """
    check_share(rate=rate)
    layerwise = is_layerwise(scope, allocation)
    final = allocate(generation.problem.space, sparsity, allocation if layerwise else "erk")
    start = train_to_rewinding_point(generation, rewind)
    generation.train(generation.horizon - rewind)
    for budget in rounds(generation.problem.prunable, sum(final), rate):
        generation = next_round(generation, budget, start, rewind, final if layerwise else None)
    return generation, start


def train_to_rewinding_point(generation: Population, rewind: int) -> list[dict[str, Tensor]]:
    """Train `rewind` epochs; all values of each network as they are then. Raises `InputError` for what cannot be rewound."""
    if generation.training.drop_rate:
        raise InputError("imp rewinds weights, which drop_rate= would scale again in every round: leave drop_rate out")
    if not is_whole(rewind) or rewind >= generation.horizon:
        raise InputError(f"rewind={rewind!r} is not usable: give whole epochs, fewer than the {generation.horizon} of a round")
    generation.train(rewind)
    return [generation.parameters.row(row) for row in range(len(generation))]


def next_round(
    generation: Population,
    budget: int,
    start: Sequence[Mapping[str, Tensor]],
    rewind: int,
    final: Sequence[int] | None = None,
) -> Population:
    """Prune every network to `budget`, set the survivors to `start`, train a round. The one before is left as it was.

    final: counts of the layers in the last round, for pruning in each layer on its own.
    """
    masks = [_smaller(mask, magnitudes(generation, row), budget, final) for row, mask in enumerate(generation.masks)]
    epochs, training = generation.horizon, generation.training.as_dict()
    pruned = Population(generation.problem, masks, horizon=epochs, seed=generation.seed, weights=start, **training)
    pruned.steps = rewind * pruned.batches.per_epoch  # batches, schedule and history go on from there
    before = [generation.trace.history(individual) for individual in generation.trace.individuals]
    pruned.trace.precede([[row for row in rows if row["epoch"] <= rewind] for rows in before])
    pruned.train(epochs - rewind)
    pruned.ledger = generation.ledger + pruned.ledger
    return pruned


def rounds(prunable: int, budget: int, rate: float) -> list[int]:
    """Survivors after each round: (1 - rate) of those before, the last exactly `budget`."""
    left, survivors = [prunable], float(prunable)
    while left[-1] > budget:
        survivors = max(survivors * (1 - rate), budget)
        if round(survivors) < left[-1]:
            left.append(round(survivors))
    return left[1:]


def _smaller(mask: Mask, scores: Sequence[Floats], budget: int, final: Sequence[int] | None) -> Mask:
    if final is None:
        return keep_top(mask, scores, budget)
    sizes, end = mask.space.sizes, sum(final)
    left = (budget - end) / (mask.space.prunable - end)  # share of what is to leave that is still there
    return keep_counts(mask, scores, [n + round((size - n) * left) for size, n in zip(sizes, final, strict=True)])
