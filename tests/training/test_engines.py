"""All engines compute the same networks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evoprune.errors import InputError, UnknownName, UnsupportedLayer
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_masks
from evoprune.problems.problem import Problem
from evoprune.training.engines.choice import SPARSE_FROM
from evoprune.training.population import Population
from tests.tiny import DRAWS, Residual, Skipping, Tied, dropped, global_state, images, mlp, own, small_conv, table

MODELS: dict[str, Callable[[], Problem]] = {
    "residual": lambda: own(Residual),
    "tied": lambda: own(Tied),
    "lenet5": lambda: images("lenet5"),
    "conv and norm": lambda: own(small_conv, (1, 8, 8)),
    "dropout": lambda: own(dropped),
    "resnet20": lambda: images("resnet20", 8, 3),
}


def population(problem: Problem, engine: str, *, k: int = 3, **options: Any) -> Population:
    options = {"horizon": 3, "batch_size": 18, "lr": 0.02, **options}
    return Population(problem, random_masks(problem.space, k, sparsity=0.7), engine=engine, **options)


@pytest.mark.parametrize("model", MODELS)
def test_loop_and_dense_agree_after_three_epochs_in_float64(model: str) -> None:
    problem = MODELS[model]()
    loop, dense = (population(problem, engine, dtype="float64").train(3) for engine in ("loop", "dense"))
    for row in range(3):
        second = dense.parameters.row(row)
        for name, value in loop.parameters.row(row).items():
            torch.testing.assert_close(value, second[name], rtol=0, atol=1e-9, msg=name)
    for column in ("train_loss", "val_loss"):
        assert loop.trace.last(column) == pytest.approx(dense.trace.last(column), abs=1e-9)


def step(generation: Population) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs `(K, B, …)` and gradients of one batch."""
    inputs, targets = generation.batches.at(0)
    outputs = []
    for chunk in generation._chunks:
        torch.manual_seed(0)
        out = chunk.train()(inputs)
        generation.problem.loss.per_sample(out, targets).mean(1).sum().backward()
        outputs.append(out.detach())
    return torch.cat(outputs), {name: leaf.grad for name, leaf in generation.parameters.leaves().items()}  # type: ignore[misc]


def assert_within(first: Tensor, second: Tensor, share: float, *, least: float = 0.0) -> None:
    assert float((first - second).abs().max()) <= share * max(float(first.abs().max()), least)


@pytest.mark.parametrize("model", [*MODELS, "lenet-300-100"])
def test_outputs_and_gradients_of_one_float32_step_agree(model: str) -> None:
    problem = mlp("lenet-300-100") if model == "lenet-300-100" else MODELS[model]()
    reference, gradients = step(population(problem, "loop"))
    least = 0.1 * max(float(gradient.abs().max()) for gradient in gradients.values())  # a bias before a norm has none
    for engine in ["dense", *(["sparse"] if model == "lenet-300-100" else [])]:
        with torch.random.fork_rng():
            outputs, found = step(population(problem, engine))
        assert_within(reference, outputs, 1e-4)
        for name, gradient in gradients.items():
            assert_within(gradient, found[name], 1e-4, least=least)


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_chunks_do_not_change_the_result(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More individuals than a chunk holds."""
    whole = population(mlp(), engine, k=7).train(1)
    kind = type(whole.engine)
    monkeypatch.setattr(kind, "rows", property(lambda self: 3))
    cut = population(mlp(), engine, k=7).train(1)
    assert len(cut._chunks) == 3
    for row in range(7):
        for name, value in whole.parameters.row(row).items():
            assert torch.equal(value, cut.parameters.row(row)[name])


@pytest.mark.parametrize("engine", ["loop", "dense"])
def test_own_batches_a_row_give_each_row_its_own(engine: str) -> None:
    generation = population(mlp(), engine)
    inputs = generation.batches.inputs[:6].view(3, 2, 6)
    for chunk in generation._chunks:
        own_outputs = chunk.eval()(inputs[chunk.start : chunk.stop], shared=False)
        for position in range(chunk.k):
            shared = chunk(inputs[chunk.start + position])
            torch.testing.assert_close(own_outputs[position], shared[position], rtol=0, atol=1e-6)


class Branching(nn.Module):
    """What depends on data cannot be vmapped."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        out: Tensor = self.b(h if float(h.detach().sum()) > 0 else -h)
        return out


def test_a_model_that_cannot_be_vmapped_says_which_engine_to_use_and_auto_takes_it() -> None:
    problem = own(Branching)
    with pytest.raises(UnsupportedLayer, match="engine='loop'"):
        population(problem, "dense").train(1)
    assert population(problem, "auto").train(1).engine.name == "loop"


@pytest.mark.parametrize("engine", ["loop", "dense"])
@pytest.mark.parametrize("draws", DRAWS)
def test_what_a_forward_draws_follows_from_the_seed_and_is_the_same_for_all(draws: str, engine: str) -> None:
    problem, found = own(lambda: Skipping(draws)), []
    for state in (1, 2):
        with global_state(state):
            found.append(population(problem, engine).train(1).trace.last("val_loss"))
    assert found[0].tolist() == found[1].tolist()
    masks = random_masks(problem.space, 3, sparsity=0.7)
    alone = Population(problem, masks[2:], horizon=3, batch_size=18, lr=0.02, engine=engine).train(1)
    assert alone.trace.last("val_loss")[0] == pytest.approx(found[0][2], rel=1e-5)


@pytest.mark.parametrize("draws", DRAWS)
def test_a_forward_that_draws_random_numbers_is_not_frozen_as_it_was_traced(draws: str) -> None:
    problem = own(lambda: Skipping(draws))
    with global_state(0):
        assert population(problem, "auto").engine.name == "dense"
        with pytest.raises(UnsupportedLayer, match="Skipping, whose forward draws random numbers: use engine='dense'"):
            population(problem, "sparse")
        population(own(dropped), "sparse")  # known before it is drawn


def test_auto_does_not_depend_on_the_number_of_networks() -> None:
    names = {population(mlp(), "auto", k=k).engine.name for k in (1, 2, 40)}
    assert len(names) == 1


def test_an_unknown_engine_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'dense'"):
        population(mlp(), "dens")


def test_auto_goes_by_what_was_measured() -> None:
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "engine_choice.json"
    measured = json.loads(file.read_text())["sparse_from"]
    kinds = {
        name: "linear"
        if all(len(shape) == 2 for shape in Problem(name, table((3, 32, 32), 10, 20)).space.shapes)
        else "convolutional"
        for name in measured
    }
    for kind, rule in SPARSE_FROM["cpu"].items():
        assert max(value for name, value in measured.items() if kinds[name] == kind) <= rule
    one = {}
    for sparsity in (0.0, 0.25, 0.3):
        for problem in (mlp(), images("lenet5")):
            masks = random_masks(problem.space, 1, sparsity=sparsity)
            engine = Population(problem, masks, horizon=1, device="cpu").engine.name
            one[problem.model_name, sparsity] = engine
    assert [one["lenet5", sparsity] for sparsity in (0.0, 0.25, 0.3)] == ["dense", "dense", "sparse"]
    assert {engine for (name, _), engine in one.items() if name != "lenet5"} == {"sparse"}


def test_auto_goes_on_sparse_once_pruning_made_that_faster() -> None:
    problem = images("lenet5")
    full, half, other = Mask.full(problem.space), *random_masks(problem.space, 2, sparsity=0.5)
    few = half & other
    generation = Population(problem, [full], horizon=4, batch_size=20, dtype="float64", device="cpu").train(1)
    assert (generation.engine.name, generation.ledger.engine) == ("dense", "dense")
    generation.prune([half]).train(1)
    assert (generation.engine.name, generation.ledger.engine) == ("sparse", "dense+sparse")
    twin = Population(problem, [full], horizon=4, batch_size=20, dtype="float64", device="cpu").restore(generation.state())
    copied = copy.deepcopy(generation)
    alone = Population(problem, [full], horizon=4, batch_size=20, dtype="float64", engine="loop").train(1).prune([half]).train(1)
    for one in (generation, twin, copied, alone):
        one.prune([few]).train(1).grow([full]).train(1)  # dense again: it stays where it is
    for again, tolerance in ((twin, 0.0), (copied, 0.0), (alone, 1e-8)):
        assert again.engine.name == ("loop" if again is alone else "sparse")
        for name, value in generation.parameters.leaves().items():
            torch.testing.assert_close(again.parameters.leaves()[name], value, rtol=tolerance, atol=tolerance)


def test_a_state_that_cannot_go_on_changes_nothing() -> None:
    problem = images("lenet5")
    masks = random_masks(problem.space, 1, sparsity=0.5)
    options = {"horizon": 3, "batch_size": 20, "device": "cpu"}
    saved = Population(problem, masks, **options).train(2).state()
    compiled = Population(problem, masks, compile=True, **options)
    with pytest.raises(InputError, match="saved by engine 'sparse', this population runs 'dense'"):
        compiled.restore(saved)
    assert (compiled.steps, compiled.engine.name, len(compiled._chunks)) == (0, "dense", 1)


def test_auto_asks_only_once_for_what_cannot_run(caplog: pytest.LogCaptureFixture) -> None:
    problem = own(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.PReLU(), nn.Flatten(), nn.Linear(64, 3)), (2, 6, 6))
    generation = Population(problem, [Mask.full(problem.space)], horizon=3, device="cpu")
    engine = generation.engine
    for sparsity in (0.5, 0.6, 0.7):
        generation.grow(random_masks(problem.space, 1, sparsity=sparsity)).train(1)
        generation = copy.deepcopy(generation)
    assert generation.engine.name == engine.name == "dense"
    assert sum("not sparse" in message for message in caplog.messages) == 1
