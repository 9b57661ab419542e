"""The study's committed runs are those of its plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
