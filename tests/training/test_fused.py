"""The sparse engine's own training step does what the loop, the loss and the optimizer of torch do one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional

from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_masks
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from tests.tiny import Residual, Tied, dropped, images, mlp, own, small_conv, table
from tests.training.test_sparse_agrees import conv4, masks_of, resnet

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS: dict[str, Callable[[], Problem]] = {
    "lenet-300-100": lambda: Problem("lenet-300-100", table((784,), 10, 44)),
    "autoencoder": lambda: Problem("autoencoder", table((1, 28, 28), None, 44)),
    "lenet5": lambda: images("lenet5"),
    "conv4": lambda: own(conv4, (3, 8, 8)),
    "resnet20": lambda: own(resnet, (3, 8, 8)),
}
SGD = {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
ADAMW = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-2, "nesterov": False}


def population(problem: Problem, engine: str = "sparse", masks: Sequence[Mask] | None = None, **options: Any) -> Population:
    options = {"horizon": 3, "batch_size": 10, "dtype": "float64", **SGD, **options}
    return Population(problem, masks or masks_of(problem.space, 3, 0.3), engine=engine, device="cpu", **options)


def fused(generation: Population) -> bool:
    return generation._fused() is not None


def numbers(generation: Population) -> dict[str, torch.Tensor]:
    """Everything that training changed."""
    parameters = generation.parameters
    state = {
        f"momentum {name}": generation.optimizer.state[leaf]["momentum_buffer"]
        for name, leaf in parameters.leaves().items()
        if "momentum_buffer" in generation.optimizer.state[leaf]
    }
    sums = {f"{kind} {name}": value for kind, own in generation.trace.sums.items() for name, value in own.items()}
    traced = {column: torch.from_numpy(generation.trace.last(column)) for column in ("train_loss", "val_loss")}
    values = {name: leaf.detach() for name, leaf in parameters.leaves().items()}
    return {**values, **parameters.buffers, **state, **sums, **traced}


def assert_close(left: Population, right: Population, tolerance: float = 1e-8) -> None:
    expected, found = numbers(left), numbers(right)
    assert set(expected) == set(found)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert all(not leaf.grad.any() for leaf in right.parameters.leaves().values() if leaf.grad is not None)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_three_epochs_agree_with_the_loop(model: str, options: dict[str, Any]) -> None:
    problem = MODELS[model]()
    for density in (0.5, 0.05, 0.001) if options is SGD else (0.1,):
        masks = masks_of(problem.space, 3, density)  # uneven, with an empty layer and an empty row
        loop, sparse = (population(problem, engine, masks, **options) for engine in ("loop", "sparse"))
        assert fused(sparse) == (options is SGD)
        for generation in (loop, sparse):
            generation.train(2).train(1, record=("grad", "grad_path"))
        assert_close(loop, sparse)


@pytest.mark.parametrize("build", [Residual, Tied, small_conv], ids=lambda build: build.__name__)
@pytest.mark.parametrize("options", [{"nesterov": False}, {"nesterov": False, "momentum": 0.0}, {"weight_decay": 0.0}])
def test_every_form_of_sgd(build: Callable[[], Any], options: dict[str, Any]) -> None:
    problem = own(build, (1, 8, 8) if build is small_conv else (6,))
    masks = random_masks(problem.space, 3, sparsity=0.3)  # no unit is constant: behind batch norm the sign of its 0 is chance
    loop, sparse = (population(problem, engine, masks, batch_size=18, **options).train(3) for engine in ("loop", "sparse"))
    assert fused(sparse)
    assert_close(loop, sparse)


def test_batches_larger_than_a_block_and_own_targets() -> None:
    arrays = table((12,), 4, 700)
    values = {name: value[:, :5] for name, value in arrays.items() if name.startswith("x")}
    regression = {**arrays, "y_train": values["x_train"] ** 2, "y_test": values["x_test"] ** 2}
    for data, options in ((arrays, {}), (regression, {"loss": "mse"})):
        problem = Problem("mlp:9-8", data, **options) if not options else _regression(data)
        loop, sparse = (population(problem, engine, batch_size=300, horizon=2).train(2) for engine in ("loop", "sparse"))
        assert fused(sparse)
        assert_close(loop, sparse)


def test_the_survivors_of_a_chunk_are_laid_out_once() -> None:
    generation = population(mlp(), masks=masks_of(mlp().space, 2, 0.5)).train(1)
    [chunk], step = generation._chunks, generation._fused()
    assert chunk.structures
    assert step.chunk.structures is chunk.structures  # of the step, of evaluation and of dense gradients
    generation.grow(masks_of(mlp().space, 2, 0.5, seed=3))
    assert not generation._chunks[0].structures


def test_norms_over_several_blocks() -> None:
    problem = Problem(resnet(), table((3, 8, 8), 3, 120))
    loop, sparse = (population(problem, engine, batch_size=40) for engine in ("loop", "sparse"))
    assert fused(sparse)
    assert_close(loop.train(3), sparse.train(3))


def _regression(data: dict[str, Any]) -> Problem:
    return Problem(torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 5)), data, loss="mse")


def test_changes_of_layout_and_plain_steps_between() -> None:
    problem = mlp()
    results = []
    for engine in ("loop", "sparse"):
        generation = population(problem, engine, masks_of(problem.space, 4, 0.6), horizon=9)
        generation.train(1).select([2, 0]).train(1)
        smaller = [mask & other for mask, other in zip(generation.masks, masks_of(problem.space, 2, 0.7, seed=5), strict=True)]
        generation.prune(smaller).train(1)
        generation.grow(masks_of(problem.space, 2, 0.5, seed=9)).train(1).train(1, gradients=False).train(1)
        generation.rewind().train(1)
        other = population(problem, engine, generation.masks, horizon=9).restore(generation.state()).train(1)
        results.append(other)
    assert_close(*results)


@pytest.mark.parametrize("model", ["lenet-300-100", "lenet5", "resnet20"])
def test_company_and_threads_leave_every_bit(model: str) -> None:
    problem = MODELS[model]()
    masks = masks_of(problem.space, 5, 0.2)
    alone = population(problem, masks=[masks[3]], dtype="float32").train(2)
    torch.set_num_threads(2)
    together = population(problem, masks=masks, dtype="float32").train(2).select([3])
    first, second = numbers(alone), numbers(together)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_nan_stays_with_its_individual() -> None:
    problem = MODELS["lenet5"]()
    masks = masks_of(problem.space, 3, 0.2)
    good, bad = (population(problem, masks=masks, dtype="float32") for _ in range(2))
    next(iter(bad.parameters.stacked.values())).detach()[1] = float("nan")
    good.train(2)
    bad.train(2)
    assert list(bad.trace.failed) == [False, True, False]
    first, second = numbers(good.select([0, 2])), numbers(bad.select([0, 2]))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_large_and_infinite_outputs() -> None:
    """Softmax must neither overflow nor lose the loss of a confident mistake."""
    for scale in (1e3, 1e30):
        problem = mlp()
        loop, sparse = (population(problem, engine, dtype="float32", lr=0.0) for engine in ("loop", "sparse"))
        for generation in (loop, sparse):
            for leaf in generation.parameters.leaves().values():
                leaf.detach().mul_(scale)
            generation.train(1)
        torch.testing.assert_close(
            torch.from_numpy(loop.trace.last("train_loss")), torch.from_numpy(sparse.trace.last("train_loss")), rtol=1e-5, atol=0,
            equal_nan=True,
        )  # fmt: skip


def test_what_has_no_kernel_trains_step_by_step() -> None:
    assert not fused(population(own(dropped)))
    assert not fused(population(mlp(), optimizer="adam", nesterov=False))
    assert not fused(population(own(Residual, loss=functional.cross_entropy)))


@pytest.mark.parametrize("engine", ["loop", "sparse"])
def test_a_copy_goes_on_by_itself(engine: str) -> None:
    generation = population(mlp(), engine).train(1, record=("grad",))
    twin = copy.deepcopy(generation)
    assert all(torch.equal(value, numbers(twin)[name]) for name, value in numbers(generation).items())
    before = {name: value.clone() for name, value in numbers(generation).items()}
    twin.train(1)
    assert all(torch.equal(value, numbers(generation)[name]) for name, value in before.items())
    generation.train(1)
    assert all(torch.equal(value, numbers(twin)[name]) for name, value in numbers(generation).items())
