"""Equal cost: final trainings are stretched or shortened until the ledgers agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import evoprune as ep
from evoprune.compare import compare
from evoprune.errors import DamagedFile, InputError
from evoprune.methods import METHODS
from tests.test_compare import ASKED


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem("mlp:16", "digits", seed=0)


def test_equal_cost_stretches_the_final_training(problem: ep.Problem, tmp_path: Path) -> None:
    asked = {**ASKED, "epochs": 4, "sparsities": (0.8,), "k": 4, "selection_epochs": 1}
    found = compare(["random", "kstarts", "dense"], problem, out=tmp_path / "out", equal_cost="dearest", **asked)
    cost = found.results.groupby("method")["dense_equivalent_epochs"].mean()
    epochs = found.results.groupby("method")["epochs"].first()
    assert dict(epochs) == {"dense": 4, "kstarts": 4, "random": 7}, "3 more losers for 1 epoch, and what prunes nothing stays"
    assert cost["random"] == pytest.approx(cost["kstarts"], rel=1e-6)
    known = (tmp_path / "out" / "costs.json").read_bytes()
    again = compare(["random", "kstarts", "dense"], problem, out=tmp_path / "out", equal_cost="dearest", **asked)
    assert again.results.equals(found.results)
    assert (tmp_path / "out" / "costs.json").read_bytes() == known


def test_equal_cost_shortens_too_and_a_search_keeps_what_it_needs(problem: ep.Problem, tmp_path: Path) -> None:
    asked = {**ASKED, "epochs": 4, "sparsities": (0.8,), "seeds": 1, "k": 8, "selection_epochs": 2}
    found = compare(["random", "kstarts"], problem, out=tmp_path / "out", equal_cost="random", **asked)
    assert list(found.results["epochs"]) == [4, 3], "two selection epochs and one more are the fewest"
    from evoprune.evidence.tables import cost_words

    assert cost_words(found.summary) == "costs are not equal: at sparsity 0.8 kstarts costs 4.25 times as much as random"
    by_number = compare(["random"], problem, out=tmp_path / "b", equal_cost=2.0, **{**ASKED, "sparsities": (0.8,)})
    assert by_number.results["dense_equivalent_epochs"].to_numpy() == pytest.approx(2.0, rel=0.06)
    for wrong in ("dear", 0, True, -1.0):
        with pytest.raises(InputError, match="equal cost to"):
            compare(["random"], problem, out=tmp_path / "c", equal_cost=wrong, **ASKED)
    with pytest.raises(InputError, match="equal_cost="):
        compare(["random"], problem, out=tmp_path / "b", equal_cost=1.0, **{**ASKED, "sparsities": (0.8,)})


def test_a_method_of_open_sparsity_costs_what_the_others_do(problem: ep.Problem, tmp_path: Path) -> None:
    asked = {**ASKED, "seeds": 1, "epochs": 2, "sparsities": (0.8,), "rule": "fraction", "delta": 0.1}
    found = compare(["random", "dissipating"], problem, out=tmp_path / "out", equal_cost="dearest", **asked)
    cost = found.results.set_index("method")["dense_equivalent_epochs"]
    assert found.results["epochs"].tolist()[0] > 2
    assert cost["random"] == pytest.approx(cost["dissipating"], rel=0.2)
    several = {**asked, "sparsities": (0.5, 0.8)}
    with pytest.raises(InputError, match="dissipating leaves its sparsity open"):
        compare(["random", "dissipating"], problem, out=tmp_path / "b", equal_cost="random", **several)
    assert not (tmp_path / "b").exists()
    own = compare(["random", "dissipating"], problem, out=tmp_path / "c", equal_cost="dissipating", **several).results
    assert own["epochs"].tolist()[-1] == 2, "it costs what it costs"


def test_equal_cost_leaves_a_method_alone_that_takes_no_more_epochs(
    problem: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fixed(problem: ep.Problem, *, sparsity: float = 0.9, epochs: int = 9, seed: int = 0, **training: Any) -> ep.Ticket:
        return METHODS["random"](problem, sparsity=sparsity, epochs=2, seed=seed, **training)

    made = ep.Method("fixed", fixed, "always two epochs")
    monkeypatch.setitem(METHODS._entries, "fixed", made)
    asked = {**ASKED, "sparsities": (0.8,), "seeds": 1, "epochs": 4}
    found = compare(["random", "fixed"], problem, out=tmp_path / "out", equal_cost=0.5, **asked)
    assert list(found.results["epochs"]) == [3, 4], "0.5 epochs of the dense network at a fifth of its weights, and the usual"


def test_equal_cost_that_compares_nothing_is_refused(problem: ep.Problem, tmp_path: Path) -> None:
    cases = {
        "at least two methods that prune": (["random", "dense"], "dearest", 3),
        "'dense' is not usable: it prunes nothing": (["random", "kstarts", "dense"], "dense", 3),
        "refuses 1 epoch .selection after 2 epochs leaves no epoch": (["kstarts", "combined"], "dearest", 1),
    }
    for words, (methods, target, epochs) in cases.items():
        with pytest.raises(InputError, match=words):
            compare(methods, problem, out=tmp_path / target, equal_cost=target, **{**ASKED, "epochs": epochs})


def test_equal_cost_is_told_sparsity_by_sparsity(problem: ep.Problem, tmp_path: Path) -> None:
    asked = {**ASKED, "epochs": 4, "sparsities": (0.5, 0.8), "seeds": 1, "k": 4, "selection_epochs": 1, "test": False}
    found = compare(["random", "kstarts"], problem, out=tmp_path / "out", equal_cost="dearest", **asked)
    epochs = found.results.set_index(["method", "sparsity"])["epochs"].to_dict()
    assert epochs == {("random", 0.5): 7, ("random", 0.8): 7, ("kstarts", 0.5): 4, ("kstarts", 0.8): 4}


def test_damaged_costs_are_found_again_when_they_are_deleted_as_told(problem: ep.Problem, tmp_path: Path) -> None:
    asked = {**ASKED, "epochs": 3, "sparsities": (0.8,), "k": 2, "selection_epochs": 1, "seeds": 1, "equal_cost": "dearest"}
    before = compare(["random", "kstarts"], problem, out=tmp_path / "out", **asked)
    (tmp_path / "out" / "costs.json").write_text("{")
    with pytest.raises(DamagedFile, match=r"costs\.json is damaged .* delete this file and run again"):
        compare(["random", "kstarts"], problem, out=tmp_path / "out", **asked)
    (tmp_path / "out" / "costs.json").unlink()
    after = compare(["random", "kstarts"], problem, out=tmp_path / "out", **asked)
    pd.testing.assert_frame_equal(after.results, before.results)
