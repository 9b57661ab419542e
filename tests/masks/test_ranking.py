"""Top-k is exact, breaks ties by index and respects floors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.ranking import keep_counts, keep_top, largest
from evoprune.masks.space import MaskSpace

SPACE = MaskSpace(("a", "b", "c"), ((4, 5), (6,), (3,)))
values = st.sampled_from([0.0, -1.0, 0.5, 1.0, 1.0 + 1e-12, 2.0, np.inf])


@given(st.lists(values, max_size=30), st.integers(0, 35))
def test_the_largest_are_those_of_a_stable_sort(scores: list[float], count: int) -> None:
    array = np.array(scores)
    expected = sorted(range(len(scores)), key=lambda i: (-array[i], i))[:count]
    assert np.flatnonzero(largest(array, count)).tolist() == sorted(expected)


def test_ten_million_scores_that_float32_cannot_tell_apart_are_told_apart() -> None:
    scores = 1.0 + np.arange(100) * 1e-9
    assert len(np.unique(scores.astype(np.float32))) < 5
    assert np.flatnonzero(largest(scores, 7)).tolist() == list(range(93, 100))


def test_a_nan_score_is_refused_instead_of_winning() -> None:
    with pytest.raises(InputError, match="NaN"):
        largest(np.array([1.0, np.nan, 2.0]), 1)


def scores_of(mask: Mask, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.round(rng.normal(size=count) * (1 + layer), 1) for layer, count in enumerate(mask.counts)]


@given(st.integers(0, 99), st.integers(3, 29), st.integers(0, 2))
def test_keep_top_is_global_once_every_layer_has_its_floor(seed: int, budget: int, floor: int) -> None:
    mask = Mask.full(SPACE)
    scores = scores_of(mask, seed)
    if floor * 3 > budget:
        with pytest.raises(InputError, match="choose a sparsity of at most"):
            keep_top(mask, scores, budget, floor=floor)
        return
    kept = keep_top(mask, scores, budget, floor=floor)
    assert kept.count == budget
    assert all(count >= floor for count in kept.counts)
    flat = [(score, -layer, -i) for layer, own in enumerate(scores) for i, score in enumerate(own)]
    reserved = {key for layer in range(3) for key in sorted((k for k in flat if k[1] == -layer), reverse=True)[:floor]}
    rest = sorted((key for key in flat if key not in reserved), reverse=True)[: budget - len(reserved)]
    expected = [sorted(-i for _, l, i in [*reserved, *rest] if l == -layer) for layer in range(3)]
    assert [own.tolist() for own in kept.survivors] == expected


@given(st.integers(0, 99), st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(0, 3)))
def test_keep_counts_keeps_the_best_of_each_layer(seed: int, counts: tuple[int, ...]) -> None:
    mask = Mask.full(SPACE)
    scores = scores_of(mask, seed)
    kept = keep_counts(mask, scores, counts)
    assert kept.counts == counts
    for own, score in zip(kept.survivors, scores, strict=True):
        assert own.tolist() == sorted(sorted(range(len(score)), key=lambda i: (-score[i], i))[: len(own)])


def test_scores_belong_to_the_survivors_not_to_the_layer() -> None:
    mask = Mask(SPACE, [[3, 7, 11], [5], [0]])
    kept = keep_counts(mask, [np.array([1.0, 3.0, 2.0]), np.array([0.0]), np.array([0.0])], (2, 1, 1))
    assert kept.survivors[0].tolist() == [7, 11]


def test_more_than_there_is_cannot_be_kept() -> None:
    with pytest.raises(InputError, match="ask for fewer"):
        keep_top(Mask(SPACE, [[0], [0], [0]]), [np.ones(1)] * 3, 4)
