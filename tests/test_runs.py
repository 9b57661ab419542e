"""The run folder: whole or not there, answered from disk, and never somebody else's."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import evoprune as ep
from evoprune import cli, runs
from evoprune.errors import DamagedFile, InputError, TrainingFailed, UnknownName
from evoprune.formats import write_json
from evoprune.methods import METHODS
from evoprune.methods.registry import hint
from evoprune.pages import report
from evoprune.training.options import Training
from tests.tiny import table

FILES = ["history.csv", "log.txt", "result.json", "ticket.safetensors", "trace.csv"]
KEYS = {
    *("method", "data", "model", "seed", "sparsity", "sparsity_obtained", "prunable", "survivors", "layers", "metric"),
    *("val_score", "test_score", "val_accuracy", "test_accuracy", "test_opened", "ledger", "mask_hash", "out"),
}


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem("mlp:16", "digits", seed=0)


def run(problem: ep.Problem, out: Path | None, method: str = "random", **options: Any) -> dict[str, Any]:
    return runs.run(method, problem, out=out, **{"sparsity": 0.8, "epochs": 2, "engine": "loop", **options})


@pytest.fixture(scope="module")
def finished(problem: ep.Problem, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs") / "nested" / "random"
    return out, run(problem, out)


class Trained(Exception):
    """The method was called."""


@pytest.fixture
def untrainable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise Trained

    monkeypatch.setattr(type(METHODS["random"]), "__call__", fail)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


# ---- what a run leaves -------------------------------------------------------------------------------------------


def test_a_folder_holds_the_files_and_nothing_else(finished: tuple[Path, dict[str, Any]]) -> None:
    assert sorted(path.name for path in finished[0].iterdir()) == FILES


def test_the_result_says_everything(finished: tuple[Path, dict[str, Any]], problem: ep.Problem) -> None:
    out, result = finished
    assert set(result) >= KEYS
    assert json.loads((out / "result.json").read_text()) == result
    assert result["sparsity"] == 0.8
    assert result["survivors"] == problem.space.budget(0.8) == sum(layer["survivors"] for layer in result["layers"])
    assert [tuple(layer["shape"]) for layer in result["layers"]] == list(problem.space.shapes)
    assert result["prunable"] == problem.prunable
    assert result["test_score"] is result["test_accuracy"] is None
    assert result["val_score"] == result["val_accuracy"]
    assert result["ledger"]["engine"] == "loop"
    assert result["ledger"]["wall_s"] > 0


def test_the_files_agree_with_the_result(finished: tuple[Path, dict[str, Any]]) -> None:
    out, result = finished
    ticket = ep.Ticket.load(out / "ticket.safetensors")
    assert ticket.mask.hash == result["mask_hash"]
    history, trace = pd.read_csv(out / "history.csv"), pd.read_csv(out / "trace.csv")
    assert list(history["epoch"]) == [1, 2]
    assert history["val_accuracy"].iloc[-1] == result["val_accuracy"]
    assert set(trace["individual"]) == {0}


def test_the_log_is_kept(finished: tuple[Path, dict[str, Any]]) -> None:
    text = (finished[0] / "log.txt").read_text()
    assert text.splitlines()[0].endswith(finished[1]["arguments"]["hash"])
    assert '"epochs": 2' in text


def test_what_the_package_logs_goes_to_the_file(problem: ep.Problem, tmp_path: Path) -> None:
    run(problem, tmp_path / "auto", engine="auto")
    assert "engine auto: " in (tmp_path / "auto" / "log.txt").read_text()
    assert logging.getLogger("evoprune").level == logging.NOTSET
    assert not [h for h in logging.getLogger("evoprune").handlers if isinstance(h, logging.FileHandler)]


def test_without_out_it_goes_to_runs(problem: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(problem, None)
    [folder] = (tmp_path / "runs").iterdir()
    assert result["out"] == str(Path("runs") / folder.name)
    assert folder.name.endswith(f"-random-{result['arguments']['hash'][:8]}")


def test_reconstruction_is_scored_by_its_error(tmp_path: Path) -> None:
    result = run(ep.Problem("autoencoder", "digits"), tmp_path / "run", epochs=1, test=True)
    assert result["metric"] == "mse"
    assert result["val_accuracy"] is result["test_accuracy"] is None
    assert 0 < result["val_score"] < 5
    assert 0 < result["test_score"] < 5


def test_a_sparsity_that_is_an_outcome_is_asked_by_nobody(problem: ep.Problem, tmp_path: Path) -> None:
    result = run(problem, tmp_path / "run", "dissipating", sparsity=None, rule="fraction", delta=0.2, epochs=3)
    assert result["sparsity"] is None
    assert 0 < result["sparsity_obtained"] < 1


@pytest.mark.parametrize(("method", "asked"), [("random", 0.95), ("dissipating", 0.95), ("dense", 0.0)])
def test_the_default_sparsity(problem: ep.Problem, method: str, asked: float) -> None:
    arguments = runs.Arguments.of(METHODS[method], problem, {"epochs": 3})
    assert arguments.options["sparsity"] == asked


def test_a_method_that_keeps_a_journal_keeps_it_in_the_folder(
    problem: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"fitness_epochs": 1, "mu": 2, "lambda_": 2, "ngen": 1}
    with monkeypatch.context() as patch:
        patch.setattr(ep.Ticket, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(problem, tmp_path / "run", "evolve", **small)
    journal = tmp_path / "run" / "journal.jsonl"
    lines = len(journal.read_text().splitlines())
    assert lines > 2
    resumed = run(problem, tmp_path / "run", "evolve", **small)
    assert len(journal.read_text().splitlines()) == lines, "a finished evaluation was repeated"
    whole = run(problem, tmp_path / "whole", "evolve", **small)
    assert resumed["mask_hash"] == whole["mask_hash"]
    assert {**resumed["ledger"], "wall_s": 0} == {**whole["ledger"], "wall_s": 0}
    assert resumed["ledger"]["wall_s"] > ep.read_journal(journal)["wall_s"].sum(), "the time before the kill counts too"


# ---- the same arguments ------------------------------------------------------------------------------------------


def test_the_same_run_is_answered_from_disk(
    finished: tuple[Path, dict[str, Any]], problem: ep.Problem, untrainable: None
) -> None:
    before = contents(finished[0])
    assert run(problem, finished[0]) == finished[1]
    assert run(problem, finished[0], batch_size=None, momentum=0.9) == finished[1], "a default said aloud is the same run"
    assert contents(finished[0]) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [({"epochs": 3}, "epochs=2, not 3"), ({"lr": 0.1}, "lr=None, not 0.1"), ({"seed": 1}, "seed=0, not 1")],
)
def test_another_run_is_not_overwritten(
    finished: tuple[Path, dict[str, Any]], problem: ep.Problem, untrainable: None, options: dict[str, Any], named: str
) -> None:
    before = contents(finished[0])
    with pytest.raises(InputError, match=named):
        run(problem, finished[0], **options)
    with pytest.raises(InputError, match="method random, not dense"):
        run(problem, finished[0], method="dense")
    with pytest.raises(InputError, match="initial weights"):
        run(problem.with_seed(1), finished[0])
    assert contents(finished[0]) == before


def test_a_default_that_changed_is_another_run(problem: ep.Problem, tmp_path: Path) -> None:
    run(problem, tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    result = json.loads(path.read_text())
    result["arguments"]["options"]["momentum"] = 0.8
    path.write_text(json.dumps(result))
    with pytest.raises(InputError, match=r"momentum=0\.8, not 0\.9"):
        run(problem, tmp_path / "run")
    del result["arguments"]["options"]["momentum"]  # a run from before there was such an option
    path.write_text(json.dumps(result))
    assert run(problem, tmp_path / "run")["mask_hash"] == result["mask_hash"]


def test_an_interrupted_run_starts_again_in_its_folder(
    problem: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ep.Ticket, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(problem, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["log.txt"]
    (tmp_path / "run" / ".result.json.0123456789ab.tmp").write_text("{")  # what kill -9 leaves of an atomic write
    assert run(problem, tmp_path / "run")["survivors"] == problem.space.budget(0.8)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "stopped: KeyboardInterrupt" in log
    with pytest.raises(InputError, match="epochs=2, not 5"):
        run(problem, tmp_path / "run", epochs=5)


def test_the_test_split_is_opened_when_asked_and_kept(problem: ep.Problem, tmp_path: Path) -> None:
    locked = run(problem, tmp_path / "run")
    opened = run(problem, tmp_path / "run", test=True)
    assert opened["mask_hash"] == locked["mask_hash"]
    assert opened["ledger"] == locked["ledger"], "nothing was trained again"
    known = ep.Ticket.load(tmp_path / "run" / "ticket.safetensors", problem=problem).test()
    assert opened["test_score"] == opened["test_accuracy"] == known["accuracy"]
    assert (tmp_path / "run" / "log.txt").read_text().count("opened: run --test") == 1
    assert run(problem, tmp_path / "run", test=True) == opened
    assert (tmp_path / "run" / "log.txt").read_text().count("opened: run --test") == 1
    assert opened["test_opened"] == "run --test"
    unasked = run(problem, tmp_path / "run")
    assert [unasked[name] for name in ("test_score", "test_accuracy", "test_opened")] == [None] * 3


def test_a_test_split_that_gives_no_number_is_opened_once_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = table(classes=None)
    np.savez(tmp_path / "far.npz", **{**data, "x_test": 1e30 * data["x_test"]})
    training = ["--model", "mlp:8", "--data", str(tmp_path / "far.npz"), "--epochs", "1", "--set", "lr=0.001"]
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            cli.main(["run", "random", *training, "--sparsity", "0.5", "--test", "--out", str(tmp_path / "run")])
        assert re.search(r"test mse +not a number", capsys.readouterr().err)
    assert (tmp_path / "run" / "log.txt").read_text().count("opened: run --test") == 1
    found = runs.load_runs(tmp_path)
    assert found["val_score"].notna().all()
    assert found["test_score"].isna().all()
    assert "was not opened" not in report(tmp_path).read_text()


# ---- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sparsity": 1.0}, InputError),
        ({"sparsity": 0.9999}, InputError),
        ({"epochs": 0}, InputError),
        ({"seed": -1}, InputError),
        ({"criterion": "gradd"}, UnknownName),
        ({"engine": "fast"}, UnknownName),
        ({"device": "tpu"}, InputError),
        ({"allocation": "even"}, UnknownName),
        ({"optimizer": "lbfgs"}, InputError),
        ({"kk": 3}, UnknownName),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    problem: ep.Problem, tmp_path: Path, untrainable: None, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(problem, tmp_path / "a" / "b", method="kstarts", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"k": 0}, {"selection_epochs": 5}, {"form": "both"}, {"eta": 1, "rungs": [1]}])
def test_a_run_that_the_method_refuses_leaves_no_folder(problem: ep.Problem, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        run(problem, tmp_path / "a" / "b", method="kstarts", **options)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        run(problem, tmp_path / "empty", method="kstarts", **options)
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("name", ["mine.txt", "log.txt", ".hidden"])
def test_a_foreign_folder_is_not_touched(problem: ep.Problem, tmp_path: Path, untrainable: None, name: str) -> None:
    (tmp_path / name).write_text("keep me")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="--out"):
        run(problem, tmp_path)
    assert contents(tmp_path) == before


def test_a_file_is_no_folder(problem: ep.Problem, tmp_path: Path, untrainable: None) -> None:
    (tmp_path / "file").write_text("keep me")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="--out"):
            run(problem, out)
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_before_any_work(problem: ep.Problem, tmp_path: Path, untrainable: None) -> None:
    tmp_path.chmod(0o500)
    try:
        for out in (tmp_path, tmp_path / "run"):
            with pytest.raises(InputError):
                run(problem, out)
        assert list(tmp_path.iterdir()) == []
    finally:
        tmp_path.chmod(0o700)


def test_a_log_that_cannot_be_opened_is_one_line(problem: ep.Problem, tmp_path: Path) -> None:
    run(problem, tmp_path)
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(InputError, match=r"^cannot write .*log\.txt \(.*\): choose another folder"):
        run(problem, tmp_path, test=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_costs_the_log_and_not_the_run(
    problem: ep.Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run(problem, tmp_path)
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").symlink_to("/dev/full")
    after = run(problem, tmp_path, test=True)
    assert after["mask_hash"] == before["mask_hash"]
    assert after["test_score"] is not None
    assert capsys.readouterr().err == ""


def test_a_failed_run_says_why_in_its_log_and_can_be_repeated(problem: ep.Problem, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TrainingFailed):
            run(problem, tmp_path / "run", lr=1e9)
    assert "NaN" in (tmp_path / "run" / "log.txt").read_text()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_damaged_ticket_is_made_again_as_told(problem: ep.Problem, tmp_path: Path) -> None:
    before = run(problem, tmp_path)
    (tmp_path / "ticket.safetensors").write_bytes(b"cut")
    with pytest.raises(DamagedFile, match=r"ticket\.safetensors is damaged: .* delete the result\.json beside it and run again"):
        run(problem, tmp_path, test=True)
    (tmp_path / "result.json").unlink()
    after = run(problem, tmp_path, test=True)
    assert after["mask_hash"] == before["mask_hash"]
    assert after["test_score"] is not None


def test_numbers_of_numpy_are_the_same_run(problem: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(problem, tmp_path / "run", "kstarts", k=np.int64(2), epochs=np.int64(3), lr=np.float32(0.125))
    monkeypatch.setattr(type(METHODS["random"]), "__call__", lambda *_, **__: pytest.fail("trained again"))
    assert run(problem, tmp_path / "run", "kstarts", k=2, epochs=3, lr=0.125) == first


def test_a_damaged_result_is_named(problem: ep.Problem, tmp_path: Path, untrainable: None) -> None:
    (tmp_path / "result.json").write_text('{"method": "rand')
    with pytest.raises(DamagedFile, match=r"result\.json"):
        run(problem, tmp_path)


def test_a_result_that_may_not_be_read_is_not_called_damaged(problem: ep.Problem, tmp_path: Path, untrainable: None) -> None:
    (tmp_path / "result.json").mkdir()  # root may read every file, and nobody a folder
    with pytest.raises(DamagedFile, match=r"^cannot read .*result\.json \(.*\): check its permissions$"):
        run(problem, tmp_path)


@pytest.mark.parametrize(
    ("part", "value"),
    [("seed", "0"), ("ledger", []), ("arguments", "x"), ("val_score", "good"), ("metric", None), ("layers", {})],
)
def test_a_result_with_a_value_of_another_kind_is_left_out(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, part: str, value: object
) -> None:
    for name, content in (("good", finished[1]), ("bad", {**finished[1], part: value})):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "result.json", content)
    page = ep.report(tmp_path).read_text()
    assert f"bad/result.json is damaged ({part} is " in page


def test_a_damaged_result_costs_no_evaluation_that_a_journal_holds(problem: ep.Problem, tmp_path: Path) -> None:
    small = {"fitness_epochs": 1, "mu": 2, "lambda_": 2, "ngen": 1}
    whole = run(problem, tmp_path / "run", "evolve", **small)
    journal = (tmp_path / "run" / "journal.jsonl").read_bytes()
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(DamagedFile, match="delete this file and run again"):
        run(problem, tmp_path / "run", "evolve", **small)
    (tmp_path / "run" / "result.json").unlink()
    assert run(problem, tmp_path / "run", "evolve", **small)["mask_hash"] == whole["mask_hash"]
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == journal


# ---- many runs ---------------------------------------------------------------------------------------------------


def test_runs_load_as_one_frame(problem: ep.Problem, tmp_path: Path) -> None:
    first = run(problem, tmp_path / "a" / "one")
    second = run(problem, tmp_path / "b", "kstarts", k=2, selection_epochs=1, test=True)
    frame = ep.load_runs(tmp_path)
    assert list(frame["method"]) == ["random", "kstarts"]
    assert list(frame["out"]) == [str(tmp_path / "a" / "one"), str(tmp_path / "b")]
    assert list(frame["epochs"]) == [2, 2]
    assert frame["k"].isna().tolist() == [True, False]
    assert list(frame["samples"]) == [first["ledger"]["samples"], second["ledger"]["samples"]]
    assert list(frame["engine"]) == ["loop", "loop"]
    assert math.isnan(frame["test_score"].iloc[0])
    assert frame["test_score"].iloc[1] == second["test_score"]


def test_scores_that_no_run_has_are_numbers_too(finished: tuple[Path, dict[str, Any]]) -> None:
    frame = ep.load_runs(finished[0])
    assert frame["test_score"].isna().all()
    assert frame["test_score"].dtype == frame["test_accuracy"].dtype == float


def test_a_moved_run_is_found_where_it_lies(problem: ep.Problem, tmp_path: Path) -> None:
    run(problem, tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    assert list(ep.load_runs(tmp_path)["out"]) == [str(tmp_path / "after")]
    assert run(problem, tmp_path / "after")["out"] == str(tmp_path / "after")


def test_what_is_damaged_is_left_out_and_named(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    for name, text in (
        ("good", (finished[0] / "result.json").read_text()),
        ("cut", '{"meth'),
        ("other", '{"a": 1}'),
        ("list", "[]"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    with pytest.warns(UserWarning, match="3 of 4 runs left out") as caught:
        frame = ep.load_runs(tmp_path)
    assert len(frame) == 1
    assert all(str(tmp_path / name) in str(caught[0].message) for name in ("cut", "other", "list"))


def test_no_folder_is_refused_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    nothing = ep.load_runs(tmp_path)
    assert len(nothing) == 0
    assert {"method", "seed", "val_score", "test_score", "out"} <= set(nothing.columns), "what is asked next is no KeyError"
    with pytest.raises(InputError, match="no folder"):
        ep.load_runs(tmp_path / "absent")


# ---- what a value is, however it is spelt ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [
        ("random", {"lr": 1}, {"lr": 1.0}),
        ("random", {"weight_decay": 0}, {}),
        ("evolve", {"first": ["random"]}, {}),
        ("evolve", {"first": ("random",)}, {"first": ["random"]}),
    ],
)
def test_a_value_that_is_spelt_differently_is_the_same(
    problem: ep.Problem, tmp_path: Path, method: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    short = {"ngen": 1, "fitness_epochs": 1} if method == "evolve" else {}
    before = run(problem, tmp_path / "out", method, **short, **first)
    written = (tmp_path / "out" / "result.json").stat().st_mtime_ns
    assert run(problem, tmp_path / "out", method, **short, **second)["mask_hash"] == before["mask_hash"]
    assert (tmp_path / "out" / "result.json").stat().st_mtime_ns == written


def test_one_unknown_annotation_costs_no_other_its_type() -> None:
    def mine(problem: ep.Problem, *, strength: float | None = None, shape: Unknown = None, **training: Any) -> ep.Ticket:  # type: ignore[name-defined]  # noqa: F821
        """Has a type that is known to type checkers alone."""
        raise AssertionError

    @functools.wraps(mine)
    def wrapped(*args: Any, **options: Any) -> ep.Ticket:
        return mine(*args, **options)

    assert hint(mine, "strength") == float | None
    assert hint(mine, "shape") is None
    assert hint(mine, "absent") is None
    assert hint(functools.partial(mine), "strength") is None
    assert hint(wrapped, "strength") == float | None
    assert hint(Training, "lr") == float | None


def test_counts_may_be_numpys(problem: ep.Problem, tmp_path: Path) -> None:
    counts = ep.random_mask(problem.space, sparsity=0.5).counts
    found = [run(problem, tmp_path / str(kind.__name__), sparsity=0.5, allocation=kind(counts)) for kind in (np.array, list)]
    assert found[0]["mask_hash"] == found[1]["mask_hash"]
    assert found[0]["arguments"]["hash"] == found[1]["arguments"]["hash"]


@pytest.mark.parametrize("default", [0.0, (0.5, 0.8)])
def test_a_methods_own_default_sparsity_is_kept(
    problem: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: Any
) -> None:
    seen = []

    def mine(problem: ep.Problem, *, sparsity: Any = default, epochs: int = 2, seed: int = 0, **training: Any) -> ep.Ticket:
        """Of its own."""
        seen.append(sparsity)
        return METHODS["random"](problem, sparsity=0.5, epochs=epochs, seed=seed, **training)

    monkeypatch.setitem(METHODS._entries, "mine", ep.Method("mine", mine, "its own"))
    runs.run("mine", problem, out=tmp_path / "out", epochs=2, engine="loop")
    assert seen in ([default], [list(default)] if isinstance(default, tuple) else [default])
