"""The command line: one JSON object on stdout, one line for a wrong input, exit codes 0, 1, 2 and 130."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console

from evoprune import cli, runs
from evoprune.cli import typed
from evoprune.cli.run import show_result
from evoprune.errors import InputError
from evoprune.evidence.report import commands
from evoprune.methods import METHODS

TINY = ("--model", "mlp:16", "--epochs", "3", "--engine", "loop")


class Done(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def evoprune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return call


def one_line(done: Done, *words: str) -> None:
    """The command was refused, in one clear line."""
    assert done.code == 2, done
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert len(done.err) < 900
    for word in words:
        assert word in done.err, done.err


# ---- run ---------------------------------------------------------------------------------------------------------


def test_json_is_one_object_and_nothing_else(evoprune: Command, tmp_path: Path) -> None:
    done = evoprune("run", "kstarts", *TINY, "--sparsity", "0.9", "--set", "k=3", "--json", "--out", "run", "--seed", "4")
    assert done.code == 0
    result = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert (result["method"], result["data"], result["model"], result["seed"]) == ("kstarts", "digits", "mlp:16", 4)
    assert result["arguments"]["options"]["k"] == 3
    assert result["arguments"]["problem"]["seed"] == 4, "--seed sets the initial weights too"
    assert result["test_accuracy"] is None
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result


def test_without_json_a_table_goes_to_stderr(evoprune: Command) -> None:
    done = evoprune("run", "random", *TINY, "--test", "--out", "run")
    assert (done.code, done.out) == (0, "")
    for word in ("random on digits, mlp:16", "sparsity", "95.00%", "validation accuracy", "test accuracy", "survivors", "run"):
        assert word in done.err
    assert "locked" not in done.err
    assert "locked" in evoprune("run", "random", *TINY, "--out", "run").err


@pytest.mark.parametrize("width", [30, 60, 80])
def test_a_narrow_terminal_cuts_nothing_of_a_run(evoprune: Command, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    folder = "a folder/" * 10 + "[red]:fire:\\"
    result = json.loads(evoprune("run", "random", *TINY, "--json", "--out", folder).out)
    for layer in result["layers"]:
        layer |= {"name": f"stages.2.blocks.{layer['name']}", "survivors": 1234567, "prunable": 7654321}
    shown = io.StringIO()
    monkeypatch.setattr("evoprune.cli.run.errors", lambda: Console(file=shown, width=width, emoji=False))
    show_result(result)
    assert shown.getvalue().splitlines()[-1] == folder
    for layer in result["layers"]:
        [line] = [line for line in shown.getvalue().splitlines() if line.startswith(f"{layer['name']} ")]
        assert f" {layer['survivors']:,} " in line
        assert line.rstrip().endswith(f"{layer['survivors'] / layer['prunable']:.2%}")
    facts = "".join(shown.getvalue().split())
    assert f"{result['survivors']:,}of{result['prunable']:,}" in facts
    assert "…" not in facts


def test_the_same_command_twice_trains_once(evoprune: Command) -> None:
    command = ("run", "random", *TINY, "--json", "--out", "run")
    first, second = evoprune(*command), evoprune(*command)
    assert first.out == second.out
    assert "nothing is trained" in second.err
    one_line(evoprune(*command, "--set", "lr=0.2"), "lr=None, not 0.2", "--out")


def test_the_engine_that_auto_took_is_said_and_kept(evoprune: Command, tmp_path: Path) -> None:
    done = evoprune("run", "random", "--model", "mlp:16", "--epochs", "1", "--json", "--out", "run")
    taken = json.loads(done.out)["ledger"]["engine"]
    assert f"engine auto: {taken}" in done.err
    assert f"engine auto: {taken}" in (tmp_path / "run" / "log.txt").read_text()


def test_a_sparsity_is_passed_on_only_when_it_is_asked(evoprune: Command) -> None:
    fraction = ("run", "dissipating", *TINY, "--set", "rule=fraction", "--set", "delta=0.2")
    result = json.loads(evoprune(*fraction, "--json", "--out", "a").out)
    assert result["sparsity"] is None
    one_line(evoprune(*fraction, "--sparsity", "0.9", "--out", "b"), "outcome")


def test_evolve_takes_a_range_of_sparsities(evoprune: Command) -> None:
    small = ("--set", "objectives=loss,survivors", "--set", "mu=3", "--set", "lambda_=3", "--set", "ngen=1", "--json")
    command = ("run", "evolve", *TINY, *small, "--sparsity", "0.8,0.9", "--set", "fitness_epochs=1", "--out", "run")
    first = evoprune(*command)
    result = json.loads(first.out)
    assert result["sparsity"] is None, "what comes out of a range is an outcome"
    assert result["arguments"]["options"]["sparsity"] == [0.8, 0.9]
    assert 0.8 <= round(result["sparsity_obtained"], 3) <= 0.9
    assert evoprune(*command).out == first.out, "answered from the folder"
    assert "80.00% to 90.00% asked" in evoprune(*(part for part in command if part != "--json")).err
    assert "--sparsity 0.8,0.9" in commands.command(result)
    one_line(evoprune("run", "evolve", *TINY, "--sparsity", "0.9,0.8", "--out", "b"), "lower one first")
    one_line(evoprune("run", "kstarts", *TINY, "--sparsity", "0.8,0.9", "--out", "b"), "[0, 1)")
    one_line(evoprune("run", "evolve", *TINY, "--sparsity", "0.8,", "--out", "b"), "[0, 1)")


def test_an_npz_is_a_data_set(evoprune: Command) -> None:
    x, y = np.random.default_rng(0).normal(size=(120, 6)).astype("float32"), np.arange(120) % 3
    np.savez("mine.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    result = json.loads(evoprune("run", "random", *TINY, "--sparsity", ".5", "--data", "mine.npz", "--json").out)
    assert result["prunable"] == 6 * 16 + 16 * 3


def test_the_name_of_a_data_file_need_be_no_utf8(evoprune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("evoprune"), "propagate", False)  # pytest cannot send such a name between processes
    x, y = np.random.default_rng(0).normal(size=(120, 6)), np.arange(120) % 3
    name = os.fsdecode(b"caf\xe9.npz")
    try:
        with open(name, "wb") as file:
            np.savez(file, x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    except OSError:
        pytest.skip("a file system of UTF-8 names")
    command = ("run", "random", *TINY, "--sparsity", ".5", "--data", name, "--test", "--out", "run")
    first, second = evoprune(*command, "--json"), evoprune(*command, "--json")
    assert (first.code, second.code, first.out) == (0, 0, second.out), (first, second)
    assert Path(json.loads(first.out)["data"]).exists()
    assert "caf?.npz" in (tmp_path / "run" / "log.txt").read_text()
    done = evoprune(
        "compare", "random", *TINY, "--seeds", "1", "--workers", "1", "--sparsity", ".5", "--data", name, "--out", "all"
    )
    assert done.code == 0, done
    assert "caf?.npz" in (tmp_path / "all" / "results.csv").read_text()
    assert evoprune("report", "all").code == 0


def test_what_is_lost_is_named(evoprune: Command, tmp_path: Path) -> None:
    assert evoprune("run", "random", *TINY, "--out", "run").code == 0
    (tmp_path / "run" / "ticket.safetensors").rename(tmp_path / "away")
    refused = evoprune("run", "random", *TINY, "--out", "run", "--test")
    assert refused.code == 2
    assert "has lost its ticket.safetensors" in refused.err
    (tmp_path / "run" / "result.json").write_text("{")
    one_line(evoprune("report", "run"), "result.json is damaged", "no finished run")


def test_a_failed_run_exits_with_one(evoprune: Command) -> None:
    done = evoprune("run", "random", *TINY, "--set", "lr=1e9", "--out", "run")
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert "lr=" in done.err
    assert "Traceback" not in done.err


def test_a_bug_is_one_line_and_with_verbose_a_traceback(evoprune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "run", lambda *_, **__: {}["missing"])
    done = evoprune("run", "random", *TINY)
    assert done.code == 1
    assert "KeyError" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in evoprune("run", "random", *TINY, "--verbose").err


def test_memory_that_runs_out_is_one_line_that_says_what_to_do(evoprune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own words are a paragraph."""

    def short(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB")

    monkeypatch.setattr(runs, "run", short)
    done = evoprune("run", "kstarts", *TINY)
    assert done.code == 1
    assert done.err == "error: out of memory (CUDA out of memory): train fewer networks at a time, or raise the sparsity\n"


def test_ctrl_c_names_the_folder_that_nobody_named(evoprune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(METHODS["random"]), "__call__", interrupted)
    for command, folder in (("run", "*-random-*"), ("compare", "*-compare-*")):
        done = evoprune(command, "random", *TINY, *(("--workers", "1") if command == "compare" else ()))
        assert done.code == 130
        [made] = (tmp_path / "runs").glob(folder)
        assert f"--out runs/{made.name}" in " ".join(done.err.split())


def test_ctrl_c_before_a_command_begins_is_one_line(evoprune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evoprune.cli.run.reporting", interrupted)
    assert evoprune("run", "random") == (130, "", "error: interrupted\n")


def test_ctrl_c_says_what_is_kept(evoprune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run", interrupted)
    done = evoprune("run", "random", *TINY)
    assert done.code == 130
    assert "interrupted" in done.err
    assert "kept" in done.err


# ---- wrong input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "kstart"], ["'kstart'", "did you mean 'kstarts'"]),
        (["run", "kstarts", "--data", "mnits"], ["did you mean 'mnist'"]),
        (["run", "kstarts", "--data", "absent.npz"], ["absent.npz"]),
        (["run", "kstarts", "--model", "lenet"], ["did you mean 'lenet5'"]),
        (["run", "kstarts", "--model", "lenet5"], ["too small"]),
        (["run", "kstarts", "--sparsity", "1"], ["[0, 1)"]),
        (["run", "kstarts", "--sparsity", "-0.1"], ["[0, 1)"]),
        (["run", "kstarts", "--sparsity", "lots"], ["'lots'"]),
        (["run", "kstarts", "--sparsity", "nan"], ["[0, 1)"]),
        (["run", "kstarts", "--sparsity", "0.99999"], ["sparsity"]),
        (["run", "kstarts", "--epochs", "0"], ["epochs=0"]),
        (["run", "kstarts", "--epochs", "2.5"], ["--epochs"]),
        (["run", "kstarts", "--epochs", "2"], ["epochs"]),
        (["run", "kstarts", "--seed", "-3"], ["seed"]),
        (["run", "kstarts", "--engine", "sparce"], ["did you mean 'sparse'"]),
        (["run", "kstarts", "--device", "quantum"], ["'quantum'"]),
        (["run", "kstarts", "--set", "criterion=gradd"], ["did you mean 'grad'"]),
        (["run", "kstarts", "--set", "kk=3"], ["did you mean 'k'"]),
        (["run", "kstarts", "--set", "k=0"], ["k=0"]),
        (["run", "kstarts", "--set", "k=many"], ["whole number"]),
        (["run", "kstarts", "--set", "k"], ["KEY=VALUE"]),
        (["run", "kstarts", "--set", "=3"], ["KEY=VALUE"]),
        (["run", "kstarts", "--set", "k=3", "--set", "k=4"], ["twice"]),
        (["run", "kstarts", "--set", "epochs=3"], ["--epochs"]),
        (["run", "kstarts", "--set", "out=x"], ["give it as --out"]),
        (["run", "kstarts", "--set", "problem=x"], ["problem is no option"]),
        (["run", "kstarts", "--set", "method=x"], ["method is no option"]),
        (["compare", "random", "--set", "equal-cost=yes"], ["give it as --equal-cost"]),
        (["compare", "random", "--set", "progress=x"], ["progress is no option"]),
        (["compare", "random", "--set", "sparsities=0.5"], ["sparsities is no option"]),
        (["run", "dissipating", "--set", "rule=fraction", "--set", "delta=inf"], ["delta=inf", "finite"]),
        (["run", "grasp", "--set", "temperature=warm"], ["temperature='warm'", "a number"]),
        (["run", "grasp", "--set", "temperature=0"], ["temperature=0", "> 0"]),
        (["run", "prospr", "--set", "inner_steps=1.5"], ["inner_steps='1.5'", "whole number"]),
        (["run", "prospr", "--set", "inner_lr=-1"], ["inner_lr=-1", ">= 0"]),
        (["run", "ntk_sap", "--set", "epsilon=x"], ["epsilon='x'", "a number"]),
        (["run", "snip", "--set", "batches=1000000000"], ["batches=1000000000", "at most"]),
        (["run", "kstarts", "--set", "rungs=1,x"], ["rungs"]),
        (["run", "kstarts", "--set", "optimizer=lbfgs"], ["element-wise"]),
        (["run", "dissipating", "--set", "rule=fraction"], ["delta"]),
        (["run", "kstarts", "--wrong"], ["--wrong", "--help"]),
        (["run", "kstarts", "--batch-size", "3"], ["--set batch_size=VALUE", "run --help"]),
        (["run"], ["METHOD", "--help"]),
        (["kstarts"], ["evoprune run METHOD"]),
        (["runn"], ["runn"]),
        (["list", "model"], ["did you mean 'models'"]),
        (["compare", "random", "kstart"], ["did you mean 'kstarts'"]),
        (["compare", "random", "random"], ["each once"]),
        (["compare", "random", "kstarts", "--set", "kk=3"], ["did you mean 'k'"]),
        (["compare", "random", "--sparsity", "0.9,1"], ["[0, 1)"]),
        (["compare", "random", "--sparsity", "0.9,"], ["[0, 1)"]),
        (["compare", "random", "--sparsity", "0.9,0.99999"], ["sparsity"]),
        (["compare", "random", "--sparsity", "0.9", "0.95"], ["'0.95' is no method", "commas"]),
        (["compare", "random", "--seeds", "0"], ["seeds=0"]),
        (["compare", "random", "kstarts", "--equal-cost", "random"], ["takes no value", "--cost-of random"]),
        (["compare", "random", "kstarts", "--cost-of", "dense"], ["equal cost to 'dense'"]),
        (["compare", "random", "--workers", "1000"], ["cores"]),
        (["compare", "random", "--threads", "0"], ["threads=0"]),
        (["compare", "random", "--threads", "99999"], ["threads=99999", "cores"]),
        (["compare", "random", "--cost-of", ""], ["equal cost to ''"]),
        (["compare", "random", "--data", "mnits"], ["did you mean 'mnist'"]),
    ],
)
def test_wrong_input_is_one_line_and_touches_nothing(
    evoprune: Command, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    out = [] if arguments[0] not in ("run", "compare") or len(arguments) == 1 else ["--out", "a/b"]
    one_line(evoprune(*arguments, *out), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_may_be_called_by_a_number(evoprune: Command, tmp_path: Path) -> None:
    small = [part for name in ("mu", "lambda_", "ngen", "fitness_epochs") for part in ("--set", f"{name}=1")]
    assert evoprune("run", "evolve", *TINY, *small, "--set", "journal=3", "--out", "run").code == 0
    assert (tmp_path / "3").is_file()


def test_data_files_of_one_name_are_told_to_differ(evoprune: Command, tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(120, 6)).astype("float32"), np.arange(120) % 3
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "mine.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    one_line(evoprune("compare", "random", *TINY, "--data", "a/mine.npz,b/mine.npz"), "names differ")


def test_the_name_of_a_data_file_is_no_markup(evoprune: Command) -> None:
    x, y = np.random.default_rng(0).normal(size=(120, 6)).astype("float32"), np.arange(120) % 3
    np.savez("a[red]b.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    assert "a[red]b" in evoprune("run", "random", *TINY, "--sparsity", ".5", "--data", "a[red]b.npz", "--out", "run").err


def test_bad_archives_are_named(evoprune: Command, tmp_path: Path) -> None:
    x, y = np.ones((40, 4), dtype="float32"), np.arange(40) % 2
    (tmp_path / "junk.npz").write_bytes(b"not an archive")
    np.savez("nan.npz", x_train=np.where(x, np.nan, x), y_train=y, x_test=x, y_test=y)
    np.savez("text.npz", x_train=x.astype(str), y_train=y, x_test=x, y_test=y)
    np.savez("labels.npz", x_train=x, y_train=-y, x_test=x, y_test=y)
    np.savez("classes.npz", x_train=x, y_train=y, x_test=x, y_test=y + 7)
    for name in ("junk", "nan", "text", "labels", "classes"):
        one_line(evoprune("run", "random", *TINY, "--data", f"{name}.npz", "--out", "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["run", "random"], ["compare", "random"]])
def test_a_foreign_folder_is_left_alone(evoprune: Command, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").write_text("keep me")
    one_line(evoprune(*command, *TINY, "--out", "mine"), "mine.txt")
    one_line(evoprune(*command, *TINY, "--out", "mine/mine.txt"))
    one_line(evoprune(*command, *TINY, "--out", "mine/mine.txt/run"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine" / "mine.txt").read_text() == "keep me"


# ---- --set -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("3", 3), ("-2", -2), ("1e-3", 0.001), ("0.5", 0.5), ("true", True), ("False", False), ("no", False)),
        *(("none", None), ("2,4,8", [2, 4, 8]), ("0.5,x", [0.5, "x"]), ("grad_path", "grad_path"), ("4,", [4])),
    ],
)
def test_literals(text: str, value: object) -> None:
    assert typed.literal(text) == value
    assert type(typed.literal(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        *(("3", int, 3), ("3", float, 3), ("0.5", float, 0.5), ("true", bool, True), ("3", str, "3"), ("true", str, "true")),
        *(("3", str | Path | None, "3"), ("none", str | Path | None, None), ("a,b", str | Path, "a,b")),
        *(("none", int | None, None), ("3", int | None, 3), ("2", list[int] | None, [2]), ("2,4", list[int] | None, [2, 4])),
        *(("grad", Literal["grad", "loss"], "grad"), ("3", None, 3), ("x", Path | int, "x"), ("none", str | None, None)),
        *(
            ("x", list[str], ["x"]),
            ("x", str | list[str], "x"),
            ("x,y", str | list[str], ["x", "y"]),
            ("none", list[str] | None, None),
        ),
    ],
)
def test_values_become_what_the_option_is(text: str, hint: Any, value: object) -> None:
    assert typed.coerced("option", text, hint) == value


@pytest.mark.parametrize(
    ("text", "hint"), [("3.5", int), ("true", int), ("1", bool), ("x", float), ("none", int), ("x", list[int])]
)
def test_values_of_another_kind_are_refused(text: str, hint: Any) -> None:
    with pytest.raises(InputError, match="option="):
        typed.coerced("option", text, hint)


def test_every_option_of_every_method_accepts_its_default() -> None:
    for method in METHODS.values():
        for name, default in method.options.items():
            if isinstance(default, (str, int, float, bool, type(None))):
                assert typed.parse_options([f"{name}={default}"], [method]) == {name: default}, (method.name, name)


# ---- list and help -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("methods", ["random", "dropout", "kstarts", "dissipating", "combined", "dense", "evolve"]),
        ("models", ["lenet-300-100", "autoencoder", "lenet5", "resnet20"]),
        ("datasets", ["digits", "mnist", "fashion-mnist", "cifar10"]),
        ("operators", ["mutSwap", "cxSetUniform"]),
        ("criteria", ["grad", "grad_path", "loss", "live_paths"]),
    ],
)
def test_lists(evoprune: Command, what: str, names: list[str]) -> None:
    done = evoprune("list", what)
    assert done.code == 0
    assert done.err == ""
    first = [line.split()[0] for line in done.out.splitlines() if line[0] != " "]
    assert set(names) <= set(first), first


def test_the_list_of_methods_is_sorted_and_says_what_is_taken_unless_set(evoprune: Command) -> None:
    text = evoprune("list", "methods").out
    first = [line.split()[0] for line in text.splitlines()[1:] if line[0] != " "]
    assert first == sorted(first)
    words = " ".join(text.split())
    for absent in ("=None", "journal", "executor"):
        assert absent not in words
    assert "form (guided;" in words
    assert "mu (1; plain: 16)" in words
    assert "first=random" in words


def test_every_option_that_is_not_set_is_explained() -> None:
    for name, method in METHODS.items():
        assert set(method.unset) == {option for option, default in method.options.items() if default is None}, name


def test_a_new_method_is_listed_and_runs(evoprune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setitem(METHODS._entries, "mine", replace(METHODS["random"], name="mine"))
    assert "mine" in evoprune("list", "methods").out
    assert json.loads(evoprune("run", "mine", *TINY, "--json", "--out", "run").out)["method"] == "mine"


def test_help_names_every_option(evoprune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = evoprune("run", "--help").out
    for option in (
        "--data",
        "--model",
        "--sparsity",
        "--epochs",
        "--seed",
        "--set",
        "--test",
        "--engine",
        "--device",
        "--out",
        "--json",
    ):
        assert option in text
    assert "0.95" in text


@pytest.mark.parametrize("command", ["run", "compare", "check", "report", "list"])
def test_help_shows_each_default_once_and_without_brackets_in_brackets(
    evoprune: Command, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = evoprune(command, "--help").out
    assert not re.search(r"default: [(\[]", text)
    assert "…}" not in text


def test_the_version_is_shown(evoprune: Command) -> None:
    assert evoprune("--version") == (0, f"evoprune {metadata.version('evoprune')}\n", "")
