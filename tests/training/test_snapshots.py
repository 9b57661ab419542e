"""What was handed out stays as it was, whatever happens afterwards."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.errors import InputError
from evoprune.testing import tiny_problem


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(100, 6)).astype(np.float32), np.arange(100) % 3
    return {"x_train": inputs[:80], "y_train": labels[:80], "x_test": inputs[80:], "y_test": labels[80:]}


def test_a_ticket_does_not_change_when_its_population_goes_on() -> None:
    problem = tiny_problem()
    generation = ep.Population(problem, [ep.random_mask(problem.space, sparsity=0.5)], horizon=3).train(1)
    ticket = generation.ticket()
    before = ticket.ledger.samples, ticket.history.to_dict()
    generation.train(2)
    assert (ticket.ledger.samples, ticket.history.to_dict()) == before


def test_a_module_that_changes_later_leaves_every_seed_of_its_problem_alone() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    problem = ep.Problem(module, arrays())
    with torch.no_grad():
        module[0].weight.zero_()  # type: ignore[union-attr, operator]
    assert problem.with_seed(1).initial_weights()["0.weight"].abs().sum() > 0


def test_freezing_a_parameter_makes_another_problem() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    trained = ep.Problem(module, arrays()).fingerprint
    module[0].bias.requires_grad_(False)  # type: ignore[union-attr, operator]
    assert ep.Problem(module, arrays()).fingerprint != trained


def test_a_module_in_torchs_pruned_form_is_copied_after_a_forward_pass_too() -> None:
    problem = tiny_problem()
    module = ep.methods["random"](problem, sparsity=0.5, epochs=1).to_torch_prune(problem.module())
    x = torch.randn(4, 6)
    module(x).sum().backward()
    assert torch.equal(copy.deepcopy(module)(x), module(x))


def test_a_weight_tied_to_an_embedding_trains_and_counts_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.out = nn.Embedding(6, 8), nn.Linear(8, 6, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.out(self.embedding(tokens).mean(1))
            return logits

    tokens = np.random.default_rng(0).integers(6, size=(120, 4))
    data = {"x_train": tokens[:90], "y_train": tokens[:90, 0], "x_test": tokens[90:], "y_test": tokens[90:, 0]}
    ticket = ep.methods["random"](ep.Problem(Tied(), data), sparsity=0.25, epochs=1)
    assert ticket.mask.counts == (36,)


def test_methods_queue_no_seed_for_gpus_that_are_not_in_use() -> None:
    if torch.cuda.is_available():
        pytest.skip("the queue is used without a GPU only")
    torch.manual_seed(5)
    before = list(torch.cuda._lazy_seed_tracker.get_calls())
    ep.methods["random"](tiny_problem(), sparsity=0.5, epochs=1)
    assert len(torch.cuda._lazy_seed_tracker.get_calls()) == len(before)


def test_rewinding_puts_running_statistics_back() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    problem = ep.Problem(module, arrays())
    generation = ep.Population(problem, [ep.random_mask(problem.space, sparsity=0.5)], horizon=2).train(1).rewind()
    assert torch.equal(generation.parameters.row(0)["1.running_mean"], torch.zeros(8))


def test_rewinding_puts_each_networks_own_statistics_back_wherever_it_moved() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    problem = ep.Problem(module, arrays())
    masks: list[ep.Mask] = [ep.random_mask(problem.space, sparsity=0.5, seed=seed) for seed in range(3)]
    options: dict[str, Any] = {"horizon": 5, "batch_size": 20}
    tickets = [ep.Population(problem, [mask], **options).train(epoch).ticket() for epoch, mask in enumerate(masks)]
    generation = ep.Population(problem, masks, weights=[ticket.weights for ticket in tickets], **options)
    generation.train(1).select([2, 1]).train(1).branch([1, 0, 0], [masks[1], masks[2], masks[2]]).train(1)
    for again in (generation, copy.deepcopy(generation)):
        again.rewind()
        for row, ticket in enumerate([tickets[1], tickets[2], tickets[2]]):
            for name, value in again.parameters.row(row).items():
                assert torch.equal(value, ticket.weights[name]), name
            assert set(again.ticket(row).initial) == {name for name, _ in module.named_parameters()}


def test_the_ledger_counts_the_networks_that_were_tried() -> None:
    assert ep.kstarts(tiny_problem(), sparsity=0.5, k=4, epochs=4).ledger.configurations == 4
    shared = ep.kstarts(tiny_problem(), sparsity=0.5, k=4, epochs=4, form="shared")
    assert shared.ledger.configurations == 5, "the full network and those that branch off from it"
    first = ep.combined(tiny_problem(), sparsity=0.5, k=4, epochs=4, selection_epochs=1, order="dissipate-first")
    assert first.ledger.configurations == 5


@pytest.mark.parametrize("allocation", [5, None, ["a", "b", "c"], [40.9, 30.9, 12.9]])
def test_an_allocation_of_another_kind_is_refused(allocation: object) -> None:
    with pytest.raises(InputError, match="allocation"):
        ep.random_mask(tiny_problem().space, sparsity=0.5, allocation=allocation)  # type: ignore[arg-type]


def test_booleans_do_not_select_rows() -> None:
    problem = tiny_problem()
    generation = ep.Population(problem, [ep.random_mask(problem.space, sparsity=0.5, seed=seed) for seed in (0, 1)], horizon=1)
    with pytest.raises(InputError, match="positions"):
        generation.select(np.array([True, False]))  # type: ignore[arg-type]
