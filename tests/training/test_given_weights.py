"""Weights that a user gives, positions counted from the end, layers that no gradient reaches, statistics taken anew."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.errors import InputError
from evoprune.masks.sampling import random_mask
from evoprune.problems.problem import Problem
from evoprune.training.initializers.exact_orthogonal import eoi
from evoprune.training.population import Population
from evoprune.training.running import Anew
from evoprune.training.ticket import Ticket
from tests.tiny import Tied, mlp, own, table

OPTIONS: dict[str, Any] = {"batch_size": 18}


def normed(momentum: float | None = 0.1) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12, momentum=momentum), nn.ReLU(), nn.Linear(12, 3))


def judged(ticket: Ticket) -> float:
    split = ticket._problem("a test").split("validation")
    with torch.no_grad():
        return float(nn.functional.cross_entropy(ticket.module()(split.inputs), split.goals))


# ---- given weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
def test_what_given_weights_lack_is_the_problems(engine: str) -> None:
    problem = own(normed)
    first, second = (random_mask(problem.space, sparsity=0.5, seed=seed) for seed in (1, 2))
    start = ep.methods["random"](problem, sparsity=0.5, epochs=1, **OPTIONS).initial  # without running statistics
    assert not any("running" in name for name in start)
    both = Population(problem, [first, second], horizon=2, weights=[start] * 2, engine=engine, **OPTIONS).train(2)
    alone = Population(problem, [first], horizon=2, weights=[start], engine=engine, **OPTIONS).train(2)
    assert both.trace.last("val_loss")[0] == pytest.approx(alone.trace.last("val_loss")[0], rel=1e-5)
    for row in range(2):
        assert judged(both.ticket(row)) == pytest.approx(both.trace.last("val_loss")[row], rel=1e-5)
        assert set(both.ticket(row).weights) == set(problem.initial_weights())


def test_weights_alone_are_completed_by_biases_and_tied_ones_stand_once() -> None:
    problem = mlp()
    mask, given = eoi(problem.space, 0.5)
    assert set(given) == set(problem.space.names)
    population = Population(problem, [mask], horizon=1, weights=[given], engine="loop", **OPTIONS)
    assert set(population.train(1).ticket().weights) == set(problem.initial_weights())
    tied = own(Tied)
    state = tied.module().state_dict()
    assert len(state) > len(tied.initial_weights())
    whole = random_mask(tied.space, sparsity=0.5, seed=0)
    losses = [
        Population(tied, [whole], horizon=1, engine="loop", **OPTIONS, **more).train(1).trace.last("val_loss")[0]
        for more in ({}, {"weights": [state]})
    ]
    assert losses[0] == losses[1]
    given = {"two.weight": torch.full((8, 8), 7.0)}  # a name that the weight has too
    population = Population(tied, [whole], horizon=1, weights=[given], engine="loop", **OPTIONS)
    assert set(population.parameters.survivors["one.weight"].tolist()) == {7.0}


def test_weights_that_do_not_belong_are_refused() -> None:
    problem = mlp()
    mask, start = random_mask(problem.space, sparsity=0.5, seed=0), problem.initial_weights()
    name = problem.space.names[0]
    for weights, said in (
        ([start], "1 mappings of weights for 2 individuals"),
        ([{**start, "other": start[name]}] * 2, "has no 'other'"),
        ([{**start, name: start[name][:1]}] * 2, "have shape"),
        ([{**start, name: start[name].t().contiguous()}] * 2, "have shape"),
    ):
        with pytest.raises(InputError, match=said):
            Population(problem, [mask, mask], horizon=1, weights=weights, **OPTIONS)


# ---- positions -------------------------------------------------------------------------------------------------------


def test_a_position_may_be_counted_from_the_end() -> None:
    problem = mlp()
    masks = [random_mask(problem.space, sparsity=sparsity, seed=0) for sparsity in (0.3, 0.5, 0.7)]
    generation = Population(problem, masks, horizon=2, engine="loop", **OPTIONS).train(1)
    for row in (-3, -2, -1):
        ticket = generation.ticket(row)
        assert ticket.mask == masks[row]
        assert judged(ticket) == pytest.approx(generation.trace.last("val_loss")[row], rel=1e-5)
    loss = generation.trace.last("val_loss")[-2]
    assert copy.deepcopy(generation).branch([-2], [masks[-2]]).trace.last("val_loss")[0] == pytest.approx(loss, rel=1e-5)
    for wrong in (3, -4, True):
        with pytest.raises(InputError, match="no network"):
            generation.ticket(wrong)
        with pytest.raises(InputError, match="no network"):
            generation.branch([wrong], [masks[0]])


# ---- rewinding, statistics -------------------------------------------------------------------------------------------


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.first.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(x)))
        return out


def test_rewinding_leaves_frozen_layers_where_they_are() -> None:
    problem = Problem(Frozen, table((6,)))
    masks = [random_mask(problem.space, sparsity=0.3, seed=seed) for seed in range(2)]
    generation = Population(problem, masks, horizon=2, own_weights=True, engine="loop", **OPTIONS)
    before = generation.evaluate()["loss"].tolist()
    assert generation.train(1).rewind().evaluate()["loss"].tolist() == before


@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
@pytest.mark.parametrize("momentum", [1.0, 0.5, 0.1, 0.001, None])
def test_statistics_taken_anew_are_those_of_one_pass_whatever_they_were(momentum: float | None, engine: str) -> None:
    if momentum is None and engine == "dense":
        pytest.skip("torch.vmap has no cumulative average")
    problem = own(lambda: normed(momentum))
    masks = [random_mask(problem.space, sparsity=0.5, seed=seed) for seed in range(2)]
    generation = Population(problem, masks, horizon=6, engine=engine, **OPTIONS)
    generation.train(2)
    generation.parameters.buffers["1.running_mean"] += 1e4
    generation.parameters.buffers["1.running_var"] += 1e4
    before = generation.ledger.evaluation_samples
    generation.settle()
    batches = [problem.split("train").inputs[indices] for indices in generation.batches.order(generation.epoch)]
    assert generation.ledger.evaluation_samples - before == 2 * sum(map(len, batches))
    for row in range(2):
        settled = generation.parameters.row(row)
        hidden = [nn.functional.linear(inputs, settled["0.weight"], settled["0.bias"]) for inputs in batches]
        share = [1 if momentum is None else (1 - momentum) ** later for later in reversed(range(len(batches)))]
        shares = torch.tensor(share)[:, None] / sum(share)
        wanted = {
            "1.running_mean": (shares * torch.stack([batch.mean(0) for batch in hidden])).sum(0),
            "1.running_var": (shares * torch.stack([batch.var(0) for batch in hidden])).sum(0),
        }
        for name, value in wanted.items():
            torch.testing.assert_close(settled[name], value, rtol=1e-4, atol=1e-5)


class Kept(nn.Module):
    """One normalisation that keeps its statistics in training, one that is not used, one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
        self.kept, self.unused = nn.BatchNorm1d(12), nn.BatchNorm1d(12)
        self.twice = nn.BatchNorm1d(12, momentum=0.001)
        self.kept.running_mean += 3  # type: ignore[operator]
        self.unused.running_mean += 3  # type: ignore[operator]

    def train(self, mode: bool = True) -> Kept:
        super().train(mode)
        self.kept.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.twice(self.kept(self.twice(self.first(x)))))
        return out


def test_statistics_that_training_does_not_move_are_kept() -> None:
    problem = own(Kept)
    generation = Population(problem, [random_mask(problem.space, sparsity=0.5, seed=0)], horizon=2, engine="loop", **OPTIONS)
    settled = generation.train(1).settle().parameters.row(0)
    for name in ("kept", "unused"):
        assert torch.equal(settled[f"{name}.running_mean"], torch.full((12,), 3.0))
        assert torch.equal(settled[f"{name}.running_var"], torch.ones(12))
    hidden = nn.functional.linear(problem.split("train").inputs, settled["first.weight"], settled["first.bias"])
    again = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt() * settled["twice.weight"] + settled[
        "twice.bias"
    ]
    again = (again - 3) / (1 + 1e-5) ** 0.5 * settled["kept.weight"] + settled["kept.bias"]
    wanted = (hidden.mean(0) + again.mean(0)) / 2
    assert (settled["twice.running_mean"] - wanted).abs().max() < 0.1


def test_other_statistics_take_the_batches_that_forget_them() -> None:
    def needed(model: nn.Module) -> int:
        return Anew(model, {name: value[None].clone() for name, value in model.named_buffers()}).batches

    instance = [nn.InstanceNorm1d(4, momentum=momentum, track_running_stats=True) for momentum in (0.1, 0.01, 1.0, 0.0)]
    assert [needed(layer) for layer in instance] == [50, 527, 1, 0]
    assert needed(nn.Linear(2, 2)) == 0
    assert needed(normed(0.0)) == 0
    assert needed(nn.Sequential(nn.BatchNorm1d(4, momentum=0.001), instance[0])) == 50
    of_its_own = nn.Linear(2, 2)
    of_its_own.register_buffer("seen", torch.zeros(2))
    assert needed(of_its_own) == 50


# ---- layers that no gradient reaches ---------------------------------------------------------------------------------


class Aside(nn.Module):
    """With a head that the output does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.aside, self.last = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(x)))
        return out


@pytest.mark.parametrize("engine", ["loop", "auto"])
@pytest.mark.parametrize(
    "method",
    ["rigl", "dissipate_regrow", "regrow_average", "snip", "synflow", "grasp", "prospr", "ntk_sap", "force", "iterative_snip"],
)
def test_methods_take_a_layer_that_no_gradient_reaches(method: str, engine: str) -> None:
    problem = Problem(Aside, table((6,)))
    ticket = ep.methods[method](problem, sparsity=0.5, epochs=6, engine=engine, **OPTIONS)
    assert ticket.mask.sparsity == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
def test_weight_decay_alone_moves_such_a_layer_as_the_warning_says(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    problem = Problem(Aside, table((6,)))
    assert "no gradient reaches aside.weight: they keep their initial weights, but for weight decay" in caplog.text
    for decay in (0.0, 0.1):
        ticket = ep.methods["random"](problem, sparsity=0.5, epochs=2, engine=engine, weight_decay=decay, **OPTIONS)
        began, ended = (values["aside.weight"].abs().sum() for values in (ticket.initial, ticket.weights))
        assert bool(ended < 0.97 * began) is bool(decay)
        assert bool(ended == began) is not bool(decay)


def test_hessian_scales_leave_such_a_layer_alone() -> None:
    problem = Problem(Aside, table((6,)))
    ticket = ep.methods["random"](problem, sparsity=0.5, epochs=1, init="hessian", **OPTIONS)
    start, kept = problem.initial_weights(), ticket.mask.dense()
    assert torch.equal(ticket.initial["aside.weight"], start["aside.weight"] * kept["aside.weight"])
    assert not torch.equal(ticket.initial["first.weight"], start["first.weight"] * kept["first.weight"])


def test_targets_of_a_float64_run_are_tested_in_float64() -> None:
    arrays = table((6,))
    arrays = {name: (value > 0).float() if name[0] == "y" else value for name, value in arrays.items()}
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    problem = Problem(model, arrays, loss=nn.BCELoss())
    ticket = ep.methods["random"](problem, sparsity=0.5, epochs=1, dtype="float64", **OPTIONS)
    loss = ticket.test()["loss"]
    assert loss is not None
    assert 0 < loss < 2


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(ignore_index=2), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 0.0]))])
def test_a_last_sample_that_the_loss_ignores_fails_nobody(loss: nn.Module) -> None:
    arrays = table((6,), samples=120)
    arrays |= {"x_validation": arrays["x_test"][:13].clone(), "y_validation": arrays["y_test"][:13].clone()}
    for name in ("train", "validation"):
        arrays[f"y_{name}"] %= 2
    arrays["y_train"][0] = 2  # no batch of training holds nothing else
    arrays["y_validation"][-1] = 2
    problem = Problem(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), arrays, loss=loss)
    for size in (2, 3, 4, 6, 12):
        ticket = ep.methods["random"](problem, sparsity=0.5, epochs=1, batch_size=size, engine="loop")
        assert ticket.val_loss > 0


def test_given_weights_may_be_arrays_of_any_real_numbers() -> None:
    problem = mlp()
    given = {"1.bias": np.arange(10), "1.weight": np.ones((10, 6)), "3.bias": np.arange(8, dtype=np.float32)[::-1]}
    masks = [random_mask(problem.space, sparsity=0.5)]
    generation = Population(problem, masks, horizon=1, weights=[given], **OPTIONS)  # type: ignore[list-item]
    assert generation.parameters.row(0)["1.bias"].tolist() == list(range(10))
    assert generation.parameters.row(0)["3.bias"].tolist() == list(range(8))[::-1]
    assert not generation.train(1).trace.failed.any()


@pytest.mark.parametrize(
    ("value", "message"), [(["a"] * 10, "no tensor"), ([[1], [1, 2]], "no tensor"), (np.zeros(10, complex), "complex numbers")]
)
def test_given_weights_that_are_no_real_numbers_are_refused(value: object, message: str) -> None:
    masks = [random_mask(mlp().space, sparsity=0.5)]
    with pytest.raises(InputError, match=f"weights of '1.bias' are {message}"):
        Population(mlp(), masks, horizon=1, weights=[{"1.bias": value}], **OPTIONS)  # type: ignore[dict-item]
