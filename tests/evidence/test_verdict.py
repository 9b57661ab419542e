"""Words are true: false alarms as rare as promised, planted differences found as often as promised, verdicts in order."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evoprune.errors import InputError
from evoprune.evidence.statistics import Interval, early_to_final, holm, paired_difference, seeds_needed
from evoprune.evidence.verdict import LAYERS, RANDOM, SEEDS, WEIGHTS, WIRING, judge, need, said, table, wording

SIMULATIONS = 4000


@cache
def simulated(seeds: int, arms: int, gain: float = 0.0) -> list[list[Interval]]:
    """Tables of `arms` methods against one baseline, all of standard deviation .2."""
    rng = np.random.default_rng(seeds * 100 + arms)
    baseline = rng.normal(0.0, 0.2, (SIMULATIONS, 1, seeds))
    scores = rng.normal(gain, 0.2, (SIMULATIONS, arms, seeds))
    return [[paired_difference(arm, base[0]) for arm in each] for each, base in zip(scores, baseline, strict=True)]


@pytest.mark.parametrize("seeds", [5, 8])
def test_a_null_arm_is_called_better_or_worse_in_five_percent(seeds: int) -> None:
    words = [said(interval) for [interval] in simulated(seeds, 1)]
    assert 0.04 <= np.mean([word in ("better", "worse") for word in words]) <= 0.06
    assert 0.015 <= np.mean([word == "better" for word in words]) <= 0.035, "no side is preferred"


@pytest.mark.parametrize("seeds", [2, 3])
def test_accuracies_in_steps_raise_no_more_alarms_though_differences_may_be_equal(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    scores = np.round(rng.normal(0.9, 0.01, (SIMULATIONS, 2, seeds)) * 144) / 144
    words = [said(paired_difference(arm, base)) for arm, base in scores]
    assert np.mean([word in ("better", "worse") for word in words]) <= 0.06


def test_equal_differences_say_nothing_about_how_many_seeds_it_takes() -> None:
    found = paired_difference([0.91, 0.93], [0.9, 0.92])
    assert found.p == 0.5
    assert wording(found) == "no difference shown (2 seeds; need several for 0.2 points)"


@pytest.mark.parametrize("seeds", [5, 8])
def test_a_table_of_null_arms_gives_no_more_false_alarms_than_one(seeds: int) -> None:
    alarms = []
    for intervals in simulated(seeds, 4):
        corrected = holm([interval.p for interval in intervals])
        alarms.append(any(said(interval, p) in ("better", "worse") for interval, p in zip(intervals, corrected, strict=True)))
    assert 0.03 <= np.mean(alarms) <= 0.06, "a shared baseline makes Holm's bound a little loose, never wrong"


@pytest.mark.parametrize(("gain", "power"), [(0.5, 0.8), (0.2, 0.8), (0.3, 0.9)])
def test_planted_differences_are_found_at_the_stated_power(gain: float, power: float) -> None:
    seeds = seeds_needed(0.2 * math.sqrt(2), gain, power=power)
    assert seeds is not None
    found = np.mean([said(interval) == "better" for [interval] in simulated(seeds, 1, gain)])
    fewer = np.mean([said(interval) == "better" for [interval] in simulated(seeds - 1, 1, gain)])
    assert found > power - 0.02
    assert fewer < power + 0.02, "with one seed less it is not reached"


def test_the_numbers_of_seeds_are_the_known_ones() -> None:
    assert seeds_needed(0.2 * math.sqrt(2), 0.2) == 18
    assert seeds_needed(0.2 * math.sqrt(2), 0.5) == 5
    assert seeds_needed(0.0, 0.2) == 2
    assert seeds_needed(math.nan, 0.2) is None
    assert seeds_needed(1.0, 0.001) == pytest.approx(2.8016**2 * 1e6, rel=1e-3)
    with pytest.raises(InputError, match="give a size > 0"):
        seeds_needed(0.2, 0.0)


def test_holm_is_the_known_correction() -> None:
    assert holm([0.01, 0.04, math.nan, 0.03]) == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    p = np.random.default_rng(1).uniform(size=20) ** 3
    corrected = np.array(holm(p))
    assert (corrected >= p).all()
    assert (np.argsort(corrected, kind="stable")[:5] == np.argsort(p)[:5]).all()


# ---- words ---------------------------------------------------------------------------------------------------------


def interval(mean: float, sd: float = 0.001, n: int = 5) -> Interval:
    """As of n pairs."""
    if n < 2:
        return Interval(mean, math.nan, math.nan, n, math.nan, 0.95)
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    p = float(2 * stats.t.sf(abs(mean) / sd * math.sqrt(n), n - 1))
    return Interval(mean, mean - half, mean + half, n, sd, 0.95, p)


def test_the_wording_follows_the_interval() -> None:
    assert wording(interval(0.01)) == "better"
    assert wording(interval(-0.01)) == "worse"
    assert wording(interval(0.0001, sd=0.00283)) == "no difference shown (5 seeds; need about 18 for 0.2 points)"
    assert wording(interval(0.0001, sd=0.00283), difference=0.005) == "no difference shown (5 seeds, enough for 0.5 points)"
    assert wording(interval(0.0001, sd=0.00283), alpha=0.005) == "no difference shown (5 seeds; need about 31 for 0.2 points)"
    assert wording(interval(0.01, n=1)) == "no difference shown (1 seed; need several for 0.2 points)"
    assert wording(Interval(math.nan, math.nan, math.nan, 0, math.nan, 0.95)) == "not compared (no common seed)"
    assert "for 0.05)" in wording(interval(0.0001), difference=0.05, accuracy=False)


def test_a_table_is_corrected_for_its_length() -> None:
    near = interval(0.001, sd=0.0007)
    assert 0.025 < near.p < 0.05
    assert [word for _, word in table([near])] == ["better"]
    assert all(word.startswith("no difference shown") for _, word in table([near, interval(0.0, sd=0.0007)]))


def test_the_seeds_needed_in_a_table_are_those_of_its_correction() -> None:
    def words(*intervals: Interval) -> list[str]:
        return [word for _, word in table(intervals)]

    shown, not_shown = interval(0.01, sd=0.0012, n=6), interval(0.0001, sd=0.0012, n=6)
    alone, two = (
        "no difference shown (6 seeds, enough for 0.2 points)",
        "no difference shown (6 seeds; need about 7 for 0.2 points)",
    )
    assert words(not_shown) == [alone]
    assert words(not_shown, not_shown) == [two, two], "equal intervals, equal words"
    assert words(shown, not_shown, shown) == ["better", alone, "better"], "what is shown asks nothing more of the rest"
    assert words(not_shown, interval(0.001, n=1)) == [alone, "no difference shown (1 seed; need several for 0.2 points)"]
    assert words(*[not_shown] * 13) == ["no difference shown (6 seeds; need about 10 for 0.2 points)"] * 13


@pytest.mark.parametrize("nulls", [0, 3, 12])
def test_as_many_seeds_as_a_table_needs_show_the_difference_in_four_of_five(nulls: int) -> None:
    rng, sd, needed = np.random.default_rng(nulls), 0.002, need(interval(0.0, sd=0.002, n=50), alpha=0.05 / (nulls + 1))
    assert needed is not None
    tries = 1500
    found = 0
    for _ in range(tries):
        arms = sd * rng.normal(size=(nulls + 1, needed))
        arms[0] += 0.002
        found += table([paired_difference(arm, np.zeros(needed)) for arm in arms])[0][1] == "better"
    assert 0.76 < found / tries < 0.88


def gains(
    counts: Interval, random: Interval, weights: Interval | None = None, units: Interval | None = None
) -> dict[str, Interval]:
    found = {"fresh_counts": counts, "fresh_random": random}
    return found | ({"reinitialise": weights} if weights else {}) | ({"shuffle_units": units} if units else {})


BIG, NONE, WIDE = interval(0.05), interval(0.0, sd=0.0005), interval(0.004, sd=0.02)


@pytest.mark.parametrize(
    ("found", "counts_chosen", "kind"),
    [
        (gains(BIG, BIG, BIG), True, WEIGHTS),
        (gains(BIG, BIG, NONE), True, WIRING),
        (gains(BIG, BIG, interval(-0.05)), False, WIRING),
        (gains(NONE, BIG, NONE), True, LAYERS),
        (gains(NONE, NONE, NONE), True, RANDOM),
        (gains(NONE, BIG, NONE), False, RANDOM),
        (gains(interval(-0.05), interval(-0.05)), True, RANDOM),
        (gains(WIDE, BIG), True, SEEDS),
        (gains(NONE, WIDE), True, SEEDS),
        (gains(interval(0.05, n=1), interval(0.05, n=1)), True, SEEDS),
    ],
)
def test_verdicts(found: dict[str, Interval], counts_chosen: bool, kind: str) -> None:
    verdict = judge(found, counts_chosen=counts_chosen)
    assert verdict.kind == kind
    assert verdict.because
    assert str(verdict).startswith(kind)


def test_too_few_seeds_say_how_many_it_takes() -> None:
    assert str(judge(gains(WIDE, BIG), counts_chosen=True)) == f"not enough seeds (need about {need(WIDE)})"
    assert str(judge(gains(WIDE, WIDE), counts_chosen=True)) == f"not enough seeds (need about {need(WIDE, alpha=0.025)})"
    assert str(judge(gains(interval(0.05, n=1), BIG), counts_chosen=True)) == "not enough seeds (need more)"


@pytest.mark.parametrize("gain", [0.0, -0.01])
def test_equal_gains_of_few_seeds_rule_nothing_out(gain: float) -> None:
    def same(seeds: int) -> Interval:
        return paired_difference([0.8 + gain] * seeds, [0.8] * seeds)

    few = judge(gains(same(2), same(2)), counts_chosen=True)
    assert str(few) == "not enough seeds (need more)"
    assert few.because.endswith("2 seeds: too few seeds to tell")
    assert judge(gains(same(5), same(5)), counts_chosen=True).kind == SEEDS
    assert judge(gains(same(6), same(6)), counts_chosen=True).kind == RANDOM


def test_seeds_that_are_there_are_not_asked_for() -> None:
    close = interval(0.0012, sd=0.00115, n=8)  # reaches .0022, which is not excluded, and p is .02
    others = {f"control {number}": interval(0.0, sd=0.01, n=8) for number in range(7)}
    asked = judge({**gains(close, NONE), **others}, counts_chosen=False)
    assert asked.kind == SEEDS
    assert asked.seeds is None or asked.seeds > 8
    assert str(judge(gains(close, BIG), counts_chosen=False)).startswith("tied"), "alone it is shown"


def test_counts_are_only_named_where_fresh_masks_of_them_do_better() -> None:
    slight, tiny = interval(0.0006, sd=0.0008), interval(0.0004, sd=0.0001)
    assert judge(gains(slight, tiny), counts_chosen=True).kind != LAYERS
    assert judge(gains(tiny, BIG, NONE), counts_chosen=True).kind != LAYERS, "it beats its own counts"


def test_a_gain_that_the_fan_in_explains_is_called_so() -> None:
    assert "fan-in" in judge(gains(BIG, BIG, BIG, NONE), counts_chosen=True).because
    assert "fan-in" not in judge(gains(BIG, BIG, BIG, BIG), counts_chosen=True).because


# ---- early and final -----------------------------------------------------------------------------------------------


def test_early_ranks_are_compared_with_the_last_ones_of_those_that_reached_them() -> None:
    rows = [{"individual": i, "epoch": e, "val_loss": value} for e, values in
            enumerate([[3, 1, 2, 4, 0], [1, 2, 3, 4, 0], [1, 2, 3, 4]], start=1) for i, value in enumerate(values)]  # fmt: skip
    found = early_to_final(pd.DataFrame(rows))
    assert found["epoch"].tolist() == [1, 2]
    assert found["individuals"].tolist() == [4, 4]
    assert found["correlation"].tolist() == pytest.approx([0.4, 1.0])
    assert early_to_final(pd.DataFrame(rows)[lambda frame: frame["individual"] < 2]).empty
