"""A comparison: the same tables however often it was stopped, however many workers; failures kept apart; the test split once."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import nn

import evoprune as ep
from evoprune import cli, runs
from evoprune.cli.compare import show_comparison
from evoprune.compare import Comparison, compare
from evoprune.compare.cells import check_seeds
from evoprune.errors import InputError, UnknownName
from evoprune.evidence.tables import plus_minus
from evoprune.evolution.executors.cores import cores
from evoprune.methods import METHODS
from evoprune.pages import report
from tests.tiny import table

METHODS_USED = ("random", "dissipating", "dense")
ASKED: dict[str, Any] = {"sparsities": (0.8, 0.9), "seeds": 2, "epochs": 3, "engine": "loop", "workers": 1}
FILES = ["accuracy.png", "accuracy.svg", "compare.json", "log.txt", "pivot.csv", "results.csv", "runs", "summary.csv"]


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem("mlp:16", "digits", seed=0)


@pytest.fixture(scope="module")
def finished(problem: ep.Problem, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(METHODS_USED, problem, out=tmp_path_factory.mktemp("compare") / "done", **ASKED)


def setup_in(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "compare.json").read_text()))


def same_tables(a: Path, b: Path) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in ("results.csv", "summary.csv"))


# ---- what comes out ----------------------------------------------------------------------------------------------


def test_one_row_a_run_in_the_order_asked(finished: Comparison) -> None:
    rows = list(zip(*(finished.results[name] for name in ("method", "seed")), strict=True))
    assert rows == [
        *(("random", seed) for _ in range(2) for seed in (0, 1)),
        *(("dissipating", seed) for _ in range(2) for seed in (0, 1)),
        *(("dense", seed) for seed in (0, 1)),
    ], "what prunes nothing is trained once a seed"
    read = pd.read_csv(finished.folder / "results.csv")
    pd.testing.assert_frame_equal(read, finished.results, check_dtype=False)


def test_the_folder_holds_tables_pictures_and_every_run(finished: Comparison) -> None:
    assert sorted(path.name for path in finished.folder.iterdir()) == FILES
    assert {path.name for path in finished.files} == set(FILES) - {"compare.json", "log.txt", "runs"}
    assert (finished.folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    frame = ep.load_runs(finished.folder)
    assert len(frame) == len(finished.results) == 10
    assert set(frame["mask_hash"]) == set(finished.results["mask_hash"])
    assert all((finished.folder / folder / "ticket.safetensors").is_file() for folder in finished.results["folder"])


def test_the_summary_shows_everyone_at_every_sparsity(finished: Comparison) -> None:
    assert list(zip(finished.summary["sparsity"], finished.summary["method"], strict=True)) == [
        (sparsity, method) for sparsity in (0.8, 0.9) for method in METHODS_USED
    ]
    assert (finished.summary["runs"] == 2).all()


def test_a_cell_is_what_run_gives(finished: Comparison, tmp_path: Path) -> None:
    alone = ep.Problem("mlp:16", "digits", seed=1)
    result = runs.run("dissipating", alone, out=tmp_path / "run", sparsity=0.9, epochs=3, seed=1, engine="loop", test=True)
    row = finished.results.query("method == 'dissipating' and sparsity == 0.9 and seed == 1").iloc[0]
    assert row["mask_hash"] == result["mask_hash"]
    assert row["test_score"] == pytest.approx(result["test_score"])


def test_seeds_draw_their_own_weights_and_methods_share_them(finished: Comparison) -> None:
    fingerprints = {}
    for path in finished.folder.glob("runs/*/result.json"):
        result = json.loads(path.read_text())
        fingerprints.setdefault(result["seed"], set()).add(result["arguments"]["problem"]["fingerprint"])
    assert [len(found) for found in fingerprints.values()] == [1, 1]
    assert fingerprints[0] != fingerprints[1]


# ---- again -------------------------------------------------------------------------------------------------------


def test_again_trains_nothing_and_gives_the_same(
    finished: Comparison, problem: ep.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(type(METHODS["random"]), "__call__", lambda *_, **__: pytest.fail("trained again"))
    compare(METHODS_USED, problem, out=finished.folder, **ASKED)
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


def test_how_many_seeds_may_be_a_number_of_numpys() -> None:
    assert check_seeds(np.int64(2)) == check_seeds(2) == [0, 1]


def test_more_methods_sparsities_and_seeds_keep_what_is_there(problem: ep.Problem, tmp_path: Path) -> None:
    small = {**ASKED, "epochs": 1, "seeds": 1, "sparsities": (0.8,)}
    compare(["random"], problem, out=tmp_path / "grown", **small)
    kept = (tmp_path / "grown/runs/random-0.8-seed0/result.json").stat().st_mtime_ns
    large = {**small, "seeds": 2, "sparsities": (0.5, 0.8)}
    grown = compare(["random", "dense"], problem, out=tmp_path / "grown", **large)
    assert (tmp_path / "grown/runs/random-0.8-seed0/result.json").stat().st_mtime_ns == kept
    compare(["random", "dense"], problem, out=tmp_path / "whole", **large)
    assert same_tables(grown.folder, tmp_path / "whole")


@pytest.mark.parametrize(
    ("other", "named"), [({"epochs": 2}, "epochs=3, not 2"), ({"lr": 0.1}, "lr=None, not 0.1"), ({"engine": "dense"}, "engine")]
)
def test_a_folder_of_another_comparison_is_refused(
    finished: Comparison, problem: ep.Problem, other: dict[str, Any], named: str
) -> None:
    before = sorted(finished.folder.rglob("*"))
    with pytest.raises(InputError, match=named):
        compare(METHODS_USED, problem, out=finished.folder, **{**ASKED, **other})
    with pytest.raises(InputError, match="model="):
        compare(METHODS_USED, ep.Problem("mlp:8", "digits"), out=finished.folder, **ASKED)
    assert sorted(finished.folder.rglob("*")) == before


SESSION = """
import sys
import evoprune as ep
from evoprune.compare import compare, comparison
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))

comparison.check_workers = lambda workers, threads, cells: workers or 2  # whatever the cores of this machine
asked = {"sparsities": (0.5,), "seeds": 2, "epochs": 1, "engine": "loop", "test": False}
for problem in (ep.Problem(Net), ep.Problem(Net())):
    try:
        compare(["random"], problem, out=sys.argv[1] + "/refused", workers=2, **asked)
    except ep.errors.InputError as error:
        print(error)
print(len(compare(["random"], ep.Problem(Net), out=sys.argv[1] + "/done", **asked).results))
"""


def test_what_a_notebook_defines_stays_in_its_process(tmp_path: Path) -> None:
    """Other processes have no file to import it from."""
    done = subprocess.run([sys.executable, "-c", SESSION, tmp_path], capture_output=True, text=True, check=True, timeout=300)
    first, second, runs = done.stdout.splitlines()
    for line in (first, second):
        assert "refers to what a notebook or a prompt defines" in line
        assert "work with workers=1" in line
    assert runs == "2"
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["done"], "a refused comparison leaves nothing behind"


def started(out: Path) -> list[Path]:
    return list(out.glob("runs/*/log.txt"))


def finished_in(out: Path) -> list[Path]:
    return list(out.glob("runs/*/result.json"))


def judged(out: Path) -> list[Path]:
    return [path for path in finished_in(out) if json.loads(path.read_text())["test_score"] is not None]


def test_killed_at_any_time_it_goes_on_and_gives_the_same_tables(
    finished: Comparison, problem: ep.Problem, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    arguments = ["--model", "mlp:16", "--sparsity", "0.8,0.9", "--seeds", "2", "--epochs", "3", "--engine", "loop"]
    command = [sys.executable, "-m", "evoprune", "compare", *METHODS_USED, *arguments, "--out", str(out)]
    landed, once = 0, set[Path]()
    for moment in (started, lambda out: finished_in(out)[2:], judged):  # in the first run, in a later one, at the test split
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 150
            while not moment(out) and process.poll() is None:
                assert time.monotonic() < deadline, "it did not get anywhere"
                time.sleep(0.005)
        finally:
            landed += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(1)  # the workers notice
        assert len(finished_in(out)) < 10 or moment is judged, "the workers outlived their parent"
        if moment is not judged:
            assert judged(out) == [], "the test split was opened too early"
        once |= set(finished_in(out))
    assert landed >= 2, "it was over before it could be killed"
    compare(METHODS_USED, problem, out=out, **ASKED)
    assert same_tables(out, finished.folder), "the resumed comparison differs from the uninterrupted one"
    for path in once:
        assert path.with_name("log.txt").read_text().count("mlp:16 on digits") == 1, "a finished run was repeated"
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == FILES


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes in /proc")
@pytest.mark.skipif(cores() < 2, reason="two workers need two cores")
def test_ctrl_c_while_the_workers_start_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evoprune", "compare", "random", "--model", "mlp:16", "--epochs", "3", "--seeds", "4"]
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *command, "--workers", "2", "--out", str(tmp_path / "out")],  # not as of a job behind &
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal sends the signal to all of its processes
    )
    try:
        deadline = time.monotonic() + 150
        while not any("spawn_main" in told for told in children(process.pid)):
            assert process.poll() is None
            assert time.monotonic() < deadline, "no worker started"
            time.sleep(0.005)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=150)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 130
    assert told.startswith("error: interrupted; finished runs are kept in ")
    assert told.count("\n") == 1, told


def children(process: int) -> list[str]:
    """The command line of each child."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [path.read_text() for path in (Path(f"/proc/{child}/cmdline") for child in found) if path.exists()]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_narrow_terminal_loses_no_word_and_no_number(finished: Comparison, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("evoprune.cli.compare.output", lambda: Console(file=shown, width=width))
    show_comparison(finished)
    text = " ".join(shown.getvalue().split())
    for row in finished.summary.to_dict("records"):
        assert str(row["words"]) in text
        assert f"{row['survivors']:,.0f}" in text
        assert plus_minus(row["test_mean"], (row["test_high"] - row["test_low"]) / 2, "accuracy") in text
    assert "…" not in text


# ---- other methods in the same folder ------------------------------------------------------------------------------


def test_a_data_file_may_lie_elsewhere_when_it_goes_on(tmp_path: Path) -> None:
    from tests.tiny import table

    (tmp_path / "here").mkdir()
    np.savez(tmp_path / "here" / "mine.npz", **{name: np.asarray(value) for name, value in table((6,), samples=160).items()})
    asked: dict[str, Any] = {"sparsities": (0.5,), "epochs": 1, "engine": "loop", "workers": 1, "out": tmp_path / "out"}
    compare(["random"], ep.Problem("mlp:8", str(tmp_path / "here" / "mine.npz")), seeds=1, **asked)
    (tmp_path / "here").rename(tmp_path / "there")
    found = compare(["random"], ep.Problem("mlp:8", str(tmp_path / "there" / "mine.npz")), seeds=2, **asked)
    assert found.results["data"].nunique() == 1
    assert found.summary["runs"].tolist() == [2]
    page = ep.report(tmp_path / "out").read_text()
    assert str(tmp_path / "here") not in page
    assert f"--data {tmp_path / 'there' / 'mine.npz'} --model" in page


def test_another_call_in_the_folder_tables_all_of_it(problem: ep.Problem, tmp_path: Path) -> None:
    small = {**ASKED, "epochs": 2, "sparsities": (0.8,)}
    compare(["random"], problem, out=tmp_path / "out", test=False, **small)
    both = compare(["kstarts"], problem, out=tmp_path / "out", k=2, selection_epochs=1, **small)
    assert list(dict.fromkeys(both.results["method"])) == ["kstarts", "random"], "those of the call first"
    assert both.results["test_score"].notna().all(), "earlier runs are judged too"
    assert both.summary.query("method == 'kstarts'")["words"].iloc[0].startswith("no difference shown (2 seeds")
    with pytest.raises(InputError, match="k=2, not 3"):
        compare(["kstarts"], problem, out=tmp_path / "out", **{**small, "k": 3, "selection_epochs": 1, "seeds": (7,)})


def test_the_pivot_shows_means_with_their_intervals(finished: Comparison) -> None:
    pivot = finished.pivot()
    assert list(pivot.columns) == ["model", "data", "sparsity", *METHODS_USED]
    assert list(pivot["sparsity"]) == [0.8, 0.9]
    row = finished.summary.query("method == 'random' and sparsity == 0.8").iloc[0]
    half = (row["test_high"] - row["test_low"]) / 2
    assert pivot["random"][0] == f"{100 * row['test_mean']:.2f} ± {100 * half:.2f}"
    read = pd.read_csv(finished.folder / "pivot.csv")
    assert list(read["dense"]) == list(pivot["dense"])
    assert pivot["random"][0] in finished._repr_html_()


# ---- several models and data sets ------------------------------------------------------------------------------------


def test_several_problems_have_a_table_and_a_picture_each(tmp_path: Path) -> None:
    problems = [ep.Problem(name, "digits") for name in ("mlp:8", "mlp:16")]
    small = {**ASKED, "epochs": 1, "sparsities": (0.8,)}
    found = compare(["random", "dense"], problems, out=tmp_path / "out", **small)
    assert list(found.results["model"]) == ["mlp:8"] * 4 + ["mlp:16"] * 4
    assert list(zip(found.summary["model"], found.summary["method"], strict=True)) == [
        (model, method) for model in ("mlp:8", "mlp:16") for method in ("random", "dense")
    ]
    assert (tmp_path / "out" / "accuracy-mlp:8-on-digits.png").is_file()
    alone = compare(["random", "dense"], problems[1], out=tmp_path / "alone", **small)
    assert list(found.results["test_score"][4:]) == list(alone.results["test_score"]), "the same as alone"
    grown = compare(["random"], [*problems, ep.Problem("mlp:4", "digits")], out=tmp_path / "out", **small)
    assert grown.results["model"].nunique() == 3
    fewer = compare(["random"], problems[::-1], out=tmp_path / "out", **small)
    assert list(dict.fromkeys(fewer.results["model"])) == ["mlp:16", "mlp:8", "mlp:4"], "those of the call first, and all others"
    with pytest.raises(InputError, match="number of problems"):
        compare(["random"], problems[0], out=tmp_path / "out", **small)
    with pytest.raises(InputError, match="each model and data set once"):
        compare(["random"], [problems[0], problems[0]], out=tmp_path / "b", **small)


def test_a_picture_is_called_after_its_problem_wherever_the_data_lie(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-folder-of-forty-characters-in-its-name"] * 6)
    deep.mkdir(parents=True)
    np.savez(deep / "own.npz", **{name: np.asarray(value) for name, value in table((6,), samples=160).items()})
    problems = [ep.Problem(name, str(deep / "own.npz")) for name in ("mlp:8", "mlp:16")]
    found = compare(["random"], problems, out=tmp_path / "<out>", **{**ASKED, "epochs": 1, "sparsities": (0.8,), "seeds": 1})
    assert (tmp_path / "<out>" / "accuracy-mlp:16-on-own.npz.svg").is_file()
    assert "&lt;out&gt;" in found._repr_html_()


def test_the_command_takes_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "random", "--model", "mlp:8,mlp:16", "--sparsity", "0.8", "--seeds", "1", "--epochs", "1"]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*arguments, "--workers", "1", "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "digits, mlp:8, 1 seed" in told
    assert "digits, mlp:16, 1 seed" in told


# ---- the test split ----------------------------------------------------------------------------------------------


def test_a_test_split_that_gives_no_number_is_opened_once_and_named(tmp_path: Path) -> None:
    data = table(classes=None)
    problem = ep.Problem("mlp:8", {**data, "x_test": 1e30 * data["x_test"]})
    for _ in range(2):
        found = compare(["random"], problem, out=tmp_path / "out", **{**ASKED, "epochs": 1, "sparsities": (0.5,), "seeds": 2})
    assert found.results["test_score"].isna().all()
    assert found.summary["val_mean"].notna().all()
    assert (tmp_path / "out" / "log.txt").read_text().count("opened once, for 2 tickets") == 1
    words = report(tmp_path / "out").read_text()
    assert "random at sparsity 0.5, seed 1, gives no number on the test split, so its cell stands on validation." in words
    assert "was not opened" not in words


def test_the_test_split_is_opened_once_after_the_last_run(finished: Comparison) -> None:
    assert (finished.folder / "log.txt").read_text().count("test split of digits opened once, for 10 tickets") == 1
    for log in finished.folder.glob("runs/*/log.txt"):
        assert log.read_text().count("opened") == 1
    assert finished.results["test_score"].notna().all()


def test_it_stays_locked_when_asked_to_and_opens_later(problem: ep.Problem, tmp_path: Path) -> None:
    small = {**ASKED, "epochs": 1, "sparsities": (0.8,)}
    locked = compare(["random"], problem, out=tmp_path / "out", test=False, **small)
    assert locked.results["test_score"].isna().all()
    assert locked.summary["val_mean"].notna().all()
    assert "opened" not in "".join(path.read_text() for path in (tmp_path / "out").rglob("log.txt"))
    opened = compare(["random"], problem, out=tmp_path / "out", **small)
    assert opened.results["test_score"].notna().all()
    again = compare(["random"], problem, out=tmp_path / "out", test=False, **small)
    assert again.results["test_score"].isna().all(), "nobody asked"


def test_options_go_to_those_who_know_them(problem: ep.Problem, tmp_path: Path) -> None:
    small = {**ASKED, "epochs": 2, "sparsities": (0.8,), "seeds": 1}
    compare(["random", "kstarts"], problem, out=tmp_path / "out", k=2, selection_epochs=1, lr=0.02, **small)
    frame = ep.load_runs(tmp_path / "out").set_index("method")
    assert frame.loc["kstarts", "k"] == 2
    assert frame["lr"].tolist() == [0.02, 0.02]
    assert frame["k"].isna().loc["random"]
    with pytest.raises(UnknownName, match="did you mean 'k'"):
        compare(["random", "kstarts"], problem, out=tmp_path / "b", kk=2, **small)


def test_an_open_sparsity_is_run_once_a_seed(problem: ep.Problem, tmp_path: Path) -> None:
    found = compare(["dissipating"], problem, out=tmp_path / "out", rule="fraction", delta=0.2, **ASKED)
    assert len(found.results) == 2
    assert found.results["sparsity"].isna().all()
    assert found.summary["sparsity_obtained"].between(0, 1).all()


# ---- a user's own problem ----------------------------------------------------------------------------------------


def test_a_users_module_and_arrays(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=draw)
    data = {"x_train": x[:200], "y_train": x[:200, :3].argmax(1), "x_test": x[200:], "y_test": x[200:, :3].argmax(1)}
    own = ep.Problem(lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), data)
    asked = {**ASKED, "sparsities": (0.5,)}
    found = compare(["random", "dense"], own, out=tmp_path / "out", **asked)
    assert len(found.results) == 4
    with pytest.raises(InputError, match="workers=1"):
        compare(["random", "dense"], own, out=tmp_path / "b", **{**asked, "workers": None})


def test_a_model_too_small_for_the_usual_sparsity_is_compared_at_another(tmp_path: Path) -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    data = {"x_train": x[:150], "y_train": (x[:150, 0] > 0).long(), "x_test": x[150:], "y_test": (x[150:, 0] > 0).long()}
    own = ep.Problem(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), data)
    found = compare(["random"], own, out=tmp_path / "out", **{**ASKED, "sparsities": (0.5,), "seeds": 1, "epochs": 1})
    assert list(found.results["survivors"]) == [9]
    with pytest.raises(InputError, match="choose a sparsity of at most"):
        compare(["random"], own, out=tmp_path / "b", **{**ASKED, "sparsities": (0.5, 0.95), "seeds": 1, "epochs": 1})
    assert not (tmp_path / "b").exists()
