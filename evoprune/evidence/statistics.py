"""Means and differences with their intervals: Student's t, paired wherever two methods are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evoprune.errors import InputError

__all__ = ["Interval", "mean_interval", "paired_difference"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its t interval.

    low, high: NaN for fewer than two values, which have no interval. n: values (pairs) behind it. sd: their standard
    deviation. level: coverage. p: two-sided p-value of "the mean is 0"; NaN where nothing was tested.
    """

    mean: float
    low: float
    high: float
    n: int
    sd: float
    level: float
    p: float = math.nan

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        if self.n < 2:
            return f"{self.mean:.4g} (n = {self.n}: no interval)"
        return f"{self.mean:.4g} ± {self.half:.2g} ({self.level:.0%}, n = {self.n})"


def mean_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Mean of independent values and its t interval. Missing values (NaN) are left out and not counted in `n`."""
    given = _floats(values)
    return _interval(given[~np.isnan(given)], level)


def paired_difference(a: Iterable[float], b: Iterable[float], level: float = 0.95) -> Interval:
    """Mean of a - b over pairs (the same seed on both sides), its paired t interval and p-value.

    A pair with a missing value (NaN) is left out and not counted in `n`. Raises `InputError` for unequal lengths.
    """
    first, second = _floats(a), _floats(b)
    if first.shape != second.shape:
        raise InputError(f"{len(first)} and {len(second)} values are no pairs: give one value a seed on both sides")
    difference = first - second
    difference = difference[~np.isnan(difference)]
    interval = _interval(difference, level)
    return Interval(**{**vars(interval), "p": _p_value(interval)})


def _interval(values: Floats, level: float) -> Interval:
    if not 0 < level < 1:
        raise InputError(f"level={level!r} is not usable: give a coverage between 0 and 1, such as 0.95")
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()) if n else math.nan, math.nan, math.nan, n, math.nan, level)
    from scipy import stats

    mean, sd = float(values.mean()), float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, sd, level)


def _p_value(interval: Interval) -> float:
    if interval.n < 2:
        return math.nan
    if interval.sd == 0:
        return 1.0 if interval.mean == 0 else 0.0
    from scipy import stats

    return float(2 * stats.t.sf(abs(interval.mean) / interval.sd * math.sqrt(interval.n), interval.n - 1))


def _floats(values: Iterable[float]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
