"""Operators draw from the distributions that they promise: chi-square tests, corrected for subsets of exact size.

Of T uniform subsets of n of N, each index is in T·d of them on average (d = n/N) with variance T·d·(1 - d), but the counts sum to
T·n: the sum of squared deviations over T·d·(1 - d)·N/(N - 1) is chi-square with N - 1 degrees of freedom. Seeds are fixed.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evoprune.evolution.individual import Individual
from evoprune.evolution.operators import OPERATORS, UMDA, initSparse, mutMoveBudget, mutResize, mutSwap
from evoprune.evolution.operators.numbers import deal_shares, heavy_tailed
from evoprune.evolution.operators.umda import learn
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_flags, random_of_counts, random_subset
from evoprune.masks.space import MaskSpace
from tests.tiny import mlp

SPACE = MaskSpace(("only",), ((8, 25),))
RULE = {name: entry.rule for name, entry in OPERATORS.items()}
LEAST_P = 1e-3


def p_of_subsets(seen: np.ndarray, draws: int, count: int) -> float:
    """P-value of how often each index was in `draws` uniform subsets of exactly `count`."""
    size, density = len(seen), count / len(seen)
    squares = ((seen - draws * density) ** 2).sum() / (draws * density * (1 - density) * size / (size - 1))
    return float(stats.chi2.sf(squares, size - 1))


def tally(size: int, subsets: list[Any]) -> np.ndarray:
    return np.bincount(np.concatenate(subsets), minlength=size)


@pytest.mark.parametrize("count", [1, 3, 10, 25, 26, 60, 100, 101, 140, 190, 199])
def test_every_index_is_drawn_alike(count: int) -> None:
    draw = np.random.default_rng(count)
    subsets = [random_subset(draw, 200, count) for _ in range(2000)]
    assert p_of_subsets(tally(200, subsets), 2000, count) > LEAST_P
    flags = np.sum([random_flags(draw, 200, count) for _ in range(2000)], axis=0)
    assert p_of_subsets(flags, 2000, count) > LEAST_P


@pytest.mark.parametrize(("size", "count"), [(6, 2), (6, 3), (5, 4), (16, 2), (9, 1)])
def test_every_subset_is_drawn_alike(size: int, count: int) -> None:
    draw = np.random.default_rng(1)
    subsets = list(itertools.combinations(range(size), count))
    seen = Counter(tuple(random_subset(draw, size, count)) for _ in range(100 * len(subsets)))
    assert stats.chisquare([seen[subset] for subset in subsets]).pvalue > LEAST_P


@pytest.mark.parametrize("sparsity", [0.99, 0.9, 0.6, 0.1])
def test_initial_survivors_are_uniform(sparsity: float) -> None:
    random.seed(1)
    drawn = [initSparse(Individual, SPACE, sparsity=sparsity).mask.survivors[0] for _ in range(2000)]
    assert p_of_subsets(tally(200, drawn), 2000, SPACE.budget(sparsity)) > LEAST_P


@pytest.mark.parametrize(("count", "swaps"), [(20, 1), (20, 7), (20, 20), (100, 30), (180, 15)])
def test_what_a_swap_turns_off_and_on_is_uniform(count: int, swaps: int) -> None:
    draw = np.random.default_rng(2)
    mask = random_of_counts(SPACE, [count], draw)
    children = [RULE["mutSwap"](draw, mask, swaps=swaps)[0] for _ in range(3000)]
    kept = tally(200, [child.survivors[0] for child in children])
    inside = np.zeros(200, dtype=bool)
    inside[mask.survivors[0]] = True
    if swaps < count:
        assert p_of_subsets(kept[inside], 3000, count - swaps) > LEAST_P
    if swaps < 200 - count:
        assert p_of_subsets(kept[~inside], 3000, swaps) > LEAST_P


@pytest.mark.parametrize("limit", [1, 2, 20, 1000])
def test_numbers_of_swaps_are_heavy_tailed(limit: int) -> None:
    draw = np.random.default_rng(3)
    numbers = np.array([heavy_tailed(draw, limit) for _ in range(20_000)])
    assert numbers.min() == 1
    assert numbers.max() <= limit
    chances = np.arange(1, limit + 1) ** -1.5
    edges = np.array([edge for edge in (1, 2, 3, 4, 5, 7, 10, 15, 20, 40, 100, 300) if edge <= limit])
    bins = np.searchsorted(edges, np.arange(1, limit + 1), side="right") - 1
    expected = np.bincount(bins, weights=chances) / chances.sum() * len(numbers)
    seen = np.bincount(np.searchsorted(edges, numbers, side="right") - 1, minlength=len(edges))
    assert limit == 1 or stats.chisquare(seen, expected).pvalue > LEAST_P


def test_the_operators_number_of_swaps_is_heavy_tailed() -> None:
    rng = random.Random(4)
    parent = Individual(random_of_counts(SPACE, [12], np.random.default_rng(0)))
    numbers = []
    for _ in range(5000):
        child = Individual(parent.mask)
        mutSwap(child, rng=rng)
        numbers.append((parent.mask ^ child.mask).count // 2)
    chances = np.arange(1, 13) ** -1.5
    seen = np.bincount(numbers, minlength=13)[1:]
    assert stats.chisquare(seen, chances / chances.sum() * 5000).pvalue > LEAST_P


def test_layers_are_drawn_in_proportion_to_their_survivors() -> None:
    space = MaskSpace(("a", "b", "full", "empty"), ((20, 20), (10, 10), (2, 5), (2, 2)))
    draw = np.random.default_rng(5)
    mask = random_of_counts(space, (60, 30, 10, 0), draw)
    changed = Counter[int]()
    for _ in range(3000):
        (child,) = RULE["mutSwap"](draw, mask, swaps=1)
        changed[[a is b for a, b in zip(mask.survivors, child.survivors, strict=True)].index(False)] += 1
    assert set(changed) == {0, 1}
    assert stats.chisquare([changed[0], changed[1]], [2000, 1000]).pvalue > LEAST_P


def test_every_move_between_layers_is_proposed_alike() -> None:
    space = MaskSpace(("a", "b", "c", "full"), ((20, 20), (10, 10), (5, 5), (2, 2)))
    draw = np.random.default_rng(6)
    mask = random_of_counts(space, (60, 30, 1, 4), draw)  # c is at its floor and only takes, the full one only gives
    moves = Counter[tuple[int, int]]()
    for _ in range(4000):
        (child,) = RULE["mutMoveBudget"](draw, mask, number=1, floor=1)
        change = np.array(child.counts) - mask.counts
        moves[int(np.flatnonzero(change == -1)[0]), int(np.flatnonzero(change == 1)[0])] += 1
    possible = [(0, 1), (0, 2), (1, 0), (1, 2), (3, 0), (3, 1), (3, 2)]
    assert set(moves) == set(possible)
    assert stats.chisquare([moves[move] for move in possible]).pvalue > LEAST_P


def test_a_moved_budget_is_heavy_tailed() -> None:
    rng, space = random.Random(7), MaskSpace(("a", "b"), ((20, 20), (20, 20)))
    parent, numbers = Individual(random_of_counts(space, (11, 11), np.random.default_rng(0))), []
    for _ in range(4000):
        child = Individual(parent.mask)
        mutMoveBudget(child, rng=rng)
        numbers.append(abs(child.mask.counts[0] - 11))
    chances = np.arange(1, 11) ** -1.5
    assert stats.chisquare(np.bincount(numbers)[1:], chances / chances.sum() * 4000).pvalue > LEAST_P


def test_resizing_goes_either_way_and_spares_no_survivor() -> None:
    space = MaskSpace(("a", "b"), ((10, 20), (10, 10)))
    draw = np.random.default_rng(8)
    mask = random_of_counts(space, (60, 30), draw)
    children = [RULE["mutResize"](draw, mask, low=60, high=120, number=9, floor=0)[0] for _ in range(4000)]
    smaller = [child for child in children if child.count == 81]
    larger = [child for child in children if child.count == 99]
    assert len(smaller) + len(larger) == 4000
    assert stats.binomtest(len(smaller), 4000).pvalue > LEAST_P
    flat = [np.concatenate([child.survivors[0], child.survivors[1] + 200]) for child in smaller]
    survivors = np.concatenate([mask.survivors[0], mask.survivors[1] + 200])
    assert p_of_subsets(tally(300, flat)[survivors], len(smaller), 81) > LEAST_P
    entered = sum(child.counts[0] - 60 for child in larger)  # in proportion to survivors, 2 : 1
    assert stats.binomtest(entered, 9 * len(larger), 2 / 3).pvalue > LEAST_P


def test_shares_are_dealt_in_proportion_until_an_urn_is_full() -> None:
    draw = np.random.default_rng(9)
    dealt = [deal_shares(draw, 30, np.array([1, 5, 0, 0]), np.array([10, 12, 5, 9])) for _ in range(200)]
    assert (np.sum(dealt, axis=1) == 30).all()
    assert (np.array(dealt)[:, :2] == [10, 12]).all()  # then those without a weight take the rest
    assert {tuple(row) for row in np.array(dealt)[:, 2:]} >= {(3, 5), (2, 6), (4, 4)}


def test_a_uniform_crossover_hands_over_each_lone_survivor_alike() -> None:
    draw = np.random.default_rng(10)
    a = random_of_counts(SPACE, [60], draw)
    (b,) = RULE["mutSwap"](draw, a, swaps=40)
    lone, common = (a - b).survivors[0], a & b
    children = [RULE["cxSetUniform"](draw, a, b, indpb=0.3) for _ in range(3000)]
    assert all(common <= first and common <= second and first | second == a | b for first, second in children[:200])
    kept = tally(200, [first.survivors[0] for first, _ in children])[lone]  # independent flips: no correction
    assert stats.chi2.sf(((kept - 2100) ** 2).sum() / (3000 * 0.3 * 0.7), len(lone)) > LEAST_P
    got = tally(200, [second.survivors[0] for _, second in children])[lone]
    assert (kept + got == 3000).all()


def by_hand(draw: np.random.Generator, a: set[int], b: set[int], size: int, weight: int) -> tuple[int, ...]:
    """Random assorting recombination as it is defined, with a real bag."""
    bag = []
    for index in range(size):
        copies = 1 if (index in a) != (index in b) else weight
        bag += [(index, True)] * (copies if index in a | b else 0) + [(index, False)] * (copies if index not in a & b else 0)
    inside, out = set[int](), set[int]()
    for position in draw.permutation(len(bag)):
        index, keep = bag[position]
        if len(inside) == len(a) or len(out) == size - len(a):
            break
        if index not in inside | out:
            (inside if keep else out).add(index)
    if len(inside) < len(a):
        inside = set(range(size)) - out
    return tuple(sorted(inside))


@pytest.mark.parametrize(
    ("a", "b", "size", "weight"),
    [
        ({0, 1, 2}, {0, 3, 4}, 7, 1),
        ({0, 1, 2}, {0, 3, 4}, 7, 2),
        ({0, 1, 2, 3}, {0, 1, 4}, 6, 3),
        ({0, 1}, {0, 2, 3, 4}, 8, 1),
        ({0, 1, 2}, {3, 4, 5}, 6, 2),
    ],
)
def test_assorting_is_the_bag_that_it_simulates(a: set[int], b: set[int], size: int, weight: int) -> None:
    space, runs = MaskSpace(("only",), ((size,),)), 6000
    masks = [Mask(space, [sorted(parent)]) for parent in (a, b)]
    draw = np.random.default_rng(11)
    ours = Counter(tuple(RULE["cxRAR"](draw, *masks, weight=weight)[0].survivors[0].tolist()) for _ in range(runs))
    theirs = Counter(by_hand(draw, a, b, size, weight) for _ in range(runs))
    frequent = [child for child in ours | theirs if ours[child] + theirs[child] >= 20]
    table = np.array([[seen[child] for child in frequent] for seen in (ours, theirs)])
    assert len(frequent) > 4
    assert stats.chi2_contingency(table).pvalue > LEAST_P
    assert table.sum() > 1.97 * runs


def test_a_large_weight_respects_what_parents_agree_on_and_a_small_one_mixes() -> None:
    draw = np.random.default_rng(12)
    a = random_of_counts(SPACE, [60], draw)
    (b,) = RULE["mutSwap"](draw, a, swaps=30)
    strange = {
        weight: sum((child - (a | b)).count for _ in range(200) for child in RULE["cxRAR"](draw, a, b, weight=weight))
        for weight in (0.5, 3.0, float("inf"))
    }
    assert strange[0.5] > 2 * strange[3.0] > 0
    lost = sum(((a & b) - child).count for _ in range(200) for child in RULE["cxRAR"](draw, a, b, weight=float("inf")))
    assert lost == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_a_models_inclusion_probabilities_hold(smoothing: float) -> None:
    draw, space, draws = np.random.default_rng(13), MaskSpace(("a", "b"), ((8, 10), (4, 5))), 3000
    first = random_of_counts(space, (20, 6), draw)
    masks = [
        first,
        *(RULE["mutMoveBudget"](draw, RULE["mutSwap"](draw, first, swaps=5)[0], number=3, floor=1)[0] for _ in range(4)),
    ]
    children = UMDA([Individual(mask) for mask in masks], lambda_=draws, smoothing=smoothing, rng=random.Random(1)).generate(
        Individual
    )
    assert {child.mask.count for child in children} == {26}
    for layer, size in enumerate(space.sizes):
        votes = tally(size, [mask.survivors[layer] for mask in masks])
        chances = (1 - smoothing) * votes / 5 + smoothing * votes.sum() / 5 / size
        assert np.allclose(chances[learn(masks, smoothing)[layer].union], chances[votes > 0])
        seen = tally(size, [child.mask.survivors[layer] for child in children])
        sure = (chances < 1e-12) | (chances > 1 - 1e-12)
        assert (seen[sure] == np.round(draws * chances[sure])).all()
        scores = (seen - draws * chances)[~sure] / np.sqrt(draws * (chances * (1 - chances))[~sure])
        assert np.abs(scores).max(initial=0) < 4.2
        for votes_of in np.unique(votes[~sure]):  # weights of one group are alike
            group = scores[votes[~sure] == votes_of]
            assert len(group) < 2 or stats.chi2.sf(((group - group.mean()) ** 2).sum(), len(group) - 1) > LEAST_P


def test_a_models_first_generation_is_uniform() -> None:
    children = UMDA(SPACE, sparsity=0.9, lambda_=2000, rng=random.Random(2)).generate(Individual)
    assert p_of_subsets(tally(200, [child.mask.survivors[0] for child in children]), 2000, 20) > LEAST_P


def test_resize_of_an_operator_draws_both_ways() -> None:
    rng, totals = random.Random(14), set()
    for _ in range(50):
        individual = Individual(random_of_counts(SPACE, [60], np.random.default_rng(0)))
        mutResize(individual, low=50, high=70, rng=rng)
        totals.add(individual.mask.count)
    assert min(totals) < 60 < max(totals)


def test_a_model_learns_from_nobody_who_failed() -> None:
    strategy = UMDA(mlp().space, sparsity=0.8, lambda_=4, mu=2, smoothing=0.0, rng=random.Random(1))
    people = strategy.generate(Individual)
    for number, one in enumerate(people):
        one.failed = number != 3
        one.fitness.values = (float("inf") if one.failed else 1.0,)
    strategy.update(people)
    assert strategy.parents == [people[3].mask.hash]
