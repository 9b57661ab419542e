"""The trace tells what happened to each individual."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evoprune.errors import InputError, UnknownName
from evoprune.masks.sampling import random_masks
from evoprune.training.population import Population
from tests.tiny import mlp, own, small_conv

COLUMNS = ["individual", "epoch", "train_loss", "val_loss", "val_accuracy", "survivors", "failed"]


def population(k: int = 4, **options: object) -> Population:
    masks = random_masks(mlp().space, k, sparsity=0.7)
    return Population(mlp(), masks, **{"horizon": 5, "batch_size": 20, "engine": "loop", **options})  # type: ignore[arg-type]


def test_the_frame_has_one_row_an_individual_and_epoch() -> None:
    generation = population()
    assert list(generation.trace.frame().columns) == COLUMNS
    frame = generation.train(2).select([2, 0]).train(1).trace.frame()
    assert list(frame.columns) == COLUMNS
    seen = list(zip(frame["individual"], frame["epoch"], strict=True))
    assert seen == [(row, epoch) for row in range(4) for epoch in ((1, 2, 3) if row in (0, 2) else (1, 2))]
    assert not frame["failed"].any()
    assert (frame["survivors"] == mlp().space.budget(0.7)).all()


def test_the_frame_agrees_with_evaluate() -> None:
    generation = population().train(2)
    frame, last = generation.evaluate(), generation.trace.frame().query("epoch == 2")
    assert frame["loss"].tolist() == last["val_loss"].tolist()
    assert frame["accuracy"].tolist() == last["val_accuracy"].tolist()


@pytest.mark.parametrize("engine", ["loop", "dense"])
def test_sums_of_gradients_are_those_of_the_last_recorded_epoch(engine: str) -> None:
    generation = population(engine=engine, dtype="float64", momentum=0.0, schedule="constant", lr=0.1).train(1)
    before = {name: value.detach().clone() for name, value in generation.parameters.survivors.items()}
    generation.train(1, record=("grad", "grad_path"))
    for name, value in generation.parameters.survivors.items():
        moved = (before[name] - value.detach()) / 0.1  # plain SGD: the movement is the sum of gradients
        torch.testing.assert_close(generation.trace.per_weight("grad", name), moved, rtol=0, atol=1e-12)
        assert (generation.trace.per_weight("grad_path", name) >= generation.trace.per_weight("grad", name).abs() - 1e-12).all()
    assert (generation.trace.total("grad_path") > generation.trace.total("grad")).all()


def test_the_path_of_gradients_is_the_sum_of_their_sizes() -> None:
    generation = population(dtype="float64", momentum=0.0, schedule="constant", lr=0.1)
    generation.train(1, record=("grad_path",))
    again, lengths = population(dtype="float64", momentum=0.0, schedule="constant", lr=0.1), 0.0
    name = mlp().space.names[0]
    for _ in range(again.batches.per_epoch):
        before = again.parameters.survivors[name].detach().clone()
        again.train_steps(1)
        lengths = lengths + (again.parameters.survivors[name].detach() - before).abs() / 0.1
    torch.testing.assert_close(generation.trace.per_weight("grad_path", name), lengths, rtol=0, atol=1e-12)


def test_totals_are_naive_sums_over_each_rows_survivors() -> None:
    generation = population().train(2, record=("grad",))
    initial = mlp().initial_weights()
    for row, mask in enumerate(generation.masks):
        weights, kept = generation.parameters.row(row), mask.dense()
        sizes = [weights[name].double().abs().sum() for name in kept]
        moved = [(weights[name].double() - (initial[name] * kept[name]).double()).abs().sum() for name in kept]
        assert generation.trace.total("weight")[row] == pytest.approx(float(sum(sizes)))
        assert generation.trace.total("movement")[row] == pytest.approx(float(sum(moved)), rel=1e-5)


def test_totals_do_not_depend_on_the_company() -> None:
    generation = population().train(1, record=("grad",))
    before = {quantity: generation.trace.total(quantity) for quantity in ("weight", "movement", "grad")}  # type: ignore[arg-type]
    generation.select([3, 1])
    for quantity, values in before.items():
        assert generation.trace.total(quantity).tolist() == values[[3, 1]].tolist()  # type: ignore[arg-type]


def test_what_was_not_recorded_cannot_be_asked() -> None:
    generation = population()
    with pytest.raises(InputError, match="record="):
        generation.train(1).trace.total("grad")
    with pytest.raises(InputError, match="nothing is recorded"):
        generation.train(1, record=("gradient",))
    generation.train(1, record=("grad",))
    generation.train(1)
    with pytest.raises((InputError, UnknownName)):
        generation.trace.total("grad")


def test_nothing_is_known_before_training() -> None:
    with pytest.raises(InputError, match="train for an epoch"):
        population().trace.last("val_loss")


def test_a_history_is_one_individuals_own() -> None:
    generation = population().train(2)
    rows = generation.trace.history(2)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["val_loss"] == generation.trace.last("val_loss")[2]


def test_batch_norm_statistics_belong_to_each_row() -> None:
    problem = own(small_conv, (1, 8, 8))
    generation = Population(
        problem, random_masks(problem.space, 3, sparsity=0.5), horizon=2, batch_size=18, engine="dense"
    ).train(2)
    means = generation.parameters.buffers["1.running_mean"]
    assert generation.parameters.buffers["1.num_batches_tracked"].tolist() == [generation.steps] * 3
    assert len(np.unique(means.numpy().round(6), axis=0)) == 3
