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
