"""Several objectives: what they count, how sizes spread, and what the front holds."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from deap import algorithms, tools

import evoprune as ep
from evoprune.errors import InputError
from evoprune.evolution.objectives import multiply_adds
from evoprune.evolution.several import front
from tests.tiny import images, mlp


def made(**options: Any) -> Any:
    return ep.make_toolbox(mlp(), **{"epochs": 1, "batch_size": 24, "engine": "dense", "sparsity": (0.5, 0.9), **options})


def test_first_population_is_spread_between_two_sparsities() -> None:
    counts = [one.mask.count for one in made(seed=1).population(n=6)]
    space = mlp().space
    assert counts[0] == space.budget(0.5)
    assert counts[-1] == space.budget(0.9)
    assert counts == sorted(counts, reverse=True)
    ratios = np.array(counts[1:]) / np.array(counts[:-1])
    assert np.ptp(ratios) < 0.06, "equal shares between neighbours"


def test_sizes_stay_within_the_two_sparsities() -> None:
    toolbox = made(objectives=("loss", "survivors"), seed=1)
    random.seed(0)
    population, _ = algorithms.eaMuPlusLambda(toolbox.population(n=6), toolbox, 6, 8, 0.3, 0.6, 4, verbose=False)
    low, high = mlp().space.budget(0.9), mlp().space.budget(0.5)
    assert all(low <= one.mask.count <= high for one in population)
    assert all(one.fitness.values[1] == one.mask.count for one in population)
    assert population[0].fitness.weights == (-1.0, -1.0)


@pytest.mark.parametrize(("number", "name"), [(2, "selNSGA2"), (3, "selNSGA2"), (4, "selNSGA3")])
def test_selection_follows_the_number_of_objectives(number: int, name: str) -> None:
    toolbox = made(objectives=("loss", "survivors", "live_paths", "macs")[:number])
    assert toolbox.select.func.__name__ == name
    random.seed(0)
    individuals = toolbox.population(n=5)
    for one, values in zip(individuals, toolbox.map(toolbox.evaluate, individuals), strict=True):
        one.fitness.values = values
    assert len(toolbox.select(individuals, 3)) == 3


def test_multiply_adds_count_every_use_of_a_weight() -> None:
    assert multiply_adds(mlp()) == (1, 1, 1)
    problem = images("lenet5")
    assert multiply_adds(problem) == (24 * 24, 8 * 8, 1, 1)
    toolbox = ep.make_toolbox(problem, sparsity=0.9, objectives=("survivors", "macs"), engine="dense")
    (one,) = toolbox.population(n=1)
    uses = sum(count * use for count, use in zip(one.mask.counts, multiply_adds(problem), strict=True))
    assert toolbox.evaluate(one) == (one.mask.count, uses)
    assert toolbox.map.ledger.samples == 0, "counts need no training"


def test_front_holds_who_is_not_dominated() -> None:
    toolbox = made(objectives=("loss", "survivors"), seed=1)
    individuals = toolbox.population(n=4)
    for one, values in zip(individuals, [(1.0, 40), (2.0, 30), (3.0, 35), (0.5, 50)], strict=True):
        one.fitness.values = values
    found = front([*individuals, toolbox.clone(individuals[0])], ("loss", "survivors"))
    assert list(found["loss"]) == [0.5, 1.0, 2.0]
    individuals[3].failed, individuals[3].fitness.values = True, (float("inf"), float("inf"))
    assert list(front(individuals, ("loss", "survivors"))["loss"]) == [1.0, 2.0]
    assert front(individuals[3:], ("loss", "survivors")).empty
    larger = [ep.Individual(one.mask, ep.fitness_class((1.0, -1.0))((value, value))) for one, value in
              zip(individuals, (2.0, 4.0, 3.0), strict=False)]  # fmt: skip
    assert list(front(larger, ("accuracy", "survivors"))["accuracy"]) == [4.0, 3.0, 2.0], "the best first"
    assert front([], ("loss", "survivors")).empty


def test_evolve_trains_the_first_of_the_front_and_keeps_the_rest() -> None:
    ticket = ep.evolve(
        mlp(), objectives=("loss", "survivors"), sparsity=(0.5, 0.9), epochs=2, fitness_epochs=1, mu=4, lambda_=4, ngen=2,
        batch_size=24,
    )  # fmt: skip
    rows = ticket.provenance["search"]["front"]
    assert ticket.mask.hash == rows[0]["mask"]
    losses, sizes = [row["loss"] for row in rows], [row["survivors"] for row in rows]
    assert losses == sorted(losses)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("lower one first", {"sparsity": (0.9, 0.5)}),
        ("lowest and the highest", {"sparsity": (0.5, 0.6, 0.7)}),
        ("two that differ", {"sparsity": (0.5, 0.5)}),
        ("depends on the cohort", {"objectives": ("both", "survivors")}),
        ("unknown criterion 'flops'", {"objectives": ("loss", "flops")}),
        ("give different names", {"objectives": ("loss", "loss")}),
        ("a sequence of names", {"objectives": "loss"}),
        ("one a rung needs rungs=", {"criterion": ("loss", "grad")}),
    ],
)
def test_wrong_objectives_and_sparsities_are_refused(said: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=said):
        made(**options)


def test_single_objective_keeps_deaps_tournament() -> None:
    assert made(sparsity=0.8).select.func is tools.selTournament
