"""The published study: what it plans, that it goes on where it was stopped, and that its tables need no complete plan."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
METHODS = ("random", "kstarts", "evolve", "dense")


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    """The script, with a plan of seconds: a small network on the digits, two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import _plan
        import _runs
        import _study_report
        import study

        for module in (_plan, _study_report):
            patch.setattr(module, "PLAN", (("mlp:16", "digits", (0.95, 0.875)),))
        patch.setitem(_plan.TARGETS, "mlp:16", 0.5)
        for module in (_plan, _runs, _study_report, study):
            patch.setattr(module, "SEEDS", 2)
        for module in (_plan, _study_report, study):
            patch.setattr(module, "METHODS", METHODS)
            patch.setattr(module, "LATER", ())
        yield study


@pytest.fixture(scope="module")
def whole(study: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every run."""
    out = tmp_path_factory.mktemp("study")
    work(study, out)
    return out


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "study"))


def work(study: ModuleType, out: Path, seeds: Sequence[int] = (0, 1)) -> pd.DataFrame:
    wanted = study.Wanted(METHODS, ["mlp:16"], ["digits"], [0.95, 0.875], seeds, checks=False)
    study.work(study.Study(out, None, "cpu"), wanted, math.inf)
    return study.read(out / "runs.csv")


def test_every_run_costs_its_target_and_what_cannot_is_said(study: ModuleType, whole: Path) -> None:
    runs = study.read(whole / "runs.csv")
    assert list(runs.groupby(["method", "sparsity"])["seed"].apply(list).items()) == [
        *((place, [0, 1]) for place in (("dense", 0.0), ("evolve", 0.95), ("kstarts", 0.875), ("kstarts", 0.95))),
        *((("random", sparsity), [0, 1]) for sparsity in (0.875, 0.95)),
    ]
    sparse = runs[runs["method"] != "dense"]
    assert (abs(sparse["dense_equivalent_epochs"] / sparse["target"] - 1) < 0.1).all()
    [unfit] = pd.read_csv(whole / "unfit.csv").to_dict("records")
    assert (unfit["method"], unfit["sparsity"]) == ("evolve", 0.875), "a generation costs more than there is"


def test_a_search_that_is_too_dear_at_one_epoch_is_not_tried_for_longer(study: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(study.DoesNotFit, match=r"at 1 epoch, the fewest, it costs .* dense epochs; the target is 0.5"):
        study.Study(tmp_path, None, "cpu").epochs(study.Place("mlp:16", "digits", 0.95), "imp")
    [tried] = json.loads((tmp_path / "costs.json").read_text()).values()
    assert list(tried) == ["1"]


def test_a_stopped_study_goes_on_and_gives_the_same_rows(study: ModuleType, folder: Path) -> None:
    before, path = study.read(folder / "runs.csv"), folder / "runs.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:37])  # killed in the middle of the fourth run's line
    assert len(study.read(path)) == 3
    pd.testing.assert_frame_equal(work(study, folder).drop(columns="wall_s"), before.drop(columns="wall_s"))


def test_a_study_in_parts_gives_the_same_rows(study: ModuleType, whole: Path, tmp_path: Path) -> None:
    assert set(work(study, tmp_path, seeds=[1])["seed"]) == {1}
    rows = [
        runs.drop(columns="wall_s").sort_values(["method", "sparsity", "seed"], ignore_index=True)
        for runs in (work(study, tmp_path, seeds=[0]), study.read(whole / "runs.csv"))
    ]
    pd.testing.assert_frame_equal(*rows)


def test_a_run_that_two_processes_made_counts_once(study: ModuleType, folder: Path) -> None:
    path = folder / "runs.csv"
    before = path.read_bytes()
    path.write_bytes(before + before[before.rstrip(b"\n").rfind(b"\n") + 1 :])
    study.mend(path)
    assert path.read_bytes() == before


def test_a_file_without_todays_columns_is_taken_over(study: ModuleType, folder: Path) -> None:
    before, path = study.read(folder / "runs.csv"), folder / "runs.csv"
    before.drop(columns="target").to_csv(path, index=False, lineterminator="\n")
    pd.testing.assert_frame_equal(work(study, folder), before.assign(target=2.0))  # what older files were made with
    assert path.read_text().startswith(",".join(study.COLUMNS))


def test_a_part_of_the_plan_gives_a_page_that_says_what_is_missing(study: ModuleType, folder: Path) -> None:
    runs = study.read(folder / "runs.csv")
    runs[:5].to_csv(folder / "runs.csv", index=False, lineterminator="\n")
    study.write_report(folder)
    page = (folder / "report.html").read_text()
    assert "3 of 3 searches are not checked against their controls yet." in page, "kstarts at both sparsities, evolve at one"
    assert f"{len(runs) - 5} of {len(runs)} planned runs are not made yet." in page
    assert "evolve at sparsity 0.875 is not run" in page


def test_a_sparsity_with_fewer_than_three_seeds_is_counted_and_not_shown(study: ModuleType, folder: Path) -> None:
    runs = study.read(folder / "runs.csv")
    shown = [runs.assign(seed=2 * runs["seed"] + more) for more in (0, 1)]
    first = runs[runs["seed"] == 0]
    few = pd.concat([first.assign(data="other"), first[first["sparsity"] == 0.95].assign(sparsity=0.5)])
    pd.concat([*shown, few]).to_csv(folder / "runs.csv", index=False, lineterminator="\n")
    study.write_report(folder)
    summary = pd.read_csv(folder / "summary.csv")
    assert (set(summary["data"]), set(summary["sparsity"])) == ({"digits"}, {0.875, 0.95})
    assert "dense" in set(summary["method"])
    assert len(study.read(folder / "runs.csv")) == 2 * len(runs) + len(few)


def test_the_page_knows_the_layers_of_every_model_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _plan
    from _study_report import space_of

    sizes = {model: space_of(model).prunable for model in _plan.TARGETS if not model.startswith("mlp")}
    assert sizes == {"lenet-300-100": 266_200, "autoencoder": 536_800, "lenet5": 430_500}
