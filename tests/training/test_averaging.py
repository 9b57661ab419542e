"""The mean over the last epochs is that of the values that stood at their ends."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from evoprune.errors import InputError
from evoprune.masks.sampling import random_masks
from evoprune.problems.problem import Problem
from evoprune.training.averaging import train_averaged
from evoprune.training.population import Population
from tests.tiny import Residual, mlp, own


def population(problem: Problem | None = None, k: int = 2, **options: object) -> Population:
    problem = problem or mlp()
    masks = random_masks(problem.space, k, sparsity=0.7)
    return Population(problem, masks, **{"horizon": 5, "batch_size": 20, "engine": "loop", **options})


@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
def test_it_is_the_mean_of_the_values_at_the_ends_of_the_epochs(engine: str) -> None:
    averaged = train_averaged(population(engine=engine).train(2), 3)
    twin, seen = population(engine=engine).train(2), []
    for _ in range(3):
        twin.train(1)
        seen.append({name: leaf.detach().double().clone() for name, leaf in twin.parameters.leaves().items()})
    assert averaged.epoch == twin.epoch == 5
    assert averaged.masks == twin.masks
    for name, leaf in averaged.parameters.leaves().items():
        mean = torch.stack([values[name] for values in seen]).mean(0)
        torch.testing.assert_close(leaf.detach().double(), mean, rtol=1e-6, atol=1e-9)
        assert not torch.equal(leaf, twin.parameters.leaves()[name])


def test_one_epoch_is_its_own_mean() -> None:
    averaged, plain = train_averaged(population(), 1), population().train(1)
    assert all(torch.equal(leaf, plain.parameters.leaves()[name]) for name, leaf in averaged.parameters.leaves().items())


def test_trace_and_ticket_are_those_of_the_mean() -> None:
    generation = train_averaged(population(), 4)
    judged = generation.evaluate("validation")
    last = generation.trace.frame().query("epoch == 4")
    assert last["val_loss"].tolist() == judged["loss"].tolist()
    assert generation.ticket(1).val_loss == judged["loss"][1]
    assert len(generation.ticket(0).history) == 4


def test_it_trains_as_many_samples_as_training_does() -> None:
    averaged, plain = train_averaged(population(), 3).ledger, population().train(3).ledger
    assert (averaged.samples, averaged.survivor_updates) == (plain.samples, plain.survivor_updates)


def test_running_statistics_are_those_of_the_mean() -> None:
    """Against the layer's inputs under the averaged weights, over the whole training split."""
    problem = own(Residual)
    generation = train_averaged(population(problem, k=1, lr=0.3, schedule="constant"), 4)
    ticket = generation.ticket()
    module, inputs = ticket.module().double(), []
    module.bn.register_forward_hook(lambda layer, given, output: inputs.append(given[0]))
    module(problem.split("train").inputs.double())
    mean = inputs[0].mean(0)
    stale = population(problem, k=1, lr=0.3, schedule="constant").train(4).ticket().weights["bn.running_mean"].double()
    fresh = ticket.weights["bn.running_mean"].double()
    assert (fresh - mean).abs().max() < 0.25 * (stale - mean).abs().max()
    per_epoch = len(problem.split("train")) // 20
    samples = per_epoch * 20
    other = population(problem, k=1).train(4).ledger.evaluation_samples
    assert generation.ledger.evaluation_samples == other + samples + len(problem.split("validation"))


@pytest.mark.parametrize("engine", ["loop", "dense"])
def test_dropout_drops_others_in_every_batch_that_statistics_are_taken_from(engine: str) -> None:
    """Of a constant that is dropped half of the time or doubled, the mean over 36 batches; of one draw it is 0 or 2."""

    class Dropped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.bn, self.out = torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4, momentum=0.02), torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = torch.nn.functional.dropout(torch.ones(1, 4), 0.5, self.training)
            out: torch.Tensor = self.out(self.bn(0 * self.inp(x) + kept))
            return out

    generation = population(own(Dropped), engine=engine, batch_size=2).settle()
    means = generation.parameters.buffers["bn.running_mean"]
    assert torch.equal(means[0], means[1])
    assert (means[0] > 0.4).all()
    assert (means[0] < 1.6).all()


def test_a_failed_network_does_not_disturb_the_mean_of_another() -> None:
    both, alone = population(), population()
    with torch.no_grad():
        for name in both.parameters.survivors:
            both.parameters.survivors[name][both.parameters.span(name, 0, 1)] = np.nan
    for generation in (both, alone):
        train_averaged(generation, 3)
    assert both.trace.failed.tolist() == [True, False]
    first, second = both.parameters.row(1), alone.parameters.row(1)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_population_goes_on_from_the_mean() -> None:
    generation = train_averaged(population(), 2)
    start = deepcopy(generation)
    assert generation.train(1).epoch == 3
    moved = [not torch.equal(leaf, start.parameters.leaves()[name]) for name, leaf in generation.parameters.leaves().items()]
    assert all(moved)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True, 6])
def test_bad_epochs_are_refused(epochs: int) -> None:
    with pytest.raises(InputError, match="epochs"):
        train_averaged(population(), epochs)
