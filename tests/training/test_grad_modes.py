"""What is made where gradients are off can be trained there, and later outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from evoprune.masks.sampling import random_mask, random_masks
from evoprune.methods.scorers import SCORERS
from evoprune.problems.problem import Problem
from evoprune.training.compact import compact
from evoprune.training.initializers.hessian import hessian_norms
from evoprune.training.population import Population
from tests.tiny import Residual, mlp, own, table

MODES = [torch.no_grad, torch.inference_mode]
Mode = Callable[[], Any]


def start(problem: Problem, engine: str = "loop") -> Population:
    return Population(problem, random_masks(problem.space, 3, sparsity=0.5), horizon=4, batch_size=20, engine=engine)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", ["mlp:10-8", Residual, Residual()])
def test_a_problem_that_is_made_without_gradients_is_the_same(mode: Mode, model: Any) -> None:
    torch.manual_seed(0)
    with mode():
        problem = Problem(model, table())
        other = problem.with_seed(1).with_shuffled_labels(2)
        module, weights = problem.module(), problem.initial_weights()
    assert problem.fingerprint == Problem(model, table()).fingerprint
    start(other).train(1)
    Population(problem, [random_mask(problem.space, sparsity=0.5)], horizon=1, weights=[weights], batch_size=20).train(1)
    module(problem.split("train").inputs).sum().backward()


def test_data_and_a_module_from_inference_mode_are_trained() -> None:
    with torch.inference_mode():
        module, arrays = Residual(), {name: value.clone() for name, value in table().items()}
    start(Problem(module, arrays)).train(1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
def test_a_population_goes_in_and_out_of_modes_on_the_same_path(mode: Mode, engine: str) -> None:
    problem = own(Residual)

    def steps(generation: Population, inside: Mode) -> Population:
        with inside():
            generation.train(1).evaluate()
        generation.train(1)
        with inside():
            generation.select([0, 2])
            generation.prune([random_mask(problem.space, sparsity=0.7) & mask for mask in generation.masks])
            generation.branch([1, 0], generation.masks[::-1]).settle()
        generation.evaluate("train")
        generation.train(1)
        with inside():
            generation.restore(generation.state()).rewind()
        return generation.train(1)

    with mode():
        generation = start(problem, engine)
    found, usual = steps(generation, mode), steps(start(problem, engine), torch.enable_grad)
    for row in range(2):
        wanted = usual.parameters.row(row)
        assert all(torch.equal(value, wanted[name]) for name, value in found.parameters.row(row).items())


@pytest.mark.parametrize("mode", MODES)
def test_modules_of_a_ticket_can_be_trained(mode: Mode) -> None:
    ticket = start(own(Residual)).train(1).ticket(0)
    with mode():
        modules = [ticket.module(), ticket.compact(), compact(ticket.module(), (6,))]
    for module in modules:
        module(torch.randn(4, 6)).sum().backward()
        assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_ticket_is_applied_to_a_module_from_inference_mode() -> None:
    ticket = start(own(Residual)).train(1).ticket(0)
    with torch.inference_mode():
        module: nn.Module = ticket.apply(Residual())
    assert torch.equal(module.get_parameter("mid.weight"), ticket.weights["mid.weight"])


@pytest.mark.parametrize("mode", MODES)
def test_masks_and_norms_that_take_gradients_are_the_same(mode: Mode) -> None:
    masks, norms = {name: scorer(mlp(), sparsity=0.5, steps=2) for name, scorer in SCORERS.items()}, hessian_norms(mlp())
    with mode():
        assert {name: scorer(mlp(), sparsity=0.5, steps=2) for name, scorer in SCORERS.items()} == masks
        assert hessian_norms(mlp()) == norms
