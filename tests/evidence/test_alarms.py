"""How often the words are wrong: false alarms on arms without a difference, and planted differences that are found."""

from __future__ import annotations

import numpy as np
import pytest

from evoprune.evidence.statistics import paired_difference, seeds_needed
from evoprune.evidence.tables import summarise
from evoprune.evidence.verdict import NOTHING, said, table
from tests.evidence.runs_frame import runs_frame

COMPARISONS = 4000


def arms(seeds: int, comparisons: int, *, gain: float = 0.0, stream: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two arms, `(comparisons, seeds)`: a common effect of each seed (its initial weights), and each run's own noise.

    Accuracies in points: runs differ by sd 0.2, seeds by 0.3; the first arm gains `gain`.
    """
    rng = np.random.default_rng([stream, seeds])
    common = 87 + 0.3 * rng.normal(size=(comparisons, seeds))
    first, second = (common + 0.2 * rng.normal(size=(comparisons, seeds)) for _ in range(2))
    return first + gain, second


@pytest.mark.parametrize("seeds", [5, 8])
def test_five_in_a_hundred_null_arms_are_called_better_or_worse(seeds: int) -> None:
    words = [said(paired_difference(one, other)) for one, other in zip(*arms(seeds, COMPARISONS), strict=True)]
    assert 0.04 <= np.mean([word != NOTHING for word in words]) <= 0.06
    assert abs(words.count("better") - words.count("worse")) < 0.02 * COMPARISONS, "neither side is favoured"


@pytest.mark.parametrize("seeds", [5, 8])
def test_a_whole_table_of_null_arms_raises_an_alarm_in_five_of_a_hundred_at_most(seeds: int) -> None:
    rivals, tables = 4, 1000
    rng = np.random.default_rng([7, seeds])
    common = 0.3 * rng.normal(size=(tables, 1, seeds))
    scores = common + 0.2 * rng.normal(size=(tables, rivals + 1, seeds))
    alarms = [
        any(word in ("better", "worse") for _, word in table([paired_difference(arm, one[0]) for arm in one[1:]], difference=0.2))
        for one in scores
    ]
    assert 0.02 <= np.mean(alarms) <= 0.06


@pytest.mark.parametrize(("gain", "seeds"), [(0.5, 5), (0.2, 18)])
def test_planted_differences_are_found_at_the_stated_power(gain: float, seeds: int) -> None:
    assert seeds_needed(0.2 * 2**0.5, gain, power=0.8) == seeds
    words = [said(paired_difference(one, other)) for one, other in zip(*arms(seeds, 2000, gain=gain), strict=True)]
    found = np.mean([word == "better" for word in words])
    fewer = [said(paired_difference(one, other)) for one, other in zip(*arms(seeds - 1, 2000, gain=gain), strict=True)]
    assert 0.77 <= found <= 0.9
    assert np.mean([word == "better" for word in fewer]) < found
    assert "worse" not in words


def test_the_words_of_a_summary_follow_holm() -> None:
    runs = runs_frame({"random": 0.9, "kstarts": 0.9, "snip": 0.95, "dense": 1.0}, seeds=8)
    rng = np.random.default_rng(0)
    runs["test_score"] += 0.002 * rng.normal(size=len(runs))
    summary = summarise(runs).set_index(["sparsity", "method"])
    assert summary.loc[(0.9, "snip"), "words"] == "better"
    assert summary.loc[(0.9, "kstarts"), "words"].startswith("no difference shown (8 seeds; need about")
    assert summary.loc[(0.9, "dense"), "words"] == "", "a reference is no rival"
    assert summary.loc[(0.9, "random"), "words"] == ""
    rivals = summary[summary["words"] != ""]
    assert len(rivals) == 4
    assert rivals["difference_p_holm"].min() == pytest.approx(4 * rivals["difference_p"].min())


def test_of_a_loss_less_is_better() -> None:
    runs = runs_frame({"random": 0.9, "kstarts": 0.7}, metric="mse")
    runs["test_score"] += np.random.default_rng(0).normal(0, 1e-4, len(runs))
    assert set(summarise(runs).query("method == 'kstarts'")["words"]) == {"better"}
