"""Intervals agree with scipy, leave out what is missing, and claim nothing from one value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evoprune.errors import InputError
from evoprune.evidence.statistics import mean_interval, paired_difference

VALUES = [0.912, 0.934, 0.921, 0.951, 0.899]
OTHERS = [0.901, 0.930, 0.925, 0.930, 0.890]


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_a_mean_has_scipys_t_interval(level: float) -> None:
    found = mean_interval(VALUES, level)
    low, high = stats.t.interval(level, len(VALUES) - 1, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert found.mean == pytest.approx(np.mean(VALUES))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.n == 5


def test_a_known_interval() -> None:
    found = mean_interval([1.0, 2.0, 3.0])  # sd 1, t(.975, 2) = 4.30265
    assert found.half == pytest.approx(4.30265 / math.sqrt(3), abs=1e-5)


def test_differences_are_paired() -> None:
    found = paired_difference(VALUES, OTHERS)
    known = stats.ttest_rel(VALUES, OTHERS)
    interval = known.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(known.pvalue)
    shifted = paired_difference([value + 0.1 for value in OTHERS], OTHERS)
    assert shifted.half < 1e-12, "a constant difference is certain, however much the values vary"


def test_equal_values_differ_by_nothing() -> None:
    found = paired_difference(VALUES, VALUES)
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_missing_values_are_not_counted() -> None:
    assert mean_interval([*VALUES, math.nan]) == mean_interval(VALUES)
    pairs = paired_difference([*VALUES, 0.9, math.nan], [*OTHERS, math.nan, 0.9])
    assert pairs.n == 5
    assert pairs == paired_difference(VALUES, OTHERS)


@pytest.mark.parametrize("values", [[], [0.9]])
def test_one_value_has_no_interval_and_says_so(values: list[float]) -> None:
    for found in (mean_interval(values), paired_difference(values, values)):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert math.isnan(found.p)
        assert "no interval" in str(found)


def test_the_interval_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.9, 0.02, size=(2000, 5))
    hits = sum(found.low <= 0.9 <= found.high for found in map(mean_interval, draws))
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_unequal_lengths_and_levels_are_refused() -> None:
    with pytest.raises(InputError, match="no pairs"):
        paired_difference([1, 2], [1])
    with pytest.raises(InputError, match="level"):
        mean_interval(VALUES, 95)
