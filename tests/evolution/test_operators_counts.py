"""No operator loses, gains or doubles a survivor, at any sparsity; none touches a parent, a fitness or a global generator."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from deap import base, creator
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.errors import InputError, MaskMismatch
from evoprune.evolution.individual import Individual
from evoprune.evolution.operators import (
    OPERATORS,
    UMDA,
    Told,
    cxLayers,
    cxRAR,
    cxSetUniform,
    initSparse,
    mutGuided,
    mutMoveBudget,
    mutResize,
    mutSwap,
    stream,
)
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask, random_of_counts
from evoprune.masks.space import MaskSpace

SPACE = MaskSpace(("wide", "middle", "out"), ((300, 100), (40, 50), (5, 2)))
SMALL = MaskSpace(("wide", "middle", "out"), ((50, 50), (25, 20), (5, 2)))
OTHER = MaskSpace(("wide", "middle", "out"), ((300, 100), (40, 50), (2, 5)))
SPARSITIES = (0.001, 0.05, 0.3, 0.5, 0.9, 0.98, 0.999, 0.9999)
EXAMPLES, CHAIN = 50, 200  # applications of each operator: their product


def first(sparsity: float, allocation: str = "erk") -> Individual:
    """A random individual, of the small space unless that has too few weights for this sparsity."""
    space = SMALL if sparsity <= 0.98 else SPACE
    individual: Individual = initSparse(Individual, space, sparsity=sparsity, allocation=allocation)
    return individual


def well_formed(mask: Mask) -> Mask:
    for survivors, size in zip(mask.survivors, mask.space.sizes, strict=True):
        assert survivors.dtype == np.int64
        assert not survivors.flags.writeable
        assert (np.diff(survivors) > 0).all()
        assert not len(survivors) or (survivors[0] >= 0 and survivors[-1] < size)
    return mask


def told(mask: Mask, seed: int = 0) -> Told:
    """What a training might have told: random movement, and random candidates for growth (survivors among them)."""
    draw = np.random.default_rng(seed)
    grown = tuple((draw.permutation(size)[:30].astype(np.int64), draw.random(min(size, 30))) for size in mask.space.sizes)
    return Told(mask, tuple(draw.random(count) for count in mask.counts), grown)


def any_swap(individual: Any) -> tuple[Any]:
    return mutSwap(individual, swaps=random.choice([None, None, 0, 1, 20, 10**9]))


def any_guided(individual: Any) -> tuple[Any]:
    if random.random() < 0.1:
        individual.told = told(individual.mask)
    options = random.choice([{}, {"swaps": 10**9}, {"share": 0.2}, {"share": 1.0, "on": "random"}, {"share": 0.1, "noise": True}])
    return mutGuided(individual, **options)


def any_uniform(ind1: Any, ind2: Any) -> tuple[Any, Any]:
    return cxSetUniform(ind1, ind2, indpb=random.choice([0.5, 0.5, 0.01, 0.9, 0.0, 1.0]))


def any_assorting(ind1: Any, ind2: Any) -> tuple[Any, Any]:
    return cxRAR(ind1, ind2, weight=random.choice([3.0, 3.0, 0.5, 1, float("inf")]))


PER_LAYER: dict[str, Callable[[Any], Any]] = {"mutSwap": any_swap, "mutGuided": any_guided}
MATES: dict[str, Callable[[Any, Any], Any]] = {"cxSetUniform": any_uniform, "cxRAR": any_assorting}

cases = given(sparsity=st.sampled_from(SPARSITIES), seed=st.integers(0, 2**32))
many = settings(max_examples=EXAMPLES, deadline=None)


@pytest.mark.parametrize("name", PER_LAYER)
@cases
@many
def test_mutations_keep_every_layers_count(name: str, sparsity: float, seed: int) -> None:
    random.seed(seed)
    individual = first(sparsity)
    counts = individual.mask.counts
    for _ in range(CHAIN):
        (same,) = PER_LAYER[name](individual)
        assert same is individual
        assert well_formed(individual.mask).counts == counts


@given(sparsity=st.sampled_from(SPARSITIES), seed=st.integers(0, 2**32), floor=st.sampled_from([0, 1, 3]))
@many
def test_moving_budget_keeps_the_total_and_the_floors(sparsity: float, seed: int, floor: int) -> None:
    random.seed(seed)
    individual = first(sparsity)
    total, before = individual.mask.count, individual.mask.counts
    for _ in range(CHAIN):
        mutMoveBudget(individual, floor=floor)
        after = well_formed(individual.mask).counts
        assert sum(after) == total
        assert all(now >= min(floor, old) for now, old in zip(after, before, strict=True))
        assert sum(now != old for now, old in zip(after, before, strict=True)) in (0, 2)
        before = after


@cases
@many
def test_resizing_stays_within_bounds_and_adds_or_removes(sparsity: float, seed: int) -> None:
    random.seed(seed)
    individual = first(sparsity)
    start = individual.mask.count
    low, high = max(3, start - 40), min(individual.mask.space.prunable, start + 40)
    totals = {start}
    for _ in range(CHAIN):
        old = individual.mask.survivors
        mutResize(individual, low=low, high=high)
        totals.add(well_formed(individual.mask).count)
        for before, after in zip(old, individual.mask.survivors, strict=True):  # it adds or removes, never both
            kept = len(np.intersect1d(before, after, assume_unique=True))
            assert kept == min(len(before), len(after))
            assert len(after) >= 1
    assert min(totals) >= low
    assert max(totals) <= high
    assert len(totals) > 10 or high - low < 20


@pytest.mark.parametrize("name", MATES)
@cases
@many
def test_crossovers_keep_every_layers_count_of_each_parent(name: str, sparsity: float, seed: int) -> None:
    random.seed(seed)
    a = first(sparsity)
    b = first(sparsity, allocation="uniform" if sparsity < 0.9999 else "erk")
    counts = a.mask.counts, b.mask.counts
    for _ in range(CHAIN // 2):  # two children each
        assert MATES[name](a, b) == (a, b)
        assert (well_formed(a.mask).counts, well_formed(b.mask).counts) == counts


@cases
@many
def test_whole_layers_cross_and_totals_stay(sparsity: float, seed: int) -> None:
    random.seed(seed)
    a = first(sparsity)
    b = first(sparsity, allocation="uniform" if sparsity < 0.99 else "erk")
    mutResize(b, low=3, high=b.mask.space.prunable, number=max(1, b.mask.count // 100))
    for _ in range(CHAIN // 2):
        totals, either, both = (a.mask.count, b.mask.count), a.mask | b.mask, a.mask & b.mask
        ranges = [sorted(pair) for pair in zip(a.mask.counts, b.mask.counts, strict=True)]
        cxLayers(a, b)
        assert (well_formed(a.mask).count, well_formed(b.mask).count) == totals
        for child in (a.mask, b.mask):
            assert both <= child <= either
            assert all(low <= count <= high for count, (low, high) in zip(child.counts, ranges, strict=True))


def test_layers_of_parents_with_equal_counts_are_exchanged_whole() -> None:
    random.seed(2)
    for _ in range(50):
        a, b = (initSparse(Individual, SPACE, sparsity=0.9) for _ in range(2))
        first, second = a.mask.survivors, b.mask.survivors
        cxLayers(a, b)
        swapped = [one is new for one, new in zip(second, a.mask.survivors, strict=True)]
        assert 0 < sum(swapped) < len(swapped)
        for layer, crossed in enumerate(swapped):
            pair = (second, first) if crossed else (first, second)
            assert a.mask.survivors[layer] is pair[0][layer]
            assert b.mask.survivors[layer] is pair[1][layer]


@cases
@many
def test_a_model_keeps_the_total_and_common_layer_counts(sparsity: float, seed: int) -> None:
    random.seed(seed)
    strategy = UMDA(SMALL if sparsity <= 0.98 else SPACE, sparsity=sparsity, lambda_=CHAIN // 4, mu=5, smoothing=0.2)
    counts = first(sparsity).mask.counts
    for generation in range(4):
        children = strategy.generate(Individual)
        assert len(children) == CHAIN // 4
        for child in children:
            assert well_formed(child.mask).counts == counts
            child.fitness.values = (random.random(),)
        assert generation == 0 or children[0].lineage["operator"] == "UMDA"
        strategy.update(children)


def test_a_model_of_unequal_layer_counts_keeps_the_total() -> None:
    random.seed(3)
    parents = [initSparse(Individual, SPACE, sparsity=0.9) for _ in range(5)]
    for parent in parents:
        mutMoveBudget(parent, number=50)
    mean = np.mean([parent.mask.counts for parent in parents], axis=0)
    for child in UMDA(parents, lambda_=200).generate(Individual):
        assert well_formed(child.mask).count == parents[0].mask.count
        assert (np.abs(np.array(child.mask.counts) - mean) < 1).all()


@given(
    survivors=st.integers(0, 40),
    swaps=st.integers(0, 60),
    seed=st.integers(0, 2**32),
)
def test_a_swap_changes_exactly_twice_its_number(survivors: int, swaps: int, seed: int) -> None:
    space = MaskSpace(("only",), ((5, 8),))
    individual = Individual(random_of_counts(space, [survivors], np.random.default_rng(seed)))
    before = individual.mask
    mutSwap(individual, swaps=swaps, rng=random.Random(seed))
    assert (before ^ individual.mask).count == 2 * min(swaps, survivors, 40 - survivors)


@pytest.mark.parametrize(
    "counts", [(0, 0, 0), (30000, 2000, 10), (0, 2000, 10), (30000, 0, 10), (0, 7, 10), (1, 1, 0), (0, 0, 1)]
)
def test_empty_and_full_layers_are_handled(counts: tuple[int, ...]) -> None:
    random.seed(4)
    space = SPACE
    for _ in range(20):
        a, b = (Individual(random_of_counts(space, counts, stream())) for _ in range(2))
        for operate in PER_LAYER.values():
            operate(a)
            assert well_formed(a.mask).counts == counts
        for cross in (*MATES.values(), cxLayers):
            cross(a, b)
            assert well_formed(a.mask).counts == well_formed(b.mask).counts == counts
        for child in UMDA([a, b], lambda_=2).generate(Individual):
            assert well_formed(child.mask).counts == counts
        mutMoveBudget(a)
        assert well_formed(a.mask).count == sum(counts)
        mutResize(a, low=max(3, sum(counts) - 5), high=min(space.prunable, sum(counts) + 5))
        assert abs(well_formed(a.mask).count - sum(counts)) <= 5


@pytest.mark.parametrize("operate", [*PER_LAYER.values(), mutMoveBudget, lambda one: mutResize(one, low=10, high=4000)])
def test_a_cloned_parent_is_untouched_and_so_is_the_fitness(operate: Callable[[Any], Any]) -> None:
    random.seed(5)
    parent = initSparse(Individual, SPACE, sparsity=0.9)
    parent.fitness.values, parent.told = (0.25,), told(parent.mask)
    before, lineage = [array.copy() for array in parent.mask.survivors], copy.deepcopy(parent.lineage)
    child = copy.deepcopy(parent)
    for _ in range(20):
        operate(child)
    assert child != parent
    assert child.fitness.values == parent.fitness.values == (0.25,)
    assert parent.lineage == lineage
    assert all(np.array_equal(old, new) for old, new in zip(before, parent.mask.survivors, strict=True))


@pytest.mark.parametrize("cross", [*MATES.values(), cxLayers])
def test_cloned_parents_are_untouched_by_crossover(cross: Callable[[Any, Any], Any]) -> None:
    random.seed(6)
    parents = [initSparse(Individual, SPACE, sparsity=0.9) for _ in range(2)]
    before = [[array.copy() for array in parent.mask.survivors] for parent in parents]
    children = copy.deepcopy(parents)
    cross(*children)
    assert children != parents
    for parent, arrays in zip(parents, before, strict=True):
        assert not parent.fitness.valid
        assert all(np.array_equal(old, new) for old, new in zip(arrays, parent.mask.survivors, strict=True))


def test_every_call_draws_one_seed_of_the_global_random_or_of_its_own() -> None:
    a, b = (Individual(random_mask(SPACE, sparsity=0.9, seed=seed)) for seed in (1, 2))
    strategy, own = UMDA([a, b]), UMDA([a, b], rng=random.Random(1))
    calls: list[Callable[..., Any]] = [
        lambda **rng: initSparse(Individual, SPACE, **rng),
        lambda **rng: mutSwap(a, **rng),
        lambda **rng: mutMoveBudget(a, **rng),
        lambda **rng: mutResize(a, low=100, high=9000, **rng),
        lambda **rng: mutGuided(a, **rng),
        lambda **rng: cxSetUniform(a, b, **rng),
        lambda **rng: cxRAR(a, b, **rng),
        lambda **rng: cxLayers(a, b, **rng),
        lambda **rng: (own if rng else strategy).generate(Individual),
    ]
    assert len(calls) == len(OPERATORS)
    for call in calls:
        legacy = np.random.get_state()[1].copy()  # noqa: NPY002
        random.seed(7)
        random.getrandbits(64)
        expected = random.getstate()
        random.seed(7)
        call()
        assert random.getstate() == expected
        call(rng=random.Random(3))
        assert random.getstate() == expected
        assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002


def test_the_same_seed_gives_the_same_child_and_another_another() -> None:
    parent = Individual(random_mask(SPACE, sparsity=0.9))
    children = [mutSwap(copy.deepcopy(parent), swaps=50, rng=random.Random(seed))[0] for seed in (1, 1, 2)]
    assert children[0] == children[1] != children[2]


def test_individuals_of_different_spaces_are_refused_and_left_alone() -> None:
    a, b = Individual(random_mask(SPACE, sparsity=0.9)), Individual(random_mask(OTHER, sparsity=0.9))
    masks = a.mask, b.mask
    for cross in (*MATES.values(), cxLayers):
        with pytest.raises(MaskMismatch) as caught:
            cross(a, b)
        assert "\n" not in str(caught.value)
        assert (a.mask, b.mask) == masks
    with pytest.raises(MaskMismatch):
        UMDA([a, b])
    with pytest.raises(MaskMismatch, match="another model"):
        UMDA(SPACE).update([b])
    a.told = told(b.mask)  # type: ignore[attr-defined]
    with pytest.raises(MaskMismatch):
        mutGuided(a)


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: mutSwap(a, swaps=-1),
        lambda a, b: mutSwap(a, swaps=1.5),
        lambda a, b: mutMoveBudget(a, number=True),
        lambda a, b: mutMoveBudget(a, floor=-1),
        lambda a, b: mutResize(a, low=10, high=9),
        lambda a, b: mutResize(a, low=1, high=2),
        lambda a, b: mutResize(a, low=10**6, high=10**7),
        lambda a, b: mutResize(a, low=10, high=20, number=0),
        lambda a, b: mutGuided(a, share=1.1),
        lambda a, b: mutGuided(a, share=0.1, swaps=3),
        lambda a, b: mutGuided(a, off="gradient"),
        lambda a, b: mutGuided(a, on="movement"),
        lambda a, b: cxSetUniform(a, b, indpb=-0.1),
        lambda a, b: cxSetUniform(a, b, indpb=float("nan")),
        lambda a, b: cxRAR(a, b, weight=0),
        lambda a, b: cxRAR(a, b, weight=float("nan")),
        lambda a, b: cxLayers(a, b, indpb=0),
        lambda a, b: cxLayers(a, b, indpb=1),
        lambda a, b: UMDA([]),
        lambda a, b: UMDA([a], lambda_=0),
        lambda a, b: UMDA([a], smoothing=2),
        lambda a, b: initSparse(Individual, SPACE, sparsity=1),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(call: Callable[[Any, Any], Any]) -> None:
    a, b = (Individual(random_mask(SPACE, sparsity=0.9, seed=seed)) for seed in (1, 2))
    masks = a.mask, b.mask
    with pytest.raises(InputError) as caught:
        call(a, b)
    assert "\n" not in str(caught.value)
    assert (a.mask, b.mask) == masks
    assert a.lineage == {}


def test_individuals_beyond_the_bounds_come_back() -> None:
    for low, high in ((3300, 3400), (2900, 3000)):
        individual = Individual(random_mask(SPACE, sparsity=0.9))
        mutResize(individual, low=low, high=high, rng=random.Random(1))
        assert low <= individual.mask.count <= high


def test_classes_of_deaps_creator_work() -> None:
    creator.create("TestFitness", base.Fitness, weights=(-1.0,))
    creator.create("TestIndividual", Individual, fitness=creator.TestFitness, note="mine")
    try:
        a, b = (initSparse(creator.TestIndividual, SPACE, sparsity=0.9) for _ in range(2))
        (a,) = mutSwap(a)
        a, b = cxSetUniform(a, b)
        assert type(a) is creator.TestIndividual
        assert a.note == "mine"
        assert well_formed(a.mask).count == 3201
    finally:
        del creator.TestFitness, creator.TestIndividual


def test_the_table_names_every_operator_its_kind_and_what_it_does() -> None:
    kinds = {name: entry.kind for name, entry in OPERATORS.items()}
    assert kinds == {
        "initSparse": "init",
        "mutSwap": "mutate",
        "mutMoveBudget": "mutate",
        "mutResize": "mutate",
        "mutGuided": "mutate",
        "cxSetUniform": "mate",
        "cxRAR": "mate",
        "cxLayers": "mate",
        "UMDA": "model",
    }
    assert all(entry.summary and entry.function.__name__ == name for name, entry in OPERATORS.items())
