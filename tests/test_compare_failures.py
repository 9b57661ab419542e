"""What goes wrong in a comparison costs no finished run, and is said in one line."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evoprune as ep
from evoprune import cli
from evoprune.compare import Comparison, compare, workers
from evoprune.compare.cells import cells_of, check_seeds
from evoprune.compare.folder import run_folder
from evoprune.compare.work import open_tests, train
from evoprune.errors import DamagedFile, EvopruneError, InputError, TrainingFailed
from evoprune.formats import write_json
from evoprune.methods import METHODS
from tests.test_compare import ASKED, METHODS_USED, finished_in, judged, same_tables, setup_in


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem("mlp:16", "digits", seed=0)


@pytest.fixture(scope="module")
def finished(problem: ep.Problem, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(METHODS_USED, problem, out=tmp_path_factory.mktemp("compare") / "done", **ASKED)


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """`random` fails at seed 1."""
    original = type(METHODS["random"]).__call__

    def call(self: Any, problem: ep.Problem, **options: Any) -> ep.Ticket:
        if (self.name, options["seed"]) == ("random", 1):
            raise RuntimeError("out of memory")
        return original(self, problem, **options)

    monkeypatch.setattr(type(METHODS["random"]), "__call__", call)


def test_a_failing_run_is_reported_and_the_others_are_kept(problem: ep.Problem, tmp_path: Path, breaking: None) -> None:
    small = {**ASKED, "epochs": 1, "sparsities": (0.8,)}
    found = compare(["random", "dense"], problem, out=tmp_path / "out", **small)
    assert list(found.failures) == ["random-0.8-seed1"]
    assert "out of memory" in found.failures["random-0.8-seed1"]
    assert list(zip(found.results["method"], found.results["seed"], strict=True)) == [("random", 0), ("dense", 0), ("dense", 1)]
    assert list(found.summary["runs"]) == [1, 2]
    assert "Traceback" in (tmp_path / "out/runs/random-0.8-seed1/log.txt").read_text()


def test_the_command_exits_with_one_and_the_next_tries_again(
    problem: ep.Problem, tmp_path: Path, breaking: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["compare", "random", "dense", "--model", "mlp:16", "--sparsity", "0.8", "--seeds", "2", "--epochs", "1"]
    arguments += ["--workers", "1", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="1"):
        cli.main(arguments)
    captured = capsys.readouterr()
    assert "random-0.8-seed1: RuntimeError: out of memory" in captured.err
    assert "dense" in captured.out, "what is there is shown"
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="0"):
        cli.main(arguments)
    captured = capsys.readouterr()
    assert captured.err == ""
    for word in ("sparsity", "minus random", "±", "2 seeds", str(tmp_path / "out" / "accuracy.png")):
        assert word in captured.out.replace("\n", ""), word


def test_when_nothing_comes_to_an_end_it_fails(problem: ep.Problem, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="NaN"):
        compare(["random"], problem, out=tmp_path / "out", **{**ASKED, "lr": 1e9, "sparsities": (0.8,)})
    assert not (tmp_path / "out" / "results.csv").exists()


def test_a_killed_worker_fails_the_runs_left_and_the_others_are_judged_here(problem: ep.Problem, tmp_path: Path) -> None:
    small = {**ASKED, "epochs": 1, "sparsities": (0.8,), "seeds": 1}
    compare(["random"], problem, out=tmp_path, test=False, **small)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as broken:
        assert isinstance(broken.submit(os._exit, 1).exception(), BrokenProcessPool)
        cell = cells_of(["random"], {"": problem}, [0.9], [0], {"epochs": 1})[0]
        failures = train(broken, tmp_path, {"": problem}, [cell], 1, None, 1)
        open_tests(broken, tmp_path, {"": problem}, 1)
    assert "fewer --workers" in failures[cell.name]
    assert len(judged(tmp_path)) == 1


def test_workers_that_cannot_start_are_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_start_worker", os._exit)
    with pytest.raises(EvopruneError, match=r"if __name__ == '__main__':`, or give workers=1"), workers.pool(2, 1):
        pass


def test_what_goes_wrong_after_the_last_run_costs_no_run(
    problem: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {**ASKED, "seeds": 1, "epochs": 1, "sparsities": (0.8,)}

    def lose(path: Path, **_: object) -> ep.Ticket:
        raise DamagedFile(f"{path} is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(ep.Ticket, "load", lose)
        with pytest.raises(InputError, match="is damaged"):
            compare(["random"], problem, out=tmp_path / "out", **one)
    assert len(finished_in(tmp_path / "out")) == 1


@pytest.mark.parametrize("content", ["{", "[]", "{}", ""])
def test_a_damaged_setup_is_made_again_from_the_runs(
    finished: Comparison, problem: ep.Problem, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path(shutil.copytree(finished.folder, tmp_path / "copy"))
    (out / "compare.json").write_text(content)
    for wrong, named in (({"epochs": 2}, "epochs=3, not 2"), ({"lr": 0.1}, "lr=None, not 0.1")):
        with pytest.raises(InputError, match=named):
            compare(["kstarts"], problem, out=out, **{**ASKED, **wrong, "seeds": (7,)})
    with pytest.raises(InputError, match="rule=None, not 'gradient'"):
        compare(["dissipating"], problem, out=out, rule="gradient", **{**ASKED, "seeds": (7,)})
    found = compare(METHODS_USED, problem, out=out, **ASKED)
    assert "compare.json is damaged" in caplog.text
    assert same_tables(out, finished.folder)
    assert setup_in(out) == setup_in(finished.folder)
    assert found.failures == {}


def test_a_damaged_setup_of_equal_cost_and_options_is_made_again(problem: ep.Problem, tmp_path: Path) -> None:
    asked = {**ASKED, "epochs": 4, "sparsities": (0.8,), "k": 4, "selection_epochs": 1, "seeds": (3,), "equal_cost": "dearest"}
    compare(["random", "kstarts"], problem, out=tmp_path / "out", **asked)
    known = setup_in(tmp_path / "out")
    (tmp_path / "out" / "compare.json").write_text(json.dumps(known)[:-9])
    compare(["random", "kstarts"], problem, out=tmp_path / "out", **asked)
    assert setup_in(tmp_path / "out") == known


@pytest.mark.parametrize("workers", [1, None])
def test_a_refused_run_refuses_the_comparison_and_leaves_nothing(
    problem: ep.Problem, tmp_path: Path, workers: int | None
) -> None:
    with pytest.raises(InputError, match="k=0"):
        compare(["kstarts", "combined"], problem, out=tmp_path / "a" / "out", **{**ASKED, "k": 0, "workers": workers})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"methods": "random"}, "methods='random' is not usable: give names in a list"),
        ({"methods": "random", "equal_cost": "dearest"}, "methods='random' is not usable"),
        ({"sparsities": 0.9}, "sparsities=0.9 is not usable: give numbers in a list"),
        ({"seeds": 2.0}, "seeds=2.0 is not usable: give how many, at least 1, or which in a list"),
        ({"seeds": None}, "seeds=None is not usable"),
        ({"problem": "digits"}, "problem='digits' is not usable: give a Problem"),
        ({"problem": ["digits"]}, "problem='digits' is not usable: give a Problem"),
    ],
    ids=str,
)
def test_one_where_several_are_meant_is_refused_in_one_line(wrong: dict[str, Any], says: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": ["random"], "problem": ep.Problem("mlp:4", "digits"), "out": tmp_path / "out", **wrong}
    with pytest.raises(InputError, match=re.escape(says)):
        compare(asked.pop("methods"), asked.pop("problem"), **asked)
    assert not (tmp_path / "out").exists()


def test_numpy_says_how_many_seeds() -> None:
    assert check_seeds(np.int64(3)) == [0, 1, 2] == check_seeds(np.arange(3))


def test_a_run_that_is_refused_late_is_named_and_costs_no_finished_run(problem: ep.Problem, tmp_path: Path) -> None:
    asked = {**ASKED, "sparsities": (0.95, 0.5), "start_sparsity": 0.9}
    with pytest.raises(InputError, match=r"^dissipating-0\.5-seed0: .*start_sparsity"):
        compare(["random", "dissipating"], problem, out=tmp_path / "out", **asked)
    kept = {path.parent.name for path in finished_in(tmp_path / "out")}
    assert kept == {"random-0.95-seed0", "random-0.5-seed0", "dissipating-0.95-seed0"}
    with pytest.raises(InputError, match=r"^dissipating-0\.5-seed0: "):
        compare(["random", "dissipating"], problem, out=tmp_path / "out", **asked)


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks")
def test_a_run_that_another_process_is_making_costs_nobody_a_run(problem: ep.Problem, tmp_path: Path) -> None:
    import fcntl

    asked = {"sparsities": (0.8,), "seeds": 1, "epochs": 3, "engine": "loop", "workers": 1}
    search = {"fitness_epochs": 1, "mu": 2, "lambda_": 2, "ngen": 1}
    [cell] = cells_of(["evolve"], {"": problem}, (0.8,), [0], {"epochs": 3, "engine": "loop", **search})
    other = run_folder(tmp_path / "out", problem, cell)
    with ExitStack() as held:

        def another_begins(done: int, total: int) -> None:
            if done == 1:
                with other.opened():
                    journal = held.enter_context((other.path / "journal.jsonl").open("wb"))
                    fcntl.flock(journal, fcntl.LOCK_EX)

        found = compare(["random", "evolve"], problem, out=tmp_path / "out", progress=another_begins, **asked, **search)
        assert [path.parent.name for path in finished_in(tmp_path / "out")] == ["random-0.8-seed0"]
        assert "another --out" in found.failures["evolve-0.8-seed0"]
    assert not compare(["random", "evolve"], problem, out=tmp_path / "out", **asked, **search).failures


def test_a_refused_comparison_leaves_alone_what_joined_it(problem: ep.Problem, tmp_path: Path) -> None:
    def another_joins(done: int, total: int) -> None:
        (tmp_path / "out" / "runs" / "theirs").mkdir(parents=True)
        write_json(tmp_path / "out" / "compare.json", setup_in(tmp_path / "out"))

    with pytest.raises(InputError, match="k=0"):
        compare(["kstarts"], problem, out=tmp_path / "out", progress=another_joins, **{**ASKED, "k": 0})
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["compare.json", "log.txt", "runs", "theirs"]
