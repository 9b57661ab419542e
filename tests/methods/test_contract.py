"""Every registered method keeps the contract; a new one is covered by being registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from evoprune.errors import InputError
from evoprune.masks.sampling import random_mask
from evoprune.methods import METHODS, Method
from evoprune.methods.scorers import SCORERS
from evoprune.problems.problem import Problem
from evoprune.testing import SMALL, contract_test, tiny_problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.methods.test_rivals import RIVALS
from tests.methods.test_scorers import SIX
from tests.tiny import Residual, default_dtype, own, table


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name: str) -> None:
    contract_test(name)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].sparse and name not in {*SCORERS, *RIVALS}])
def test_every_method_meets_its_count_on_six_models(name: str) -> None:
    """Beside scorers and rivals, whose own tests say it."""
    for model, data in SIX.items():
        problem = Problem(model, data)
        small = {option: value for option, value in SMALL.items() if option in METHODS[name].options}
        ticket = METHODS[name](problem, sparsity=0.9, epochs=3, batch_size=20, lr=0.001, engine="loop", device="cpu", **small)
        assert ticket.mask.count == problem.space.budget(0.9), model
        assert min(ticket.mask.counts) >= 1, model


@pytest.mark.parametrize("name", ["random", "kstarts", "dissipating", "combined", "dropout"])
def test_core_methods_keep_the_contract_on_a_users_module_with_batch_norm(name: str) -> None:
    contract_test(name, own(Residual), sparsity=0.6)


@pytest.mark.parametrize("setting", [lambda: default_dtype(torch.float64), torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("random", {"init": "eoi"}),
        ("random", {"init": "hessian"}),
        ("random", {"own_weights": True}),
        ("dropout", {}),
        ("rigl", {}),
    ]
    + [(name, {}) for name in SCORERS],
)
def test_what_the_process_has_set_changes_no_result(name: str, options: dict[str, Any], setting: Callable[[], Any]) -> None:
    problem = Problem(Residual, table())
    small = {option: value for option, value in SMALL.items() if option in METHODS[name].options}
    asked = {"sparsity": 0.6, "epochs": 2, "batch_size": 20, "engine": "loop", "device": "cpu", **small, **options}
    usual = METHODS[name](problem, **asked)
    with setting():
        ticket = METHODS[name](problem, **asked)
    assert ticket.mask == usual.mask
    assert all(torch.equal(ticket.weights[key], value) for key, value in usual.weights.items())


def honest(problem: Problem, *, sparsity: float = 0.95, epochs: int = 10, seed: int = 0, **training: Any) -> Ticket:
    """A method that keeps the contract."""
    mask = random_mask(problem.space, sparsity=sparsity, seed=seed)
    return Population(problem, [mask], horizon=epochs, seed=seed, **training).train(epochs).ticket()


def drifts(problem: Problem, *, sparsity: float = 0.95, **options: Any) -> Ticket:
    return honest(problem, sparsity=sparsity - 0.02, **options)


def peeks(problem: Problem, **options: Any) -> Ticket:
    ticket = honest(problem, **options)
    ticket.test()
    return ticket


def forgets(problem: Problem, *, seed: int = 0, **options: Any) -> Ticket:
    return honest(problem, seed=0, **options)


def saves(problem: Problem, *, epochs: int = 10, **options: Any) -> Ticket:
    return honest(problem, epochs=max(1, epochs - 1), **options)


def cheats(problem: Problem, **options: Any) -> Ticket:
    ticket = honest(problem, **options)
    ticket.ledger.samples = 1
    return ticket


def revives(problem: Problem, **options: Any) -> Ticket:
    ticket = honest(problem, **options)
    next(iter(ticket.weights.values())).fill_(1.0)
    return ticket


def test_an_honest_method_passes() -> None:
    contract_test(Method("honest", honest, ""))


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (drifts, "survivors obtained"),
        (peeks, "test split was opened"),
        (forgets, "another seed gives the same"),
        (saves, "history has the epochs"),
        (cheats, "the ledger counts"),
        (revives, "pruned weights"),
    ],
)
def test_each_breach_is_found_and_named(broken: Callable[..., Ticket], complaint: str) -> None:
    with pytest.raises((AssertionError, InputError), match=complaint):
        contract_test(Method(broken.__name__, broken, ""))


def test_a_method_that_moves_a_global_generator_is_found() -> None:
    class Loud(Method):
        def __call__(self, problem: Problem, **options: Any) -> Ticket:
            torch.rand(1)
            return super().__call__(problem, **options)

    with pytest.raises(AssertionError, match="global generator of torch"):
        contract_test(Loud("loud", honest, ""))


def test_a_method_that_listens_to_a_global_generator_is_found() -> None:
    class Listening(Method):
        def __call__(self, problem: Problem, *, seed: int = 0, **options: Any) -> Ticket:
            return super().__call__(problem, seed=seed + torch.initial_seed() % 100 if seed > 0 else seed, **options)

    with pytest.raises(AssertionError, match="same seed gives another"):
        contract_test(Listening("listening", honest, ""))


def test_the_tiny_problem_is_the_same_each_time() -> None:
    assert tiny_problem().fingerprint == tiny_problem().fingerprint
    assert tiny_problem().prunable == 164
