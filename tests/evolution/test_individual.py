"""Individuals are masks that DEAP can handle, in this process and in others."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from deap import base, creator, tools

from evoprune.errors import InputError
from evoprune.evolution import individual as module
from evoprune.evolution.individual import FitnessMax, FitnessMin, Individual, fitness_class, has_failed
from evoprune.masks.sampling import random_mask
from tests.tiny import mlp


def individual(seed: int = 0, *values: float) -> Individual:
    one = Individual(random_mask(mlp().space, sparsity=0.7, seed=seed))
    if values:
        one.fitness = fitness_class((1.0,) * len(values))(values)
    return one


def test_individuals_are_equal_when_their_masks_are() -> None:
    assert individual(1) == individual(1, 3.0)
    assert individual(1) != individual(2)
    assert (individual(1) == individual(1)) is True
    assert individual(1) != "a mask"
    with pytest.raises(TypeError):
        hash(individual(1))


def test_a_clone_shares_the_mask_and_nothing_else() -> None:
    parent = individual(1, 3.0)
    parent.note = ["mine"]  # type: ignore[attr-defined]
    clone = copy.deepcopy(parent)
    assert clone.mask is parent.mask
    assert clone.fitness == parent.fitness
    clone.note.append("its own")
    clone.fitness.values = (9.0,)
    clone.mask = individual(2).mask
    assert parent.note == ["mine"]  # type: ignore[attr-defined]
    assert parent.fitness.values == (3.0,)
    assert parent == individual(1)


def test_a_pickle_comes_back_with_mask_fitness_and_attributes() -> None:
    one = individual(1, 3.0, 4.0)
    one.history_index = 7  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert again.fitness.values == (3.0, 4.0)
    assert type(again.fitness) is type(one.fitness)
    assert again.history_index == 7


def test_only_a_mask_makes_an_individual() -> None:
    with pytest.raises(InputError, match="from a Mask"):
        Individual([1, 2, 3])  # type: ignore[arg-type]


# ---- fitness ------------------------------------------------------------------------------------------------------------


WEIGHTS = [(1.0,), (-1.0,), (1.0, -1.0), (0.25, -3.0), (1e-05, 1e20), (0.12345678, -1.5), (-0.1, 1 / 3, 2.0)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_equal_weights_give_one_class_that_keeps_every_digit(weights: tuple[float, ...]) -> None:
    made = fitness_class(weights)
    assert made.weights == weights
    assert made is fitness_class(list(weights))
    assert pickle.loads(pickle.dumps(made)) is made
    assert made is getattr(module, made.__name__)


def test_weights_that_differ_in_a_late_digit_give_different_classes() -> None:
    assert fitness_class((0.12345678,)) is not fitness_class((0.12345679,))


def test_single_objectives_have_their_plain_names() -> None:
    assert fitness_class((1,)) is FitnessMax
    assert fitness_class((-1,)) is FitnessMin


@pytest.mark.parametrize("weights", [(), (0.0,), (1.0, float("nan"))])
def test_weights_that_cannot_be_used_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="weights"):
        fitness_class(weights)


@pytest.mark.parametrize("name", ["Fitness_what", "Fitness_", "Fitnes", "anything"])
def test_other_names_are_no_attributes_of_the_module(name: str) -> None:
    assert not hasattr(module, name)


def test_smaller_is_fitter_when_minimised_and_an_infinite_loss_is_the_worst() -> None:
    small, large, worst = FitnessMin((1.0,)), FitnessMin((2.0,)), FitnessMin((float("inf"),))
    assert small > large > worst
    assert FitnessMax((2.0,)) > FitnessMax((1.0,)) > FitnessMax((-float("inf"),))


@pytest.mark.parametrize(
    ("weights", "values", "failed"),
    [
        ((-1.0,), (float("inf"),), True),
        ((-1.0, -1.0), (float("inf"), float("inf")), True),
        ((1.0, 1.0), (2.0, -float("inf")), True),  # a tournament's: the rung reached is a number
        ((-1.0,), (5.0,), False),
        ((1.0, -1.0), (0.5, 30.0), False),
        ((-1.0,), (), False),
    ],
)
def test_the_mark_of_a_failure_counts_with_the_value_of_a_failure(
    weights: tuple[float, ...], values: tuple[float, ...], failed: bool
) -> None:
    one = Individual(random_mask(mlp().space, sparsity=0.5), fitness_class(weights)(values))
    assert not has_failed(one)
    one.failed = True
    assert has_failed(one) is failed


def echo(one: Any) -> tuple[Any, str]:
    return one, type(one.fitness).__name__


def test_fitness_classes_cross_to_a_spawned_process_and_back() -> None:
    sent = [individual(1, 3.0), individual(2, 1.0, 2.0)]
    sent[1].fitness = fitness_class((0.3, -1.7))((1.0, 2.0))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for before, (after, name) in zip(sent, pool.map(echo, sent), strict=True):
            assert after == before
            assert after.fitness == before.fitness
            assert type(after.fitness) is type(before.fitness)
            assert name == type(before.fitness).__name__


# ---- DEAP's own tools -----------------------------------------------------------------------------------------------------


@pytest.fixture
def made() -> Iterator[Any]:
    creator.create("TinyFitness", base.Fitness, weights=(1.0, -0.5))
    creator.create("TinyIndividual", Individual, fitness=creator.TinyFitness, tag=dict)
    yield creator.TinyIndividual
    del creator.TinyIndividual, creator.TinyFitness


def test_a_class_made_by_the_creator_keeps_its_own_fitness(made: Any) -> None:
    one = made(random_mask(mlp().space, sparsity=0.7))
    assert type(one.fitness) is creator.TinyFitness
    assert one.fitness.weights == (1.0, -0.5)
    assert one.tag == {}
    assert one == individual(0)
    one.fitness.values = (1.0, 2.0)
    assert copy.deepcopy(one).fitness.values == (1.0, 2.0)
    assert type(made(one.mask, FitnessMin()).fitness) is FitnessMin


def test_a_hall_of_fame_keeps_the_best_different_masks() -> None:
    hall = tools.HallOfFame(2)
    hall.update([individual(1, 1.0), individual(1, 1.0), individual(2, 5.0), individual(3, 0.0)])
    assert [one.fitness.values[0] for one in hall] == [5.0, 1.0]
    hall.update([individual(2, 5.0), individual(4, 3.0)])
    assert [one.fitness.values[0] for one in hall] == [5.0, 3.0]


def test_a_hall_of_fame_does_not_follow_later_changes() -> None:
    hall, one = tools.HallOfFame(1), individual(1, 1.0)
    hall.update([one])
    one.mask = individual(2).mask
    assert hall[0] == individual(1)


def test_a_pareto_front_and_nsga2_take_them() -> None:
    front = tools.ParetoFront()
    population = [individual(1, 1.0, 3.0), individual(2, 2.0, 2.0), individual(3, 1.0, 1.0)]
    front.update(population)
    assert {one.mask.hash for one in front} == {population[0].mask.hash, population[1].mask.hash}
    assert population[2] not in tools.selNSGA2(population, 2)


def test_statistics_and_a_history_work() -> None:
    population = [individual(seed, float(seed)) for seed in range(4)]
    stats = tools.Statistics(lambda one: one.fitness.values[0])
    stats.register("best", max)
    assert stats.compile(population) == {"best": 3.0}
    history = tools.History()
    history.update(population)
    [child] = history.decorator(lambda one: (one,))(copy.deepcopy(population[2]))
    assert history.genealogy_tree[child.history_index] == (population[2].history_index,)
