"""K-starts and dissipating gradients together, in both orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evoprune.errors import InputError
from evoprune.evolution.assess import initial_population
from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from evoprune.methods import METHODS
from evoprune.methods.combined import masks_within
from evoprune.methods.dissipation import RULES, check, geometric
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.tiny import mlp

OPTIONS: dict[str, Any] = {"sparsity": 0.8, "k": 4, "epochs": 6, "batch_size": 18, "engine": "loop"}


def combined(**options: Any) -> Ticket:
    return METHODS["combined"](mlp(), **{**OPTIONS, **options})


def generation(sparsity: float, k: int) -> Population:
    individuals = initial_population(mlp().space, k, sparsity=sparsity)
    return Population(mlp(), individuals, horizon=6, batch_size=18, engine="loop")


@pytest.mark.parametrize("selection_epochs", [1, 2, 3, 4])
def test_together_each_dissipates_and_the_fittest_goes_on(selection_epochs: int) -> None:
    everyone, budget, winner = generation(0.4, 4), mlp().space.budget(0.8), None
    schedule = geometric(everyone.masks[0].count, budget, 3)
    for epoch in range(1, 7):
        everyone.train(1)
        if epoch <= 3:
            check(everyone, RULES["rank"], everyone.parameters.initial, budget=schedule[epoch - 1])
            assert {mask.count for mask in everyone.masks} == {schedule[epoch - 1]}
        if epoch == selection_epochs:
            winner = int(np.argmin(everyone.measure().trace.last("val_loss")))
    assert winner is not None
    ticket = combined(selection_epochs=selection_epochs, checks=3, start_sparsity=0.4, criterion="loss")
    assert ticket.mask == everyone.masks[winner]
    for name, value in everyone.parameters.row(winner).items():
        assert torch.equal(ticket.weights[name], value)


def test_dissipate_first_then_masks_compete_among_the_survivors() -> None:
    one, budget = generation(0.4, 1), mlp().space.budget(0.8)
    for survivors in geometric(one.masks[0].count, 2 * budget, 2):
        one.train(1)
        check(one, RULES["rank"], one.parameters.initial, budget=survivors)
    masks = masks_within(one.masks[0], 4, budget, 0)
    assert len({mask.hash for mask in masks}) == 4
    assert all(mask <= one.masks[0] and mask.count == budget for mask in masks)
    one.branch([0] * 4, masks).train(2)
    winner = int(np.argmin(one.trace.last("val_loss")))
    ticket = combined(order="dissipate-first", checks=2, start_sparsity=0.4, criterion="loss", selection_epochs=2)
    assert ticket.mask == masks[winner]
    assert ticket.history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("order", ["together", "dissipate-first"])
@pytest.mark.parametrize("rule", ["rank", "rank_relative", "gradient"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_counts_are_exact_for_every_rule(order: str, rule: str, scope: str) -> None:
    ticket = combined(order=order, rule=rule, scope=scope, reference="init" if rule == "gradient" else "epoch")
    assert ticket.mask.count == mlp().space.budget(0.8)
    assert min(ticket.mask.counts) >= 1


def test_one_start_that_turns_nan_does_not_end_the_others() -> None:
    everyone = generation(0.4, 4)
    with torch.no_grad():
        everyone.parameters.stacked["1.bias"][2] = float("nan")
    everyone.train(1)
    check(everyone, RULES["rank"], everyone.parameters.initial, budget=40)
    assert [mask.count for mask in everyone.masks] == [40] * 4
    assert everyone.trace.failed.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": "fraction"}, {"selection_epochs": 0}, {"selection_epochs": 0, "criterion": "live_paths"},
        {"selection_epochs": 6}, {"checks": 6}, {"order": "first"}, {"k": 0}, {"order": "dissipate-first", "k": 0},
        {"pool": 0.5}, {"pool": "many"}, {"rule": "gradient", "reference": "epoch"}, {"start_sparsity": 0.9},
        {"order": "dissipate-first", "checks": 4, "selection_epochs": 2},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        combined(**wrong)
    assert "\n" not in str(caught.value)


def test_masks_within_keep_the_proportions_of_layers() -> None:
    space = MaskSpace(("a", "b"), ((100,), (40,)))
    masks = masks_within(Mask(space, [range(60), range(20)]), 3, 40, 0)
    assert [mask.counts for mask in masks] == [(30, 10)] * 3
