"""The study's committed runs are those of its plan, and several processes may work on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from evoprune.compare.cells import Cell
from evoprune.compare.costs import Costs

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_runs_that_are_published_are_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from _plan import Place, options_of, planned
    from _runs import keys_of, read

    runs = read(BENCHMARKS / "results" / "study" / "runs.csv")
    assert len(runs) == len(keys_of(runs)), "no run twice"
    assert keys_of(runs) <= planned(tuple(runs["method"].unique()))
    for row in runs.to_dict("records"):
        place = Place(row["model"], row["data"], row["sparsity"] or 0.98)
        assert row["target"] == place.target
        assert json.loads(row["options"]) == options_of(place, row["method"])
    assert not runs["test_score"].isna().any()


@pytest.mark.parametrize("method", ["dense", "snip"])
def test_what_cannot_be_run_is_known_by_the_key_of_its_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from _plan import Place, key
    from _runs import note_unfit, unfit_keys

    place = Place("lenet5", "fashion-mnist", 0.98)
    note_unfit(tmp_path, place, method, "it turned NaN")
    assert key(place, method, 0) in unfit_keys(tmp_path)


def test_costs_that_another_process_finds_meanwhile_are_kept_and_used(tmp_path: Path) -> None:
    def price(cells: Sequence[Cell]) -> Iterator[tuple[Cell, float | None]]:
        for cell in cells:
            asked.append(cell.name)
            yield cell, float(cell.options["epochs"])

    asked: list[str] = []
    one, other = (Cell(method, 0.9, 0, {"epochs": 5}) for method in ("random", "snip"))
    first, second = Costs(tmp_path, price), Costs(tmp_path, price)
    first.find([one])
    second.find([other])
    first.find([one.lasting(10), other])
    assert asked == [one.name, other.name, one.name]
    assert Costs(tmp_path, price).known == first.known == {"random-0.9": {"5": 5.0, "10": 10.0}, "snip-0.9": {"5": 5.0}}


def test_a_recipe_takes_the_best_rate_that_no_seed_fails_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import recipe

    def chosen(
        *rows: tuple[float, int, float | None], default: float | None = None
    ) -> tuple[float | None, list[tuple[float, int]]]:
        tried = [
            {"method": "random", "sparsity": 0.9, "lr": lr, "seed": recipe.SEEDS[seed], "val_error": error}
            for lr, seed, error in rows
        ]
        own = recipe.Recipe(rates=(0.1, 0.2, 0.4), sparse=1, epochs={}, default=default, better=0.1)
        rate = recipe.best(tried, own).get(("random", 0.9))
        return rate, [(row["lr"], recipe.SEEDS.index(row["seed"])) for row in recipe.untried(tried, own)]

    first = [(0.1, 0, 0.5), (0.2, 0, 0.4), (0.4, 0, 0.39)]
    assert chosen(*first) == (0.4, [(0.4, 1), (0.4, 2), (0.4, 3)])
    assert chosen(*first, (0.4, 1, None))[0] == 0.2, "NaN with one seed"
    assert chosen(*first, (0.4, 1, 0.79))[0] == 0.2, "twice as bad with one seed"
    assert chosen(*first, *((0.4, seed, 0.4) for seed in (1, 2, 3))) == (0.4, [])
    assert chosen((0.1, 0, 0.4), (0.2, 0, 0.395), (0.4, 0, None))[0] == 0.1, "as good, and further from what failed"
    assert chosen((0.1, 0, 0.5), (0.2, 0, 0.395), (0.4, 0, None))[0] == 0.2
    assert chosen(*first, default=0.2) == (0.2, []), "better by too little"
    assert chosen(*first, default=0.1)[0] == 0.4
    assert chosen((0.1, 0, 0.4), (0.2, 0, 0.39), (0.4, 0, None), default=0.1) == (0.1, [(0.1, 1), (0.1, 2), (0.1, 3)])
    assert chosen(*((lr, 0, None) for lr in (0.1, 0.2, 0.4)), default=0.1) == (None, []), "none that serves"
