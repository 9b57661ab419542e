"""Each criterion is its formula, in its direction; the worst never wins."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import evoprune as ep
from evoprune.criteria import CRITERIA, Criterion, criterion
from evoprune.errors import InputError, UnknownName
from evoprune.evolution.assess import assess, initial_population
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_masks
from evoprune.masks.topology import Topology
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.trace import Floats, Trace
from tests.tiny import global_state, mlp, table

K = 6


def generation(**options: object) -> Population:
    masks = random_masks(mlp().space, K, sparsity=0.7)
    everyone = Population(mlp(), masks, horizon=3, batch_size=18, engine="loop", **options)  # type: ignore[arg-type]
    return everyone.train(2, record=("grad", "grad_path"))


def survivors_of(everyone: Population, row: int, values: Callable[[str], torch.Tensor]) -> float:
    """Sum of abs(values) over the survivors of one row, in plain Python."""
    total = 0.0
    for name in everyone.problem.space.names:
        a, b = everyone.parameters.bounds[name][row : row + 2]
        total += sum(abs(float(value)) for value in values(name)[a:b])
    return total


def naive(everyone: Population, name: str) -> list[float]:
    trace, rows = everyone.trace, range(K)
    initial = mlp().initial_weights()

    def moved(row: int) -> float:
        now, kept = everyone.parameters.row(row), everyone.masks[row].dense()
        return sum(float((now[layer] - initial[layer])[keep].abs().double().sum()) for layer, keep in kept.items())

    weight = [survivors_of(everyone, row, lambda layer: everyone.parameters.survivors[layer].detach()) for row in rows]
    grad = [survivors_of(everyone, row, lambda layer: trace.sums["grad"][layer]) for row in rows]
    if name == "both":
        z = [(np.array(values) - np.mean(values)) / np.std(values) for values in (weight, grad)]
        return list(z[0] + z[1])
    if name == "live_paths":
        topology = Topology.of(mlp().module(), (6,))
        return [float(topology.live(mask).count) for mask in everyone.masks]
    frame = everyone.evaluate()
    return {
        "weight": weight,
        "grad": grad,
        "grad_path": [survivors_of(everyone, row, lambda layer: trace.sums["grad_path"][layer]) for row in rows],
        "movement": [moved(row) for row in rows],
        "loss": frame["loss"].tolist(),
        "accuracy": frame["accuracy"].tolist(),
    }[name]


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "random"])
def test_a_criterion_is_its_formula(name: str) -> None:
    everyone = generation()
    values = CRITERIA[name](everyone.trace, everyone.masks)
    assert values.shape == (K,)
    assert values == pytest.approx(naive(everyone, name), rel=1e-5)
    assert len(set(values)) > 1


def test_only_the_loss_is_minimised() -> None:
    assert {name: rule.direction for name, rule in CRITERIA.items() if rule.direction == "min"} == {"loss": "min"}
    assert CRITERIA["loss"].weight == -1
    assert CRITERIA["loss"].worst == math.inf
    assert CRITERIA["accuracy"].worst == -math.inf


def test_needs_are_exactly_what_has_to_be_recorded() -> None:
    plain = Population(mlp(), random_masks(mlp().space, K, sparsity=0.7), horizon=1, batch_size=18, engine="loop").train(1)
    for rule in CRITERIA.values():
        if rule.needs:
            with pytest.raises(InputError, match="record="):
                rule(plain.trace, plain.masks)
        else:
            assert np.isfinite(rule(plain.trace, plain.masks)).all()


def test_only_both_depends_on_the_cohort() -> None:
    everyone = generation()
    before = {name: rule(everyone.trace, everyone.masks) for name, rule in CRITERIA.items()}
    rows = [4, 1, 2]
    everyone.select(rows)
    for name, rule in CRITERIA.items():
        same = rule(everyone.trace, everyone.masks).tolist() == before[name][rows].tolist()
        assert same is not rule.relative, name
    assert [name for name, rule in CRITERIA.items() if rule.relative] == ["both"]


@pytest.mark.parametrize("name", CRITERIA)
def test_a_failed_network_gets_the_worst_value_and_the_others_are_unaffected(name: str) -> None:
    masks = random_masks(mlp().space, K, sparsity=0.7)
    everyone = Population(mlp(), masks, horizon=2, batch_size=18, engine="loop")
    with torch.no_grad():
        everyone.parameters.stacked["1.bias"][2] = float("nan")
    everyone.train(2, record=("grad",) if name != "grad_path" else ("grad_path",))
    rule = CRITERIA[name]
    values = rule(everyone.trace, everyone.masks)
    assert values[2] == rule.worst
    assert np.isfinite(np.delete(values, 2)).all()
    others = Population(mlp(), [mask for row, mask in enumerate(masks) if row != 2], horizon=2, batch_size=18, engine="loop")
    others.train(2, record=("grad",) if name != "grad_path" else ("grad_path",))
    assert rule(others.trace, others.masks).tolist() == np.delete(values, 2).tolist()


def test_a_value_that_is_not_a_number_never_wins() -> None:
    def odd(trace: Trace, masks: Sequence[Mask]) -> Floats:
        return np.array([1.0, np.nan, np.inf, -np.inf, 2.0, 0.0])

    everyone = generation()
    for direction, worst in (("max", -math.inf), ("min", math.inf)):
        values = Criterion("odd", odd, direction)(everyone.trace, everyone.masks)  # type: ignore[arg-type]
        assert values.tolist() == [1.0, worst, worst, worst, 2.0, 0.0]


def test_a_cohort_of_equals_has_no_z_scores_that_are_not_numbers() -> None:
    masks = [random_masks(mlp().space, 1, sparsity=0.7)[0]] * 3
    everyone = Population(mlp(), masks, horizon=1, batch_size=18, engine="loop").train(1, record=("grad",))
    assert CRITERIA["both"](everyone.trace, everyone.masks).tolist() == [0.0, 0.0, 0.0]


def test_the_random_control_is_a_function_of_the_mask_alone() -> None:
    everyone = generation()
    with global_state(3):
        values = CRITERIA["random"](everyone.trace, everyone.masks)
    everyone.select([3, 0])
    assert CRITERIA["random"](everyone.trace, everyone.masks).tolist() == values[[3, 0]].tolist()
    assert len(set(values)) == K


def test_the_random_control_is_uniform_and_tells_nothing_of_the_weights() -> None:
    masks = random_masks(mlp().space, 400, sparsity=0.7)
    everyone = Population(mlp(), masks, horizon=1, batch_size=18)
    values, weights = (CRITERIA[name](everyone.trace, everyone.masks) for name in ("random", "weight"))
    assert values.mean() == pytest.approx(0.5, abs=0.05)
    assert abs(np.corrcoef(values, weights)[0, 1]) < 0.15


def test_accuracy_has_no_meaning_without_classes() -> None:
    problem = Problem("autoencoder", table((6,), None))
    everyone = Population(problem, random_masks(problem.space, 2, sparsity=0.5), horizon=1, batch_size=18).train(1)
    with pytest.raises(InputError, match="criterion='loss'"):
        CRITERIA["accuracy"](everyone.trace, everyone.masks)


@pytest.mark.parametrize("name", CRITERIA)
def test_assess_gives_fitnesses_whose_order_is_that_of_the_values(name: str) -> None:
    everyone, individuals = generation(), initial_population(mlp().space, K, sparsity=0.7)
    values = assess(individuals, everyone.trace, name)
    assert [one.fitness.values for one in individuals] == [(value,) for value in values]
    best = max(individuals, key=lambda one: one.fitness)
    assert best.fitness.values[0] == (values.min() if name == "loss" else values.max())
    assert everyone.trace.frame().query("epoch == 2")[name].tolist() == values.tolist()


@pytest.fixture
def own() -> Iterator[None]:
    """The table as it was, afterwards."""
    before = dict(CRITERIA)
    yield
    CRITERIA._entries.clear()
    CRITERIA._entries.update(before)


@pytest.mark.usefixtures("own")
def test_a_criterion_gives_one_number_a_mask() -> None:
    everyone = generation()
    given: list[object] = [1.0, [1.0], np.ones((K, 1)), np.ones(K - 1)]
    for value in given:

        @criterion("max")
        def strange(trace: Trace, masks: Sequence[Mask]) -> Floats:
            return value  # type: ignore[return-value]  # noqa: B023

        with pytest.raises(InputError, match=rf"'strange' gives shape \(.*\) for {K} masks: return one number a mask"):
            CRITERIA["strange"](everyone.trace, everyone.masks)


@pytest.mark.usefixtures("own")
def test_a_criterion_has_a_direction_and_takes_trace_and_masks() -> None:
    with pytest.raises(InputError, match='direction=\'lower\' is not usable: give "max" when larger is fitter, else "min"'):
        criterion("lower")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"criterion 'loss_alone' has other arguments: let it take \(trace, masks\)"):

        @criterion("min")  # type: ignore[arg-type]
        def loss_alone(trace: Trace) -> Floats:
            return trace.last("val_loss")

    assert "loss_alone" not in CRITERIA


def test_a_function_in_place_of_a_name_is_told_how_to_get_one() -> None:
    def mine(trace: Trace, masks: Sequence[Mask]) -> Floats:
        return trace.last("val_loss")

    how = re.escape("""criterion 'mine' is given as a function: register it with @evoprune.criteria.criterion("min"), and give""")
    asked: list[tuple[Any, dict[str, Any]]] = [
        *((call, {"criterion": mine}) for call in (ep.kstarts, ep.evolve, ep.methods["halving"], ep.make_toolbox)),
        (ep.make_toolbox, {"criterion": mine, "rungs": (1,)}),
        (ep.make_toolbox, {"objectives": (mine, "survivors")}),
    ]
    for call, options in asked:
        with pytest.raises(InputError, match=how):
            call(mlp(), sparsity=0.5, **options)


def test_an_unknown_criterion_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'loss'"):
        CRITERIA["los"]
