"""The sparse engine's own evaluation says what the loop and the losses of torch say."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evoprune.problems.problem import Problem
from evoprune.training.engines import FusedEvaluation
from evoprune.training.population import Population
from tests.tiny import Always, Residual, dropped, global_state, mlp, own, table
from tests.training.test_fused import ADAMW, MODELS, population
from tests.training.test_sparse_agrees import masks_of

pytestmark = pytest.mark.usefixtures("one_thread")


def fused(generation: Population, split: str = "validation") -> FusedEvaluation | None:
    data = generation.problem.split(split)
    return generation.engine.fuse_evaluation(generation.parameters, generation.batches.place(data), generation.problem.loss)


def assert_same(loop: Population, sparse: Population, tolerance: float = 1e-9) -> None:
    for split in ("train", "validation"):
        expected, found = loop.evaluate(split), sparse.evaluate(split)
        pd.testing.assert_frame_equal(found, expected, rtol=tolerance, atol=0)
        pd.testing.assert_series_equal(found["accuracy"], expected["accuracy"], check_exact=True)


@pytest.mark.parametrize("model", MODELS)
def test_both_splits_agree_with_the_loop(model: str) -> None:
    problem = MODELS[model]()
    loop, sparse = (population(problem, engine, masks_of(problem.space, 3, 0.3)) for engine in ("loop", "sparse"))
    assert fused(sparse) is not None
    assert len(problem.split("validation")) % sparse.batches.size, "the last batch is a smaller one"
    assert_same(loop, sparse)
    assert_same(loop.train(1), sparse.train(1))


def test_whatever_trains_is_evaluated_in_one_call() -> None:
    for problem, options, epochs in ((own(dropped), {}, 0), (mlp(), ADAMW, 1)):  # engines draw what is dropped as they like
        loop, sparse = (population(problem, engine, **options).train(epochs) for engine in ("loop", "sparse"))
        assert fused(sparse) is not None
        assert_same(loop, sparse)


def test_a_loss_without_a_kernel_is_evaluated_chunk_by_chunk() -> None:
    for build in (Residual, dropped):
        problem = own(build, loss=functional.cross_entropy)
        loop, sparse = (population(problem, engine) for engine in ("loop", "sparse"))
        assert fused(sparse) is None
        assert_same(loop, sparse)


@pytest.mark.parametrize("kept_on", [True, False])
def test_dropout_that_stays_on_is_drawn_the_same_every_time_and_for_every_network(kept_on: bool) -> None:
    problem = own(lambda: Always(kept_on))
    masks = masks_of(problem.space, 3, 0.6)
    generations = {engine: population(problem, engine, masks, batch_size=7) for engine in ("loop", "dense", "sparse")}
    assert fused(generations["sparse"]) is None
    with global_state(3):
        expected = generations["loop"].evaluate()
    for engine, generation in generations.items():
        with global_state(4):
            pd.testing.assert_frame_equal(generation.evaluate(), expected, rtol=1e-9, atol=0)
            pd.testing.assert_frame_equal(generation.evaluate(), expected, rtol=1e-9, atol=0)
            alone = population(problem, engine, masks[2:], batch_size=7).evaluate()
            assert generation.measure().trace.last("val_loss")[2] == pytest.approx(alone["loss"][0], rel=1e-9)
        assert alone["loss"][0] == pytest.approx(expected["loss"][2], rel=1e-9)
    other = population(problem, "loop", masks, batch_size=7, seed=1).evaluate()
    assert not expected["loss"].equals(other["loss"])


class OfTheBatch(nn.Module):
    """Normalised by the batch that it is evaluated in."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.norm, self.out = nn.Linear(6, 12), nn.BatchNorm1d(12, track_running_stats=False), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.inp(x))))


def test_no_evaluation_ends_in_a_batch_of_one() -> None:
    problem = own(OfTheBatch)
    validation = len(problem.split("validation"))
    size = next(size for size in range(3, validation) if validation % size == 1)
    masks = masks_of(problem.space, 3, 0.6)
    loop, sparse = (population(problem, engine, masks, batch_size=size) for engine in ("loop", "sparse"))
    assert fused(sparse) is not None
    pd.testing.assert_frame_equal(sparse.evaluate(), loop.evaluate(), rtol=1e-7, atol=0)


def test_own_targets_and_several_blocks() -> None:
    arrays = table((12,), None, 1200)
    values = {"y_train": arrays["x_train"][:, :5] ** 2, "y_test": arrays["x_test"][:, :5] ** 2}
    model = torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 5))
    for problem in (Problem(model, {**arrays, **values}, loss="mse"), Problem("mlp:9-8", table((12,), 4, 1200))):
        loop, sparse = (population(problem, engine, batch_size=300) for engine in ("loop", "sparse"))
        assert fused(sparse) is not None
        assert_same(loop, sparse)


def test_equal_outputs_count_as_the_first_class_and_nan_as_none() -> None:
    problem = mlp()
    loop, sparse = (population(problem, engine, dtype="float32") for engine in ("loop", "sparse"))
    for generation in (loop, sparse):
        for leaf in generation.parameters.leaves().values():
            leaf.detach().zero_()
        bias = [*generation.parameters.stacked.values()][-1].detach()
        assert bias.shape[1] == 3, "the classes"
        bias[1] = torch.tensor([1.0, float("nan"), 0.0])
        bias[2] = torch.tensor([0.0, 1.0, 1.0])
    assert_same(loop, sparse, 1e-6)
    targets = problem.split("validation").targets
    assert targets is not None
    shares = [float((targets == wanted).double().mean()) for wanted in (0, 1)]
    assert sparse.evaluate()["accuracy"].tolist() == [shares[0], 0.0, shares[1]]


@pytest.mark.parametrize("model", ["lenet-300-100", "lenet5"])
def test_company_and_threads_leave_every_bit(model: str) -> None:
    problem = MODELS[model]()
    masks = masks_of(problem.space, 5, 0.2)
    alone = population(problem, masks=[masks[3]], dtype="float32").evaluate()["loss"][0]
    torch.set_num_threads(2)
    assert population(problem, masks=masks, dtype="float32").evaluate()["loss"][3] == alone


def test_changed_masks_are_evaluated() -> None:
    problem = mlp()
    loop, sparse = (population(problem, engine, masks_of(problem.space, 4, 0.6)) for engine in ("loop", "sparse"))
    for generation in (loop, sparse):
        generation.train(1).select([2, 0])
    assert_same(loop, sparse)
    for generation in (loop, sparse):
        generation.grow(masks_of(problem.space, 2, 0.5, seed=9))
    assert_same(loop, sparse)
