"""Dissipating gradients removes what stays near its initial value: every rule against a naive computation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evoprune.errors import InputError, UnknownName
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask
from evoprune.masks.space import MaskSpace
from evoprune.methods import METHODS
from evoprune.methods.dissipation import RULES, check, geometric, layer_counts, snapshot
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.tiny import mlp, table

Dense = dict[str, np.ndarray]
OPTIONS: dict[str, Any] = {"epochs": 5, "batch_size": 18, "engine": "loop", "seed": 3}


def dissipating(**options: Any) -> Ticket:
    return METHODS["dissipating"](mlp(), **{**OPTIONS, **options})


def start(sparsity: float) -> Population:
    mask = random_mask(mlp().space, sparsity=sparsity, seed=3)
    return Population(mlp(), [mask], horizon=5, batch_size=18, engine="loop", seed=3)


def dense(generation: Population, values: Any = None) -> Dense:
    row = generation.parameters.row(0, values=values)
    return {name: row[name].double().numpy() for name in mlp().space.names}


def naive(generation: Population, score: Callable[[str, int], float], budget: int, *, scope: str, largest: bool) -> Mask:
    """Keep the best `budget` of the live weights, every layer one; ties by layer and index."""
    mask, sign = generation.masks[0], 1 if largest else -1
    keys = [
        (sign * score(name, int(index)), -layer, -int(index))
        for layer, (name, own) in enumerate(zip(mask.space.names, mask.survivors, strict=True))
        for index in own
    ]
    if scope == "layer":
        counts = layer_counts(mask, budget)
        kept = [
            key for layer, count in enumerate(counts) for key in sorted((k for k in keys if k[1] == -layer), reverse=True)[:count]
        ]
    else:
        first = [max(key for key in keys if key[1] == -layer) for layer in range(len(mask.space))]
        rest = sorted((key for key in keys if key not in first), reverse=True)
        kept = [*first, *rest[: budget - len(first)]]
    return Mask(mask.space, [sorted(-i for _, l, i in kept if l == -layer) for layer in range(len(mask.space))])


@pytest.mark.parametrize("control", ["none", "inverted"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize(
    ("rule", "reference"),
    [("rank", "init"), ("rank", "epoch"), ("rank_relative", "init"), ("rank_relative", "epoch"), ("gradient", "init")],
)
def test_rank_rules_remove_by_their_score_on_the_schedule(rule: str, reference: str, scope: str, control: str) -> None:
    generation = start(0.4)
    schedule = geometric(generation.masks[0].count, mlp().space.budget(0.8), 2)
    for survivors in schedule:
        held = dense(generation, generation.parameters.initial) if reference == "init" else dense(generation)
        generation.train(1, record=("grad",))
        value = dense(generation)
        gradient = dense(generation, {**generation.parameters.survivors, **generation.trace.sums["grad"]})

        def score(name: str, index: int, value: Dense = value, held: Dense = held, gradient: Dense = gradient) -> float:
            moved = abs(value[name].flat[index] - held[name].flat[index])
            if rule == "gradient":
                return float(abs(gradient[name].flat[index]))
            return float(moved if rule == "rank" else moved / abs(held[name].flat[index]))

        generation.prune([naive(generation, score, survivors, scope=scope, largest=control == "none")])
        assert generation.masks[0].count == survivors
    generation.train(3)
    ticket = dissipating(sparsity=0.8, rule=rule, reference=reference, scope=scope, control=control, checks=2, start_sparsity=0.4)
    assert ticket.mask == generation.masks[0]
    for name, trained in generation.parameters.row(0).items():
        assert torch.equal(ticket.weights[name], trained)


@pytest.mark.parametrize("control", ["none", "inverted"])
@pytest.mark.parametrize("rule", ["fraction", "fraction_of_scale"])
def test_fraction_rules_remove_whatever_stays_within_delta(rule: str, control: str) -> None:
    delta = 0.3 if rule == "fraction" else 0.1
    generation = start(0.0)
    initial = {name: value.double().numpy() for name, value in mlp().initial_weights().items()}
    for _ in range(2):
        generation.train(1)
        value, survivors = dense(generation), []
        for layer, name in enumerate(mlp().space.names):
            scale = np.abs(initial[name]) if rule == "fraction" else float(mlp().initial_weights()[name].std())
            near = np.abs(value[name] - initial[name]) <= delta * scale
            stays = (near if control == "inverted" else ~near).flatten()
            survivors.append([i for i in generation.masks[0].survivors[layer].tolist() if stays[i]])
        generation.prune([Mask(mlp().space, survivors)])
    assert min(generation.masks[0].counts) > 0
    assert generation.masks[0].count < 164
    assert dissipating(rule=rule, delta=delta, control=control, checks=2).mask == generation.masks[0]


def test_a_fraction_removes_the_published_share_of_gaussian_movement() -> None:
    """Oracle: with w0 ~ N(0, s²) and movement ~ N(0, v²), the share (2/pi)·atan(delta·s/v) leaves."""
    rng = np.random.default_rng(0)
    for s, v, delta in ((1.0, 0.5, 0.5), (0.1, 0.3, 0.9), (0.05, 0.01, 0.2)):
        reference = rng.normal(0, s, 200_000)
        value = reference + rng.normal(0, v, 200_000)
        score = RULES["fraction"].score(value, reference, value, 1.0)
        assert (score <= delta).mean() == pytest.approx(2 / math.pi * math.atan(delta * s / v), abs=0.004)


def test_a_weight_that_starts_at_zero_has_moved_without_limit_unless_it_is_still_there() -> None:
    score = RULES["rank_relative"].score(np.array([0.1, 0.0, 2.0]), np.array([0.0, 0.0, 1.0]), np.zeros(3), 1.0)
    assert score.tolist() == [math.inf, 0.0, 1.0]


@given(st.integers(1, 10**6), st.floats(0.001, 1), st.integers(1, 30))
def test_the_schedule_is_geometric_and_ends_at_exactly_the_budget(start_count: int, share: float, checks: int) -> None:
    budget = max(1, round(share * start_count))
    counts = geometric(start_count, budget, checks)
    assert len(counts) == checks
    assert counts[-1] == budget
    assert all(a >= b for a, b in zip([start_count, *counts], counts, strict=False))
    for step, count in enumerate(counts, start=1):
        assert count == pytest.approx(start_count * (budget / start_count) ** (step / checks), abs=0.51)


def test_the_history_shows_the_schedule() -> None:
    ticket = dissipating(sparsity=0.9, start_sparsity=0.5, checks=3)
    counts = [82, *geometric(82, 16, 3)]
    assert ticket.history["survivors"].tolist() == [*counts[:3], 16, 16]


def test_no_layer_falls_below_one_survivor() -> None:
    ticket = dissipating(sparsity="0.98", start_sparsity=0.0, checks=1)
    assert ticket.mask.count == 3
    assert ticket.mask.counts == (1, 1, 1)


def test_defaults_follow_the_asked_density() -> None:
    assert dissipating(sparsity=0.9).history["survivors"][0] == mlp().space.budget(0.7)
    assert dissipating(sparsity=0.8).history["survivors"][0] == round(164 * 2 * 33 / 164)  # twice the obtained density
    assert dissipating(sparsity=0.4).history["survivors"][0] == 164
    checked = dissipating(sparsity=0.9, epochs=10).history["survivors"].tolist()
    assert len(set(checked)) == 5  # the start, then max(2, 2·10 // 5) checks


def test_survivors_keep_their_values_and_rewind_puts_them_back() -> None:
    kept, rewound = (dissipating(sparsity=0.8, checks=2, control=control) for control in ("none", "rewind"))
    assert kept.mask == rewound.mask
    again = Population(mlp(), [kept.mask], horizon=5, batch_size=18, engine="loop", seed=3)
    again.steps = 2 * again.batches.per_epoch
    again.train(3)
    for name, value in again.parameters.row(0).items():
        assert torch.equal(value, rewound.weights[name]), name
    assert not torch.equal(kept.weights[mlp().space.names[0]], rewound.weights[mlp().space.names[0]])


def test_with_decay_alone_the_smallest_weights_move_least_so_the_control_is_magnitude_pruning() -> None:
    ticket = dissipating(sparsity=0.8, start_sparsity=0.0, checks=1, control="zero_gradient", weight_decay=0.01)
    sizes = {name: np.abs(mlp().initial_weights()[name].numpy().flatten()) for name in mlp().space.names}
    largest = np.sort(np.concatenate(list(sizes.values())))[-33]
    for name, own in zip(mlp().space.names, ticket.mask.survivors, strict=True):
        assert set(own.tolist()) == set(np.flatnonzero(sizes[name] >= largest).tolist())


def test_layer_counts_keep_the_proportions_and_the_sum() -> None:
    space = MaskSpace(("a", "b"), ((100,), (40,)))
    assert layer_counts(Mask(space, [range(60), range(20)]), 40) == (30, 10)
    assert layer_counts(Mask(space, [range(60), range(1)]), 20) == (19, 1)
    three = MaskSpace(("a", "b", "c"), ((3000,), (50,), (100,)))
    assert layer_counts(Mask(three, [range(3000), range(0), range(100)]), 310) == (300, 0, 10), "an empty layer changes nothing"


@pytest.mark.parametrize("start", [{}, {"drop_rate": 0.5}, {"rescale": True}, {"init": "hessian"}])
def test_the_scale_of_a_layer_is_that_of_the_weights_that_training_began_with(start: dict[str, Any]) -> None:
    mask = random_mask(mlp().space, sparsity=0.2, seed=3)
    generation = Population(mlp(), [mask], horizon=5, batch_size=18, engine="loop", seed=3, **start)
    began = snapshot(generation.parameters.initial)
    with torch.no_grad():
        for name, value in generation.parameters.survivors.items():
            value += 0.1 * began[name].std()  # all by as much of their layer's scale
    before = generation.masks[0].counts
    check(generation, RULES["fraction_of_scale"], began, delta=0.07)
    assert generation.masks[0].counts == before, "0.1 is more than 0.07"
    check(generation, RULES["fraction_of_scale"], snapshot(generation.parameters.initial), delta=0.14)
    assert set(generation.masks[0].counts) == {1}


def test_a_layer_of_one_weight_has_no_scale_and_keeps_it() -> None:
    problem = Problem(nn.Sequential(nn.Linear(6, 1), nn.Tanh(), nn.Linear(1, 3)), table())
    single = Problem(nn.Sequential(nn.Linear(6, 1), nn.Tanh(), nn.Linear(1, 1), Wide()), table())
    for own in (problem, single):
        options = {"rule": "fraction_of_scale", "delta": 0.5, "epochs": 2, "checks": 1, "engine": "loop"}
        assert METHODS["dissipating"](own, **options).mask.counts[-1] >= 1


class Wide(nn.Module):
    """Three outputs of one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 2 * x, -x], 1)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rule": "fraction", "delta": 0.1, "sparsity": 0.9}, "sparsity"),
        ({"rule": "fraction"}, "delta"),
        ({"rule": "fraction", "delta": -1}, "delta"),
        ({"rule": "rank", "delta": 0.1}, "delta"),
        ({"control": "zero_gradient"}, "weight_decay"),
        ({"rule": "gradient", "reference": "epoch"}, "has no part in rule 'gradient'"),
        ({"rule": "gradient", "control": "zero_gradient", "weight_decay": 0.1}, "nothing to read"),
        ({"checks": 5}, "checks"),
        ({"checks": 0}, "checks"),
        ({"epochs": 1}, "epochs"),
        ({"sparsity": 0.5, "start_sparsity": 0.9}, "start_sparsity"),
        ({"start_sparsity": 1.0}, "sparsity"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        dissipating(**wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["rule", "reference", "control", "scope"])
def test_unknown_names_are_refused(option: str) -> None:
    with pytest.raises(UnknownName):
        dissipating(**{option: "no such thing"})
