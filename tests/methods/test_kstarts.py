"""K-starts keeps the fittest of k random masks, and trains it on from where it stands."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evoprune.criteria import CRITERIA
from evoprune.errors import InputError, NotEnoughMemory, UnknownName
from evoprune.evolution.assess import assess, initial_population
from evoprune.evolution.individual import Individual
from evoprune.evolution.tournament import tournament
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_masks
from evoprune.methods import METHODS
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.tiny import mlp, table

OPTIONS: dict[str, Any] = {"sparsity": 0.7, "epochs": 4, "batch_size": 18, "engine": "loop"}


def kstarts(problem: Problem | None = None, **options: Any) -> Ticket:
    return METHODS["kstarts"](problem or mlp(), **{**OPTIONS, "k": 6, **options})


def generation(k: int = 6) -> Population:
    return Population(mlp(), random_masks(mlp().space, k, sparsity=0.7), horizon=4, batch_size=18, engine="loop")


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_winner_is_the_best_by_the_criterion_after_the_selection_epochs(criterion: str) -> None:
    rule, everyone = CRITERIA[criterion], generation().train(2, record=CRITERIA[criterion].needs)
    values = rule(everyone.trace, everyone.masks)
    best = int(np.argmin(values) if criterion == "loss" else np.argmax(values))
    assert kstarts(criterion=criterion).mask == everyone.masks[best]


def test_a_selection_never_favours_the_worst_because_the_loss_is_minimised() -> None:
    losses = generation().train(2).trace.last("val_loss")
    chosen = [mask.hash for mask in generation().masks].index(kstarts(criterion="loss").mask.hash)
    assert losses[chosen] == losses.min() < losses.max()


def test_the_winner_trains_on_without_retraining() -> None:
    ticket = kstarts(criterion="loss")
    whole = generation().train(4)
    row = whole.masks.index(ticket.mask)
    for name, value in whole.parameters.row(row).items():
        assert torch.equal(ticket.weights[name], value)
    assert ticket.history["epoch"].tolist() == [1, 2, 3, 4]


def test_the_ledger_counts_the_losers() -> None:
    ticket, survivors = kstarts(selection_epochs=1), mlp().space.budget(0.7)
    assert ticket.ledger.samples == 72 * (6 + 3)
    assert ticket.ledger.survivor_updates == 3 * survivors * ticket.ledger.samples


def test_start_i_does_not_depend_on_k() -> None:
    assert initial_population(mlp().space, 3, sparsity=0.7) == initial_population(mlp().space, 9, sparsity=0.7)[:3]


def test_more_masks_than_memory_holds_are_refused_before_the_first_is_drawn() -> None:
    """On any device: masks are made on the CPU, and drawing them until memory ends would take hours."""
    with pytest.raises(NotEnoughMemory, match=r"10,000,000,000 networks need at least .* are free: train fewer") as caught:
        kstarts(mlp(), k=10**10, epochs=4)
    assert "\n" not in str(caught.value)


def test_shared_starts_on_all_masks_by_weight_is_magnitude_pruning() -> None:
    """Oracle: score every mask of the counts on one network, and the best keeps the largest weights of each layer."""
    problem = Problem("mlp:2", table((3,), 2))
    counts = (3, 2)
    layers = [list(combinations(range(size), count)) for size, count in zip(problem.space.sizes, counts, strict=True)]
    masks = [Mask(problem.space, [a, b]) for a in layers[0] for b in layers[1]]
    assert len(masks) == 20 * 6
    for epochs in (0, 2):
        shared = Population(problem, [Mask.full(problem.space)], horizon=3, engine="loop", batch_size=18).train(epochs)
        weights = shared.parameters.row(0)
        shared.branch([0] * len(masks), masks)
        individuals = [Individual(mask) for mask in masks]
        winner = tournament(shared, individuals, (max(epochs, 1),), "weight") if epochs else None
        if winner is None:
            assess(individuals, shared.trace, "weight")
            winner = max(individuals, key=lambda one: one.fitness.wvalues)
        for name, own, count in zip(problem.space.names, winner.mask.survivors, counts, strict=True):
            largest = weights[name].abs().flatten().argsort(descending=True)[:count]
            assert set(own.tolist()) == set(largest.tolist())


def test_the_shared_form_scores_masks_on_one_full_network() -> None:
    full = Population(mlp(), [Mask.full(mlp().space)], horizon=4, batch_size=18, engine="loop").train(2, record=("grad",))
    masks = random_masks(mlp().space, 6, sparsity=0.7)
    scores = [
        sum(
            float(full.trace.per_weight("grad", name).abs()[torch.from_numpy(own.copy())].double().sum())
            for name, own in zip(mask.space.names, mask.survivors, strict=True)
        )
        for mask in masks
    ]
    ticket = kstarts(form="shared")
    assert ticket.mask == masks[int(np.argmax(scores))]
    assert ticket.history["survivors"].tolist() == [164, ticket.mask.count, ticket.mask.count, ticket.mask.count]
    assert ticket.ledger.samples == 72 * 4
    assert ticket.ledger.survivor_updates == 3 * 72 * 2 * (164 + ticket.mask.count)


def test_best_of_k_by_weight_gains_what_order_statistics_say() -> None:
    """Oracle: E[max of k normals] · CV(abs(w)) · sqrt((1 - d) / n) over the mean, at epoch 0."""
    module = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    for parameter in module.parameters():  # one common scale, as the formula assumes: He-normal layers have different ones
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    problem = Problem(module, table((784,), 10))
    k, rounds, sparsity = 10, 60, 0.95
    masks = random_masks(problem.space, k * rounds, sparsity=sparsity, allocation="uniform")
    starts = Population(problem, masks, horizon=1, engine="loop")
    totals = CRITERIA["weight"](starts.trace, masks)
    n, spread = problem.space.budget(sparsity), np.sqrt(np.pi / 2 - 1)  # CV of abs of a normal: .7555
    expected_sd = spread * np.sqrt(sparsity / n)
    assert expected_sd == pytest.approx(0.0064, abs=1e-4)
    assert totals.std() / totals.mean() == pytest.approx(expected_sd, rel=0.12)
    gains = totals.reshape(rounds, k).max(1) / totals.mean() - 1
    assert gains.mean() == pytest.approx(1.5388 * expected_sd, rel=0.12)  # about +1.0%


@pytest.mark.parametrize("poisoned", ["weight", "loss"])
def test_failed_rows_never_win_whatever_the_direction(poisoned: str) -> None:
    individuals = initial_population(mlp().space, 6, sparsity=0.7)
    everyone = Population(mlp(), individuals, horizon=4, batch_size=18, engine="loop")
    with torch.no_grad():
        for row in (0, 1, 2, 4, 5):
            everyone.parameters.stacked["1.bias"][row] = float("inf")
    winner = tournament(everyone, individuals, (1,), poisoned)
    assert winner is individuals[3]
    assert [one.failed for one in individuals] == [True, True, True, False, True, True]
    assert all(one.fitness < winner.fitness for one in individuals if one.failed)
    assert everyone.ticket().mask == individuals[3].mask


def test_rungs_halve_the_field() -> None:
    individuals = initial_population(mlp().space, 8, sparsity=0.7)
    everyone = Population(mlp(), individuals, horizon=4, batch_size=18, engine="loop")
    winner = tournament(everyone, individuals, (1, 2, 3), "loss")
    frame = everyone.trace.frame()
    assert [int((frame["epoch"] == epoch).sum()) for epoch in (1, 2, 3)] == [8, 4, 2]
    for epoch, keep in ((1, 4), (2, 2), (3, 1)):
        alive = frame[frame["epoch"] == epoch].nsmallest(keep, "val_loss")["individual"]
        later = [individuals.index(winner)] if epoch == 3 else frame[frame["epoch"] == epoch + 1]["individual"]
        assert set(alive) == set(later)
    assert kstarts(k=8, rungs=(1, 2, 3), criterion="loss").mask == winner.mask
    assert kstarts(k=8, rungs=(1, 2, 3), criterion="loss").ledger.samples == 72 * (8 + 4 + 2 + 1)


@pytest.mark.parametrize("form", ["independent", "shared"])
@pytest.mark.parametrize("criterion", ["live_paths", "random"])
def test_criteria_without_training_can_choose_at_the_start(criterion: str, form: str) -> None:
    ticket = kstarts(criterion=criterion, selection_epochs=0, form=form)
    assert ticket.history["epoch"].tolist() == [1, 2, 3, 4]
    assert ticket.mask.count == mlp().space.budget(0.7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"selection_epochs": 4}, {"selection_epochs": 0}, {"selection_epochs": 1.5}, {"epochs": 1, "selection_epochs": 1},
        {"rungs": (2, 1)}, {"rungs": (1, 9)}, {"rungs": (1, 1)}, {"eta": 1, "rungs": (1, 2)}, {"k": 0}, {"k": 2.5},
        {"rungs": 2},
        {"form": "shared", "rescale": True}, {"form": "shared", "own_weights": True},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        kstarts(**wrong)
    assert "\n" not in str(caught.value)


def test_an_unknown_criterion_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'grad'"):
        kstarts(criterion="gradd")


def test_accuracy_cannot_choose_among_autoencoders() -> None:
    with pytest.raises(InputError, match="criterion='loss'"):
        kstarts(Problem("autoencoder", table((6,), None)), criterion="accuracy")
