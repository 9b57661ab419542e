"""Means and differences with their intervals: Student's t, paired wherever two methods are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evoprune.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Interval", "early_to_final", "holm", "mean_interval", "paired_difference", "seeds_needed"]

Floats = npt.NDArray[np.float64]
ROUNDING = 1e-9
"""Relative spread up to which differences are equal but for rounding."""
MOST = 10**9
"""Seeds beyond which it makes no difference how many more are needed."""


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

    def negated(self) -> Interval:
        """Of the values with their signs changed: of a loss, what is gained."""
        return replace(self, mean=-self.mean, low=-self.high, high=-self.low)

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

    A pair with a missing value (NaN) is left out and not counted in `n`. Where all differences are equal, p is that of the sign
    test, 2^(1 - n): accuracies come in steps, so that a few may be equal by chance, and no spread is no certainty.
    Raises `InputError` for unequal lengths.
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
    if interval.sd <= abs(interval.mean) * ROUNDING:
        return 1.0 if interval.mean == 0 else 2.0 ** (1 - interval.n)
    from scipy import stats

    return float(2 * stats.t.sf(abs(interval.mean) / interval.sd * math.sqrt(interval.n), interval.n - 1))


def _floats(values: Iterable[float]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


# ---- several at once, and how many ---------------------------------------------------------------------------------


def holm(p: Iterable[float]) -> list[float]:
    """p-values corrected for each other, in the same order; NaN (nothing tested) stays and does not count.  [Holm 1979]

    The chance that any true "no difference" falls below a level is at most that level.
    """
    given = _floats(p)
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = given.copy()
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    return [float(value) for value in corrected]


def seeds_needed(sd: float, difference: float, *, power: float = 0.8, level: float = 0.95) -> int | None:
    """Pairs after which a paired t test finds `difference` with that power, for differences of standard deviation `sd`.

    Two arms of standard deviation .2 that share nothing have differences of .28, so .2 takes 18 and .5 takes 5.
    None when `sd` is unknown (NaN), and where more than 10^9 would be needed. Raises `InputError` unless difference > 0 and
    0 < power, level < 1.
    """
    if not difference > 0 or not 0 < power < 1 or not 0 < level < 1:
        raise InputError(f"difference={difference!r}, power={power!r} are not usable: give a size > 0 and a share such as 0.8")
    if math.isnan(sd):
        return None
    low, high = 1, 2  # low is too few, high is enough at the end
    while _power(sd, difference, high, level) < power:
        low, high = high, 2 * high
        if low > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(sd, difference, middle, level) >= power else (middle, high)
    return high


def _power(sd: float, difference: float, n: int, level: float) -> float:
    """Of the two-sided paired t test with n pairs."""
    if sd <= difference * 1e-9:
        return 1.0
    from scipy import stats

    critical, shift = stats.t.ppf((1 + level) / 2, n - 1), difference / sd * math.sqrt(n)
    if n > 500:  # the noncentral t is slow and loses digits out there
        return float(stats.norm.sf(critical - shift))
    return float(stats.nct.sf(critical, n - 1, shift))


def early_to_final(trace: pd.DataFrame, *, column: str = "val_loss") -> pd.DataFrame:
    """How well each epoch ranks the individuals as the last one does: columns epoch, correlation (Spearman), individuals.

    trace: as of `Trace.frame()` or a run's `trace.csv`. Only individuals that reached the last epoch count; a tournament or
    K-starts run keeps too few of them, train without selection to see it. Fewer than three give no rows.
    """
    import pandas as pd
    from scipy import stats

    wide = trace.pivot(index="individual", columns="epoch", values=column)
    wide = wide[wide[wide.columns[-1]].notna()] if len(wide.columns) else wide
    rows = []
    for epoch in wide.columns[:-1] if len(wide) > 2 else ():
        pair = wide[[epoch, wide.columns[-1]]].dropna()
        constant = (pair.nunique() < 2).any()
        correlation = math.nan if constant else float(stats.spearmanr(pair.iloc[:, 0], pair.iloc[:, 1]).statistic)
        rows.append({"epoch": int(epoch), "correlation": correlation, "individuals": len(pair)})
    return pd.DataFrame(rows, columns=["epoch", "correlation", "individuals"])
