"""The summary: every method at every sparsity, differences paired by seed."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from evoprune.errors import InputError
from evoprune.evidence.plots import plot_accuracy
from evoprune.evidence.statistics import mean_interval, paired_difference
from evoprune.evidence.tables import cost_words, duels, pivot, plus_minus, score_column, summarise
from tests.evidence.runs_frame import runs_frame


def test_a_row_a_method_and_sparsity_in_the_order_given() -> None:
    table = summarise(runs_frame({"random": 0.9, "kstarts": 0.95, "dense": 1.0}))
    assert list(zip(table["sparsity"], table["method"], strict=True)) == [
        *((0.9, name) for name in ("random", "kstarts", "dense")),
        *((0.95, name) for name in ("random", "kstarts", "dense")),
    ]
    assert (table["runs"] == 3).all()


def test_what_prunes_nothing_is_shown_at_every_sparsity_but_is_no_sparsity() -> None:
    table = summarise(runs_frame({"dense": 1.0, "random": 0.9}))
    dense = table[table["method"] == "dense"]
    assert list(dense["sparsity"]) == [0.9, 0.95]
    assert dense["test_mean"].nunique() == 1
    assert list(summarise(runs_frame({"dense": 1.0, "dropout": 0.9}))["sparsity"]) == [0.0, 0.0]


def test_means_and_intervals_are_those_of_the_runs() -> None:
    runs = runs_frame({"random": 0.9, "kstarts": 0.95})
    row = summarise(runs).iloc[0]
    own = mean_interval(runs[(runs["method"] == "random") & (runs["sparsity"] == 0.9)]["test_score"])
    assert (row["test_mean"], row["test_low"], row["test_high"]) == (own.mean, own.low, own.high)


def test_differences_are_paired_by_seed_not_by_position() -> None:
    runs = runs_frame({"random": 0.9, "kstarts": 0.95})
    noise = np.random.default_rng(0).normal(size=len(runs)) * 0.01
    runs["test_score"] += noise
    cells = [runs[(runs["method"] == name) & (runs["sparsity"] == 0.9)].set_index("seed") for name in ("kstarts", "random")]
    known = paired_difference(cells[0]["test_score"], cells[1]["test_score"])
    for frame in (runs, runs.sample(frac=1, random_state=1)):
        table = summarise(frame)
        row = table[(table["method"] == "kstarts") & (table["sparsity"] == 0.9)].iloc[0]
        assert row["difference"] == pytest.approx(known.mean)
        assert row["difference_p"] == pytest.approx(known.p)
    assert table[table["method"] == "random"]["difference"].isna().all(), "the baseline has no difference to itself"


def test_seeds_that_only_one_side_has_are_no_pairs() -> None:
    runs = runs_frame({"random": 0.9, "kstarts": 0.95}, seeds=4)
    runs = runs[~((runs["method"] == "random") & (runs["seed"] == 0))]
    row = summarise(runs).query("method == 'kstarts'").iloc[0]
    assert row["runs"] == 4
    assert row["difference"] == pytest.approx(0.05)


def test_a_single_seed_has_no_intervals() -> None:
    table = summarise(runs_frame({"random": 0.9, "kstarts": 0.95}, seeds=1))
    assert table["test_mean"].notna().all()
    assert table[["test_low", "test_high", "difference_low", "difference_p"]].isna().all(axis=None)


def test_validation_speaks_while_the_test_split_is_locked() -> None:
    runs = runs_frame({"random": 0.9, "kstarts": 0.95}).assign(test_score=None)
    assert score_column(runs) == "val_score"
    table = summarise(runs)
    assert table["test_mean"].isna().all()
    assert table.query("method == 'kstarts'")["difference"].to_numpy() == pytest.approx(0.05)


def test_a_test_score_of_some_runs_speaks_for_none() -> None:
    runs = runs_frame({"random": 0.9, "snip": 0.8}, (0.9,))
    some = runs.assign(test_score=runs["test_score"].where(runs["seed"] == 0))
    summary = summarise(some)
    assert summary["test_mean"].isna().all()
    assert pivot(summary)["random"].tolist() == pivot(summarise(runs.assign(test_score=None)))["random"].tolist()


def test_an_open_sparsity_stands_last() -> None:
    runs = pd.concat([runs_frame({"dissipating": 0.9}, (math.nan,)), runs_frame({"random": 0.9, "dense": 1.0})])
    table = summarise(runs)
    last = table.iloc[-1]
    assert last["method"] == "dissipating"
    assert math.isnan(last["sparsity"])
    assert last["sparsity_obtained"] == pytest.approx(0.87)
    assert list(table["sparsity"].isna()) == [False] * (len(table) - 1) + [True]


def test_what_prunes_nothing_stands_beside_outcomes_where_no_sparsity_is_asked() -> None:
    runs = runs_frame({"dissipating": 0.9, "dense": 0.97}, sparsities=(math.nan,))
    table = summarise(runs, baseline="dense")
    assert table["method"].tolist() == ["dissipating", "dense"]
    assert table["difference"][0] == pytest.approx(-0.07 - 0.1 * 0.87)
    assert pivot(table)["dense"].tolist() == ["96.00 ± 2.48"]


def test_costs_are_compared_with_those_of_outcomes_too() -> None:
    asked, outcome = runs_frame({"random": 0.9}), runs_frame({"dissipating": 0.9}, sparsities=(math.nan,))
    assert cost_words(summarise(asked)) == "", "one method alone"
    assert cost_words(summarise(pd.concat([asked, outcome]))) == "costs agree within 2%"
    dear = outcome.assign(dense_equivalent_epochs=36.0)
    told = "costs are not equal: at sparsity 0.9 dissipating costs 18 times as much as random"
    assert cost_words(summarise(pd.concat([asked, dear]))) == told
    both = pd.concat([dear, outcome.assign(method="other")])
    assert cost_words(summarise(both)) == "costs are not equal: dissipating costs 18 times as much as other"


def test_runs_that_cannot_be_compared_are_refused() -> None:
    runs = pd.concat([runs_frame({"random": 0.9}), runs_frame({"random": 0.9}, data="mnist")])
    with pytest.raises(InputError, match="several kinds"):
        summarise(runs)


def test_runs_of_other_options_are_no_further_samples() -> None:
    """Paired by seed they would be multiplied with each other, and p would shrink."""
    methods = {"random": 0.9, "kstarts": 0.95}
    runs = pd.concat([runs_frame(methods), runs_frame(methods, epochs=9, val_score=0.5)], ignore_index=True)
    for refused in (summarise, plot_accuracy, lambda frame: duels(frame, [("kstarts", "random")])):
        with pytest.raises(InputError, match=r"differ in epochs: 3, 9: choose one of each method, sparsity and seed first$"):
            refused(runs)
    assert len(summarise(runs[runs["epochs"] == 3])) == 4
    with pytest.raises(InputError, match="are the same"):
        summarise(pd.concat([runs_frame(methods)] * 2))


def test_seeds_of_other_options_are_no_further_samples_either() -> None:
    runs = runs_frame({"random": 0.9, "magnitude": 0.95}).assign(lr=0.1, device="cpu")
    later = (runs["seed"] == 2) & (runs["method"] == "random")
    assert summarise(runs.assign(device=["cuda" if one else "cpu" for one in later]))["runs"].tolist() == [3] * 4, (
        "no other options"
    )
    with pytest.raises(InputError, match=r"runs of random with seed 2 differ in lr: 0\.1, 0\.3: choose"):
        summarise(runs.assign(lr=runs["lr"].where(~later, 0.3)))
    ranges = runs.assign(lr=runs["lr"].where(runs["sparsity"] == 0.9, 0.3))
    assert summarise(ranges)["runs"].tolist() == [3] * 4, "a sparsity may have a rate of its own"


def test_a_run_of_before_an_option_was_there_has_its_default() -> None:
    runs = runs_frame({"kstarts": 0.9}).assign(eta=2, precision="full", lr=None)
    older = runs["seed"] == 1
    frame = runs.assign(eta=runs["eta"].where(~older), precision=runs["precision"].where(~older))
    assert summarise(frame)["runs"].tolist() == [3, 3]
    with pytest.raises(InputError, match="precision: full, bf16"):
        summarise(frame.assign(precision=frame["precision"].where(frame["seed"] != 2, "bf16")))


def test_only_the_values_that_tell_repeated_runs_apart_are_named() -> None:
    runs = pd.concat([runs_frame({"random": 0.9, "kstarts": 0.95}), runs_frame({"kstarts": 0.95}), runs_frame({"random": 0.9})])
    runs["k"] = [*(None,) * 6, *(8,) * 6, *(16,) * 6, *(None,) * 6]
    with pytest.raises(InputError, match=r"differ in k: 8(\.0)?, 16(\.0)?: choose"):
        summarise(runs)


def test_what_prunes_nothing_is_repeated_at_another_sparsity() -> None:
    runs = pd.concat([runs_frame({"dense": 1.0}), runs_frame({"dense": 1.0}).assign(sparsity=math.nan, epochs=4)])
    with pytest.raises(InputError, match=r"runs of dense with seed 0 differ in .*epochs: 3, 4"):
        summarise(runs)


@pytest.mark.parametrize(
    ("mean", "half", "metric", "told"),
    [
        (0.8805, 0.0018, "accuracy", "88.05 ± 0.18"),
        (-0.00001, 0.001, "accuracy", "+0.00 ± 0.10"),
        (-0.0795123, 0.0053, "mse", "-0.0795 ± 0.0053"),
        (-0.046882, 0.01004, "mse", "-0.047 ± 0.010"),
        (0.2, 12.3, "mse", "+0 ± 12"),
        (0.123456, 0.0, "mse", "+0.1235 ± 0"),
        (0.123456, math.nan, "mse", "+0.1235"),
        (math.nan, 0.1, "mse", "–"),
    ],
)
def test_a_mean_has_as_many_decimals_as_its_interval(mean: float, half: float, metric: str, told: str) -> None:
    assert plus_minus(mean, half, metric, "+" if told[0] in "+-" else "") == told


def test_of_a_loss_less_is_better_in_duels_too() -> None:
    runs = runs_frame({"random": 0.9, "kstarts": 0.7}, metric="mse")
    runs["test_score"] += np.random.default_rng(0).normal(0, 1e-4, len(runs))
    found = duels(runs, [("kstarts", "random")])
    assert (found["difference"] < 0).all()
    assert set(found["words"]) == {"better"}
