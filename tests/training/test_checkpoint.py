"""A population that is put away and taken up again goes on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_masks
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from tests.tiny import Residual, dropped, mlp, own


def population(problem: Problem, **options: Any) -> Population:
    return Population(problem, random_masks(problem.space, 4, sparsity=0.6), **{"horizon": 6, "batch_size": 20, **options})


def shrink(generation: Population) -> Population:
    return generation.prune([Mask(mask.space, [layer[::2] for layer in mask.survivors]) for mask in generation.masks])


def assert_equal(a: Population, b: Population) -> None:
    assert a.masks == b.masks
    assert a.trace.frame().equals(b.trace.frame())
    for row in range(len(a)):
        for name, value in a.parameters.row(row).items():
            assert torch.equal(value, b.parameters.row(row)[name]), name
    assert {**a.ledger.as_dict(), "wall_s": 0} == {**b.ledger.as_dict(), "wall_s": 0}


def through_file(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """As a file gives it back: names sorted, numbers from JSON."""
    save_file({name: value.contiguous() for name, value in state["tensors"].items()}, path)
    loaded = load_file(path)
    return {"tensors": {name: loaded[name] for name in sorted(loaded)}, "values": json.loads(json.dumps(state["values"]))}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nadam"])
@pytest.mark.parametrize("engine", ["loop", "dense"])
@pytest.mark.parametrize("build", [Residual, dropped], ids=lambda build: build.__name__)
def test_going_on_from_a_file_equals_never_having_stopped(build: Any, engine: str, optimizer: str, tmp_path: Path) -> None:
    problem, options = own(build), {"engine": engine, "optimizer": optimizer, "weight_decay": 1e-3}
    whole = shrink(population(problem, **options).train(2).select([3, 1])).train(1)
    saved = through_file(whole.state(), tmp_path / "state")
    again = population(problem, **options).restore(saved)
    assert_equal(whole, again)
    assert_equal(whole.train(2), again.train(2))
    assert_equal(shrink(whole.select([1])).train(1), shrink(again.select([1])).train(1))


def test_within_an_epoch_nothing_is_lost_either(tmp_path: Path) -> None:
    whole = population(mlp(), engine="loop").train_steps(4)
    again = population(mlp(), engine="loop").restore(through_file(whole.state(), tmp_path / "state"))
    assert_equal(whole.train_steps(5), again.train_steps(5))


def test_a_state_does_not_change_with_the_population() -> None:
    generation = population(mlp(), engine="loop").train(1)
    saved = generation.state()
    copies = {name: value.clone() for name, value in saved["tensors"].items()}
    steps = saved["values"]["steps"]
    generation.train(2)
    assert all(torch.equal(value, saved["tensors"][name]) for name, value in copies.items())
    assert saved["values"]["steps"] == steps


def test_criteria_that_follow_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    whole = population(mlp(), engine="loop").train(1)
    again = population(mlp(), engine="loop").restore(through_file(whole.state(), tmp_path / "state"))
    for generation in (whole, again):
        generation.train(1, record=("grad",))
    for quantity in ("weight", "movement", "grad"):
        assert whole.trace.total(quantity).tolist() == again.trace.total(quantity).tolist()  # type: ignore[arg-type]


def test_failed_rows_stay_failed() -> None:
    generation = population(mlp(), engine="loop")
    with torch.no_grad():
        generation.parameters.stacked["1.bias"][2] = float("nan")
    again = population(mlp(), engine="loop").restore(generation.train(1).state())
    assert again.trace.failed.tolist() == [False, False, True, False]


def test_a_state_of_another_engine_is_refused() -> None:
    saved = population(mlp(), engine="loop").state()
    with pytest.raises(InputError, match="engine"):
        population(mlp(), engine="dense").restore(saved)


def earlier(state: dict[str, Any]) -> dict[str, Any]:
    """As it was before a state told its problem and options."""
    return {**state, "values": {name: value for name, value in state["values"].items() if name not in ("problem", "training")}}


def normed() -> Problem:
    """As `mlp()`, with running statistics."""
    return own(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Linear(10, 8), nn.Linear(8, 3)))


MODEL = r"restore it for the model"
OTHERS: dict[str, tuple[Callable[[], Problem], dict[str, Any], str, str | None]] = {
    "dtype": (mlp, {"dtype": "float64"}, "dtype='float32'", r"of torch\.float32, this population needs .* of torch\.float64"),
    "width": (lambda: mlp("mlp:11-8"), {}, r"\(4, 10\) .* needs \(4, 11\)", r"\(4, 10\) .* needs \(4, 11\)"),
    "depth": (lambda: mlp("mlp:10"), {}, f"of 2 layers: {MODEL}", f"of 2 layers: {MODEL}"),
    "names": (normed, {}, f"lacks 'buffer/2.num_batches_tracked', .* has: {MODEL}", f"lacks 'buffer/2.* has: {MODEL}"),
    "optimizer": (mlp, {"optimizer": "adam"}, "optimizer='sgd', this population has 'adam': set optimizer='sgd'", None),
    "momentum": (mlp, {"momentum": 0.5}, "momentum=0.9, this population has 0.5: set momentum=0.9", None),
    "batch size": (mlp, {"batch_size": 10}, "batch_size=20, this population has 10", None),
    "seed": (mlp, {"seed": 3}, "seed=0, this population has 3: set seed=0", None),
    "horizon": (mlp, {"horizon": 9}, "horizon=6, this population has 9: set horizon=6", None),
    "data": (lambda: mlp(samples=90), {}, "another problem", None),
    "initial weights": (lambda: mlp().with_seed(1), {}, "another problem", None),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_another_population_is_refused_by_its_difference_and_changes_nothing(other: str) -> None:
    build, options, difference, without_words = OTHERS[other]
    saved = population(mlp(), engine="loop").train(1).state()
    generation = population(build(), **{"engine": "loop", **options})
    before = generation.state()
    for state, message in ((saved, difference), (earlier(saved), without_words)):
        if message is not None:
            with pytest.raises(InputError, match=message):
                generation.restore(state)
    assert generation.steps == 0
    assert all(torch.equal(value, before["tensors"][name]) for name, value in generation.state()["tensors"].items())


def test_a_state_of_another_optimizers_or_models_slots_is_refused() -> None:
    saved = population(mlp(), engine="loop", optimizer="adam").train(1).state()
    tensors = saved["tensors"]
    for changed, message in (
        ({"optimizer/exp_avg/9.weight": tensors["value/1.weight"]}, "optimizer/exp_avg/9.weight"),
        ({"optimizer/exp_avg/1.weight": tensors["value/1.weight"][1:]}, "optimizer/exp_avg/1.weight"),
        ({"survivors/1.weight": tensors["survivors/1.weight"][1:]}, "survivors/1.weight"),
    ):
        with pytest.raises(InputError, match=message):
            population(mlp(), engine="loop", optimizer="adam").restore({**saved, "tensors": {**tensors, **changed}})
    for no_state in ({}, {"tensors": {}, "values": {}}, tensors):
        with pytest.raises(InputError, match=r"not the state of a population: give what its state\(\) returned"):
            population(mlp()).restore(no_state)


def test_a_state_of_an_earlier_version_rewinds_to_the_problems_running_statistics() -> None:
    problem = normed()
    saved = earlier(population(problem).select([1, 2]).train(1).state())
    statistics = [f"initial/2.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    tensors = {name: value for name, value in saved["tensors"].items() if name not in statistics}
    assert len(tensors) == len(saved["tensors"]) - 3
    again = population(problem).restore({**saved, "tensors": tensors}).rewind()
    assert torch.equal(again.parameters.buffers["2.running_mean"], torch.zeros(2, 10))
    assert again.parameters.buffers["2.num_batches_tracked"].tolist() == [0, 0]


def test_a_state_goes_on_under_another_way_to_compute_and_from_an_earlier_version(tmp_path: Path) -> None:
    whole = population(mlp(), engine="loop", lr=np.float32(0.05), batch_size=None).train(1)
    saved = through_file(whole.state(), tmp_path / "state")
    whole.train(1)
    for state in (saved, earlier(saved)):
        again = population(mlp(), cuda_graphs=False, lr=np.float32(0.05), batch_size=mlp().batch_size).restore(state)
        assert_equal(again.train(1), whole)
