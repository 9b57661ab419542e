"""What scorers see in each round: the network pruned so far, samples of its own, draws of its own; and published defaults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import evoprune as ep
from evoprune.errors import InputError
from evoprune.methods.scorers import SCORERS, Probe, Scorer
from evoprune.methods.scorers.samples import Samples
from tests.methods.test_scorers import loss_at, probe_of, small
from tests.tiny import table


def test_iterative_scores_are_those_of_the_network_pruned_so_far() -> None:
    problem = small(activation=nn.Tanh)
    half = ep.random_mask(problem.space, sparsity=0.5, seed=0)
    probe, kept = probe_of(problem, mask=half), half.dense()
    leaves = {name: (weight * kept[name]).requires_grad_() for name, weight in probe.weights.items()}
    slopes = torch.autograd.grad(loss_at(probe, leaves, probe.batch(0)), list(leaves.values()))
    for name, slope in zip(leaves, slopes, strict=True):
        torch.testing.assert_close(SCORERS["iterative_snip"].function(probe)[name], (slope * leaves[name]).abs())
        torch.testing.assert_close(SCORERS["force"].function(probe)[name], (slope * probe.weights[name]).abs())


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_survivors_fall_by_a_constant_factor(scope: str) -> None:
    problem, masks = small(), []

    def spy(probe: Probe) -> dict[str, torch.Tensor]:
        masks.append(probe.mask)
        return {name: weight.abs() for name, weight in probe.weights.items()}

    last = Scorer("spy", spy, "", steps=6)(problem, sparsity=0.9, scope=scope)
    pairs = zip(problem.space.sizes, last.counts, strict=True) if scope == "layer" else [(problem.prunable, last.count)]
    expected = [[round(size * (end / size) ** (step / 6)) for step in range(1, 6)] for size, end in pairs]
    seen = [mask.counts if scope == "layer" else (mask.count,) for mask in masks[1:]]
    assert [list(column) for column in zip(*seen, strict=True)] == expected


def test_every_round_and_batch_has_balanced_samples_of_its_own() -> None:
    samples = Samples(small(), per_class=4, batches=None, seed=0, device=torch.device("cpu"), dtype=torch.float32)
    inputs, targets = samples.draw(0, 0)
    assert torch.bincount(targets).tolist() == [4, 4, 4]
    assert len(inputs.unique(dim=0)) == 12
    assert torch.equal(samples.draw(0, 0)[0], inputs)
    for other in (samples.draw(1, 0), samples.draw(0, 1)):
        assert not torch.equal(other[0], inputs)


def test_ntk_sap_draws_weights_and_inputs_for_every_batch() -> None:
    problem, seen = ep.Problem("mlp:8", table()), []
    first = problem.space.names[0]

    class Watched(Probe):
        def outputs(self, weights: Any, inputs: Any, **options: Any) -> Any:
            seen.append((weights[first].detach(), inputs))
            return super().outputs(weights, inputs, **options)

    for step in (0, 1):
        plain = probe_of(problem, batches=2)
        SCORERS["ntk_sap"].function(Watched(problem, plain.module, plain.mask, plain.samples, step, 0, plain.ledger, plain.start))
    here = seen[::2]
    assert len(here) == 4
    for kind in (0, 1):
        assert len({one[kind].numpy().tobytes() for one in here}) == 4


def test_defaults_are_the_published_ones() -> None:
    steps = {"iterative_snip": 60, "force": 60, "synflow": 100, "ntk_sap": 20}
    assert {name: SCORERS[name].steps for name in steps} == steps
    assert SCORERS["grasp"].options["temperature"] == 200
    assert SCORERS["ntk_sap"].options["epsilon"] == 0.01
    assert SCORERS["prospr"].options["inner_steps"] == 3


def test_synflow_makes_biases_positive_too() -> None:
    problem = small()
    scores, start = SCORERS["synflow"].function(probe_of(problem)), problem.initial_weights()
    positive = {name: value.double().abs().requires_grad_() for name, value in start.items()}
    flow = functional_call(problem.module().double(), positive, (torch.ones(1, 6, dtype=torch.float64),)).sum()
    for name in problem.space.names:
        [slope] = torch.autograd.grad(flow, [positive[name]], retain_graph=True)
        torch.testing.assert_close(scores[name], slope * positive[name].detach())


def test_grasp_of_a_later_round_looks_at_the_gradient_of_the_survivors() -> None:
    problem = small(activation=nn.Tanh)
    half = ep.random_mask(problem.space, sparsity=0.5, seed=0)
    probe, kept = probe_of(problem, mask=half), half.dense()
    leaves = {name: (weight * kept[name]).requires_grad_() for name, weight in probe.weights.items()}
    slopes = torch.autograd.grad(loss_at(probe, leaves, probe.batch(0), 200.0), list(leaves.values()), create_graph=True)
    squared = sum(((slope * kept[name]) ** 2).sum() for name, slope in zip(leaves, slopes, strict=True))
    products = torch.autograd.grad(squared / 2, list(leaves.values()))
    scores = SCORERS["grasp"].function(probe)
    for (name, leaf), product in zip(leaves.items(), products, strict=True):
        torch.testing.assert_close(scores[name], leaf.detach() * product)


@pytest.mark.parametrize("dropped", [0.0, 0.3])
def test_ntk_sap_compares_networks_without_dropout_and_with_the_same_statistics(dropped: float) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropped), nn.Linear(8, 3))

    problem, epsilon = ep.Problem(build, table((6,))), 0.05
    mask = ep.random_mask(problem.space, sparsity=0.4, seed=0)
    probe = probe_of(problem, mask=mask)
    scores = SCORERS["ntk_sap"].function(probe, epsilon=epsilon)
    inputs, gates = probe.samples.noise(0, 0), probe.gates()
    moved = {name: w + epsilon * probe.gaussian(w, "move", name, 0, 0) for name, w in probe.weights.items()}
    hidden = nn.functional.linear(inputs, probe.weights["0.weight"] * gates["0.weight"].detach(), probe.others["0.bias"])
    mean, variance = hidden.mean(0), hidden.var(0)

    def outputs(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        own = {**probe.others, **{name: gates[name] * w for name, w in weights.items()}}
        before = nn.functional.linear(inputs, own["0.weight"], own["0.bias"])
        normed = nn.functional.batch_norm(before, mean, variance, own["1.weight"], own["1.bias"])
        return nn.functional.linear(torch.tanh(normed), own["4.weight"], own["4.bias"])

    change = (outputs(probe.weights) - outputs(moved)).square().sum() / len(inputs)
    for name, slope in zip(gates, torch.autograd.grad(change, list(gates.values())), strict=True):
        torch.testing.assert_close(scores[name], slope.abs())
    assert not problem.module().get_buffer("1.running_mean").any()


def test_a_scorer_without_samples_has_no_class_that_is_too_small() -> None:
    rng = np.random.default_rng(0)
    data = {"x_train": rng.standard_normal((200, 6)), "y_train": np.where(np.arange(200) % 60 == 0, 2, np.arange(200) % 2)}
    problem = ep.Problem("mlp:8", {**data, "x_test": data["x_train"][:9], "y_test": data["y_train"][:9]})
    assert ep.scorers["ntk_sap"](problem, sparsity=0.8).count == problem.space.budget(0.8)
    with pytest.raises(InputError, match="a class has only"):
        ep.scorers["snip"](problem, sparsity=0.8)


@pytest.mark.parametrize("name", ["snip", "imp", "gradual_magnitude"])
def test_an_allocation_that_has_no_part_is_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    problem = ep.Problem("mlp:8", table())
    options: dict[str, Any] = {"sparsity": 0.8, "epochs": 1, "engine": "loop"}
    found = [ep.methods[name](problem, **options, **more).mask for more in ({}, {"allocation": "erk"}, {"scope": "layer"})]
    assert "no part" not in caplog.text
    assert ep.methods[name](problem, **options, allocation="uniform").mask == found[0] == found[1]
    assert "allocation= has no part in it" in caplog.text


class Greedy(nn.Module):
    """Changes its input in place, and has a norm that keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.relu(self.norm(self.first(x.mul_(2.0)))))
        return out


@pytest.mark.parametrize(
    ("name", "options"),
    [("ntk_sap", {}), ("snip", {}), ("grasp", {}), ("eoi", {}), ("random", {"init": "eoi"}), ("random", {"init": "hessian"})],
    ids=str,
)
def test_scoring_and_weights_leave_the_data_as_they_are(name: str, options: dict[str, Any]) -> None:
    problem = ep.Problem(Greedy, table((6,)))
    before = {split: problem.split(split).inputs.clone() for split in ("train", "validation")}
    ep.methods[name](problem, sparsity=0.5, epochs=1, engine="loop", **options)
    assert all(torch.equal(problem.split(split).inputs, value) for split, value in before.items())


def test_both_passes_of_ntk_sap_see_the_same_inputs() -> None:
    class Plain(Greedy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.clone())

    greedy, plain = (SCORERS["ntk_sap"].function(probe_of(ep.Problem(build, table((6,))))) for build in (Greedy, Plain))
    assert all(torch.equal(score, plain[name]) for name, score in greedy.items())
