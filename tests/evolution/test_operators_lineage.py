"""Every child can be made again from its lineage and the masks that it came from."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
from deap import algorithms, base, tools
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.errors import InputError, UnknownName
from evoprune.evolution.individual import Individual
from evoprune.evolution.operators import (
    UMDA,
    cxLayers,
    cxRAR,
    cxSetUniform,
    initSparse,
    mutGuided,
    mutMoveBudget,
    mutResize,
    mutSwap,
    replay,
)
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask
from evoprune.masks.space import MaskSpace
from tests.evolution.test_operators_counts import told

SPACE = MaskSpace(("a", "b", "c"), ((20, 30), (10, 20), (5, 4)))
MUTATIONS = (mutSwap, mutMoveBudget, mutGuided, lambda individual: mutResize(individual, low=60, high=130))
CROSSOVERS = (cxSetUniform, cxRAR, cxLayers)


def apart(mask: Mask) -> Mask:
    """An equal mask that shares no buffer."""
    return Mask(mask.space, [array.copy() for array in mask.survivors])


def again(individual: Individual, parents: list[Any]) -> Mask:
    """The replay from what a file would hold: the lineage as JSON, the parents' indices."""
    return replay(json.loads(json.dumps(individual.lineage)), [apart(parent.mask) for parent in parents])


def evaluated(count: int, seed: int) -> list[Individual]:
    random.seed(seed)
    individuals = []
    for _ in range(count):
        individual = initSparse(Individual, SPACE, sparsity=0.9)
        mutMoveBudget(individual)
        individual.fitness.values = (random.random(),)
        individual.told = told(individual.mask, seed) if random.random() < 0.5 else None
        individuals.append(individual)
    return individuals


mutations = st.lists(st.sampled_from(MUTATIONS), max_size=3)
crossovers = st.lists(st.sampled_from(CROSSOVERS), max_size=1)


@settings(max_examples=60)
@given(steps=st.tuples(mutations, crossovers, mutations, crossovers, mutations), seed=st.integers(0, 2**32))
def test_any_chain_of_operators_replays(steps: tuple[list[Callable[..., Any]], ...], seed: int) -> None:
    parents = evaluated(2, seed)
    a, b = copy.deepcopy(parents)
    for number, operators in enumerate(steps):
        for operate in operators:
            operate(a, b) if number % 2 else operate(a)
    for child, parent in zip((a, b), parents, strict=True):
        if child.mask != parent.mask:
            assert again(child, parents) == child.mask
            assert parent.mask.hash in child.lineage["parents"]


def test_a_drawn_mask_replays_from_its_space() -> None:
    random.seed(1)
    individual = initSparse(Individual, SPACE, sparsity=0.9, allocation="uniform")
    assert individual.lineage["parents"] == []
    assert replay(individual.lineage, space=SPACE) == individual.mask
    mutSwap(individual)
    assert replay(individual.lineage, space=SPACE) == individual.mask


def test_a_models_children_replay() -> None:
    strategy = UMDA(SPACE, sparsity=0.9, lambda_=6, rng=random.Random(1))
    first = strategy.generate(Individual)
    for number, child in enumerate(first):
        assert replay(child.lineage, space=SPACE) == child.mask
        child.fitness.values = (number,)
    strategy.update(first)
    for child in strategy.generate(Individual):
        assert again(child, first) == child.mask
        assert len(child.lineage["parents"]) == strategy.mu


def test_an_evaluation_begins_a_new_lineage_and_a_stale_fitness_does_not() -> None:
    [parent] = evaluated(1, 2)
    child = copy.deepcopy(parent)
    mutSwap(child)
    mutSwap(child)  # the fitness is still the parent's
    assert child.lineage["parents"] == [parent.mask.hash]
    assert len(child.lineage["inputs"]) == 1
    del child.fitness.values
    mutSwap(child)
    assert child.lineage["parents"] == [parent.mask.hash]
    child.fitness.values = parent.fitness.values  # an evaluation with the same result
    middle, grandchild = copy.deepcopy(child), pickle.loads(pickle.dumps(child))
    mutSwap(grandchild)
    assert grandchild.lineage["parents"] == [middle.mask.hash]
    assert "inputs" not in grandchild.lineage
    assert again(grandchild, [middle]) == grandchild.mask


def test_a_pickle_in_between_keeps_a_stale_fitness_stale() -> None:
    [parent] = evaluated(1, 3)
    child = copy.deepcopy(parent)
    mutSwap(child)
    child = pickle.loads(pickle.dumps(child))
    mutSwap(child)
    assert child.lineage["parents"] == [parent.mask.hash]
    assert again(child, [parent]) == child.mask


def test_lineages_do_not_grow_for_ever() -> None:
    parents = evaluated(2, 4)
    a, b = copy.deepcopy(parents)
    for _ in range(200):
        cxSetUniform(a, b)
        mutSwap(a)
    assert len(json.dumps(a.lineage)) < 20_000
    copy.deepcopy(a)


def test_deaps_own_loop_leaves_lineages_to_evaluated_parents_only() -> None:
    known: dict[str, Mask] = {}

    def evaluate(individual: Individual) -> tuple[float]:
        known[individual.mask.hash] = apart(individual.mask)
        return (float(int(individual.mask.hash, 16) % 5),)  # many ties

    toolbox = base.Toolbox()
    toolbox.register("individual", initSparse, Individual, SPACE, sparsity=0.9)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", evaluate)
    toolbox.register("mate", cxRAR)
    toolbox.register("mutate", mutMoveBudget)
    toolbox.register("select", tools.selTournament, tournsize=2)
    random.seed(5)
    population = toolbox.population(n=12)
    for _ in range(5):
        population, _ = algorithms.eaSimple(population, toolbox, cxpb=0.7, mutpb=0.7, ngen=3, verbose=False)
        for individual in population:
            assert replay(individual.lineage, known, space=SPACE) == individual.mask


def test_lineages_that_cannot_be_replayed_say_why() -> None:
    [parent] = evaluated(1, 6)
    child = copy.deepcopy(parent)
    mutSwap(child)
    with pytest.raises(InputError, match=parent.mask.hash):
        replay(child.lineage, [random_mask(SPACE, sparsity=0.9)])
    with pytest.raises(InputError, match="space="):
        replay(initSparse(Individual, SPACE).lineage)
    with pytest.raises(UnknownName, match="mutSwap"):
        replay({**child.lineage, "operator": "mutSwop"}, [parent])
    for broken in ({}, {"operator": "mutSwap"}, {"operator": "mutSwap", "seed": None, "parents": [], "options": {}}):
        with pytest.raises(InputError, match="no lineage"):
            replay(broken, [parent])
