"""Random subsets and masks are exact, uniform and independent of each other."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoprune.errors import InputError
from evoprune.masks.sampling import random_mask, random_masks, random_subset
from evoprune.masks.space import MaskSpace
from tests.tiny import global_state

SPACE = MaskSpace(("a", "b", "c"), ((20, 30), (15, 20), (5, 15)))


@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_a_subset_has_exactly_the_asked_distinct_sorted_indices(size: int, share: float, seed: int) -> None:
    count = round(share * size)
    chosen = random_subset(np.random.default_rng(seed), size, count)
    assert chosen.dtype == np.int64
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert not count or (chosen[0] >= 0 and chosen[-1] < size)


@pytest.mark.parametrize(("size", "count"), [(6, 1), (6, 2), (6, 3), (6, 4), (6, 5), (40, 2), (30, 28)])
def test_every_subset_is_equally_likely(size: int, count: int) -> None:
    rng, draws = np.random.default_rng(0), 20_000
    seen = Counter(tuple(random_subset(rng, size, count).tolist()) for _ in range(draws))
    subsets = list(combinations(range(size), count))
    expected = draws / len(subsets)
    chi2 = sum((seen[subset] - expected) ** 2 / expected for subset in subsets)
    freedom = len(subsets) - 1
    assert abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5


def test_every_index_of_a_larger_subset_is_equally_likely() -> None:
    for count in (300, 700):
        rng, hits = np.random.default_rng(1), np.zeros(1000)
        for _ in range(2000):
            hits[random_subset(rng, 1000, count)] += 1
        share = count / 1000
        assert abs(hits - 2000 * share).max() < 5 * (2000 * share * (1 - share)) ** 0.5
        assert hits.std() == pytest.approx((2000 * share * (1 - share)) ** 0.5, rel=0.1)


def test_time_and_memory_follow_the_count_not_the_size() -> None:
    assert len(random_subset(np.random.default_rng(0), 10**15, 5)) == 5


def test_more_than_there_is_cannot_be_drawn() -> None:
    with pytest.raises(InputError, match="at most 3"):
        random_subset(np.random.default_rng(0), 3, 4)


@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 0.9, 0.97]), st.sampled_from(["uniform", "erk", "smart_ratio"]))
def test_counts_never_drift(seed: int, sparsity: float, allocation: str) -> None:
    mask = random_mask(SPACE, sparsity=sparsity, allocation=allocation, seed=seed)
    assert mask.count == SPACE.budget(sparsity)
    assert mask.counts == random_mask(SPACE, sparsity=sparsity, allocation=allocation, seed=seed + 1).counts


def test_a_first_population_is_not_one_mask_copied() -> None:
    masks = random_masks(SPACE, 40, sparsity=0.9)
    assert len({mask.hash for mask in masks}) == 40
    common = np.mean([a.jaccard(b) for a, b in combinations(masks, 2)])
    expected = sum(count**2 / size for count, size in zip(masks[0].counts, SPACE.sizes, strict=True))  # E of the common ones
    assert common == pytest.approx(expected / (2 * masks[0].count - expected), rel=0.1)


def test_mask_i_does_not_depend_on_how_many_are_drawn() -> None:
    assert random_masks(SPACE, 9, sparsity=0.8, seed=5)[:3] == random_masks(SPACE, 3, sparsity=0.8, seed=5)
    assert random_mask(SPACE, sparsity=0.8, seed=5) == random_masks(SPACE, 3, sparsity=0.8, seed=5)[0]


def test_a_seed_decides_and_the_global_generators_do_not() -> None:
    drawn = []
    for state in (1, 2):
        with global_state(state):
            drawn.append(random_mask(SPACE, sparsity=0.8, seed=3))
    assert drawn[0] == drawn[1]
    assert drawn[0] != random_mask(SPACE, sparsity=0.8, seed=4)


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3"])
def test_a_bad_number_of_masks_is_refused(k: object) -> None:
    with pytest.raises(InputError, match="k="):
        random_masks(SPACE, k, sparsity=0.8)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 0.5, None, True, "1"])
def test_a_bad_seed_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match="seed"):
        random_mask(SPACE, sparsity=0.8, seed=seed)  # type: ignore[arg-type]
