"""On a device that is not the CPU (see tests/simulated.py): run by test_simulated.py in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from evoprune.masks.sampling import random_masks
from evoprune.methods import METHODS
from evoprune.problems.problem import Problem
from evoprune.training.options import CAPTURABLE, OPTIMIZERS
from evoprune.training.population import Population
from tests.simulated import reads
from tests.tiny import Residual, dropped, mlp, own, small_conv, table

MODELS: dict[str, Callable[[], Problem]] = {
    "mlp": mlp,
    "residual": lambda: own(Residual),
    "conv and norm": lambda: own(small_conv, (1, 8, 8)),
}


def population(problem: Problem, device: str, **options: Any) -> Population:
    options = {"horizon": 3, "batch_size": 8, "lr": 0.02, "engine": "dense", **options}
    return Population(problem, random_masks(problem.space, 3, sparsity=0.7), device=device, **options)


def assert_close(found: Population, expected: Population, *, atol: float) -> None:
    for name, value in expected.parameters.leaves().items():
        torch.testing.assert_close(found.parameters.leaves()[name].detach().cpu(), value.detach(), rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("engine", ["loop", "dense"])
@pytest.mark.parametrize("model", MODELS)
def test_an_engine_trains_what_the_loop_on_the_cpu_trains(model: str, engine: str) -> None:
    results = []
    for device, kind in (("cpu", "loop"), ("sim", engine)):
        generation = population(MODELS[model](), device, engine=kind, dtype="float64").train(1, record=("grad", "grad_path"))
        results.append(generation.select([2, 0]).train(1))
    assert_close(results[1], results[0], atol=1e-7)
    assert results[1].trace.rows()[-1]["val_loss"] == pytest.approx(results[0].trace.rows()[-1]["val_loss"], abs=1e-6)
    assert results[1].trace.total("weight") == pytest.approx(results[0].trace.total("weight"), rel=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_recorded_step_with_every_optimizer_and_no_wait_in_it(optimizer: str) -> None:
    """The schedule, the momenta that follow a selection, and a restored state included.

    Rates and step counts on the device are float32, in which RAdam's correction, a difference of numbers near 2000, has 4 digits.
    """
    atol = 1e-3 if optimizer == "radam" else 1e-5
    expected, found = (population(mlp(), device, optimizer=optimizer, dtype="float64") for device in ("cpu", "sim"))
    for generation in (expected, found):
        generation.train(1).select([1, 2]).train_steps(5)
    with reads() as waits:
        found.train_steps(2)
    assert waits == ["send", "send"], "more than the order of the epoch and its rates, before the first of the steps"
    assert found._recorded is not None
    assert found._recorded._replays is not None
    assert (found._recorded._replays[1] is not None) == (optimizer in CAPTURABLE)
    going_on = population(mlp(), "sim", optimizer=optimizer, dtype="float64").select([1, 2]).restore(found.state())
    for generation in (found, going_on):
        assert_close(generation.train_steps(4), expected if generation is going_on else expected.train_steps(6), atol=atol)


def test_a_step_in_which_the_host_waits_is_not_recorded_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def reading(outputs: Tensor, targets: Tensor) -> Tensor:
        scale = float(outputs.detach().abs().max() > 1e6)
        return F.cross_entropy(outputs, targets, reduction="none") * (1 + scale)

    problem = Problem("mlp:10-8", table(), loss=reading)
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        found = population(problem, "sim", dtype="float64").train(1)
    assert found._recorded is not None
    assert found._recorded._replays is None
    assert "this step cannot be recorded as a CUDA graph (the host waits for the device in it: item)" in caplog.text
    assert_close(found, population(problem, "cpu", dtype="float64").train(1), atol=1e-7)


@pytest.mark.parametrize("options", [{"drop_rate": 0.3}, {"own_weights": True}, {"rescale": True}, {"init": "eoi"}])
def test_options_that_touch_the_weights(options: dict[str, Any]) -> None:
    expected, found = (population(mlp(), device, dtype="float64", **options).train(1) for device in ("cpu", "sim"))
    assert_close(found.rewind().train(1), expected.rewind().train(1), atol=1e-7)


def test_dropout_and_dense_gradients() -> None:
    problem = own(dropped)
    found = population(problem, "sim").train(1)
    gradients = found.dense_gradient()
    assert all(value.device.type == "sim" and bool(value.isfinite().all()) for value in gradients.values())


SLOW = ("synflow", "iterative_snip", "force")
"""Sixty rounds or more of what `snip` does once."""


@pytest.mark.parametrize("name", [name for name in METHODS if name not in SLOW])
def test_every_method_gives_the_ticket_of_the_cpu(name: str) -> None:
    options: dict[str, Any] = {"epochs": 4, "batch_size": 24, "dtype": "float64"}
    accepted = METHODS[name].__signature__.parameters
    options |= {"sparsity": 0.5} if "sparsity" in accepted else {}
    options |= {"k": 3} if "k" in accepted else {}
    options |= {"mu": 2, "lambda_": 2, "ngen": 1} if name == "evolve" else {}
    expected, found = (METHODS[name](mlp(), device=device, engine="dense", **options) for device in ("cpu", "sim"))
    assert found.mask == expected.mask
    assert found.ledger.samples == expected.ledger.samples
    for parameter, value in expected.weights.items():
        assert found.weights[parameter].device.type == "cpu"
        torch.testing.assert_close(found.weights[parameter], value, rtol=0, atol=1e-6, msg=parameter)
