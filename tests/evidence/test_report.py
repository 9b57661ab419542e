"""The page says what was found and what is missing, whatever the folder holds, and needs nothing but itself."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from torch import nn

import evoprune as ep
from evoprune.cli import app
from evoprune.compare import compare
from evoprune.errors import InputError
from evoprune.evidence.check import check
from evoprune.evidence.report import command, page
from evoprune.evidence.report.figures import _searched
from evoprune.evidence.report.svg import figure
from evoprune.pages import report
from evoprune.problems.problem import Problem
from evoprune.runs import run
from tests.evidence.browser import CHROMIUM, Browser, browser
from tests.tiny import table

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Parsed(HTMLParser):
    """Whether every element is closed in order; ids, references and outside addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action") and not (value or "").startswith(("#", "data:")):
                self.outside.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(path: Path) -> str:
    """The page's words, after its form is checked."""
    text = path.read_text()
    parsed = Parsed(text)
    assert parsed.open == []
    assert parsed.outside == []
    assert len(parsed.ids) == len(set(parsed.ids)), "every id once"
    assert "<script" not in text
    assert not re.search(r"@import|url\(\s*[\"']?http|fetch\(", text)
    references = {name for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text) for name in pair if name}
    assert references <= set(parsed.ids), "every reference is there"
    return " ".join(" ".join(parsed.text).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two methods and a reference, two sparsities, three seeds, with one check."""
    folder = tmp_path_factory.mktemp("made") / "cmp"
    data = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(data, **{name: np.asarray(value) for name, value in table((6,), samples=160).items()})
    problem = Problem("mlp:10-8", str(data))
    options: dict[str, Any] = {"epochs": 2, "engine": "loop", "batch_size": 36, "k": 3, "selection_epochs": 1}
    compare(["random", "kstarts", "dense"], problem, sparsities=(0.5, 0.8), seeds=3, out=folder, workers=1, **options)
    run = folder / "runs" / "kstarts-0.8-seed0"
    check(run, seeds=2, epochs=1, controls=[]).save(run)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def edit(folder: Path, run: str, **changes: Any) -> None:
    path = folder / "runs" / run / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def ask(run: Path, **options: Any) -> None:
    """Let the run say that it was asked for these."""
    path = run / "result.json"
    told = json.loads(path.read_text())
    told["arguments"]["options"] |= options
    path.write_text(json.dumps(told))


def test_the_page_answers_what_was_asked(folder: Path) -> None:
    words = read(report(folder))
    for part in ("The question", "kstarts do better than a random mask", "Against random, at sparsity 0.8:",
                 "Seeds 0, 1, 2",
                 "Score against sparsity", "Score against cost", "Layer densities", "Early against final", "Is it real?",
                 "fresh counts", "torch", "a reference, prunes nothing", "times as much as random"):  # fmt: skip
        assert part in words, part
    assert "What is missing" not in words
    verdict = json.loads((folder / "runs" / "kstarts-0.8-seed0" / "check.json").read_text())["verdict"]
    assert verdict in words


def test_the_words_are_those_of_the_statistics(folder: Path) -> None:
    for seed in range(3):
        edit(folder, f"random-0.8-seed{seed}", test_score=0.5 + seed / 100)
        edit(folder, f"kstarts-0.8-seed{seed}", test_score=0.7 + seed / 100 + seed / 1e4)
        edit(folder, f"random-0.5-seed{seed}", test_score=0.8 + seed / 100)
        edit(folder, f"kstarts-0.5-seed{seed}", test_score=0.6 + seed / 100 + seed / 1e4)
    words = read(report(folder))
    assert "at sparsity 0.5: worse kstarts -19.99" in words
    assert "at sparsity 0.8: better kstarts +20.01" in words


def test_the_same_runs_give_the_same_page(folder: Path) -> None:
    assert report(folder).read_bytes() == report(folder).read_bytes()


def test_the_commands_make_the_same_runs_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    line = next(line for line in re.findall(r"evoprune compare [^\n]*", report(folder).read_text()))
    for part in ("random kstarts", "--sparsity 0.5,0.8", "--seeds 3", "--epochs 2", "--engine loop", "--set k=3", "--test"):
        assert part.replace("random kstarts", "kstarts random") in line or part in line, line
    done = CliRunner().invoke(app, line.split()[1:])
    assert done.exit_code == 0, done.output
    assert "nothing is trained" not in done.output
    result = json.loads((folder / "runs" / "kstarts-0.8-seed0" / "result.json").read_text())
    assert command(result).startswith("evoprune run kstarts --data ")
    assert "--set k=3" in command(result)


def test_the_command_of_a_check_asks_what_was_asked(folder: Path) -> None:
    run, asked = folder / "runs" / "kstarts-0.8-seed0", r"evoprune check \S+ --seeds 2 --epochs 1"
    assert re.search(asked + r" --engine loop --set controls=\n", report(folder).read_text())
    told = json.loads((run / "check.json").read_text())
    told |= {"difference": 0.01, "controls": [*told["controls"], {**told["controls"][0], "control": "best_of_k"}]}
    del told["options"]
    (run / "check.json").write_text(json.dumps(told))
    assert re.search(asked + r" --difference 0\.01 --search\n", report(folder).read_text())


def test_the_command_of_a_check_gives_the_same_check(folder: Path) -> None:
    from typer.testing import CliRunner

    run = folder / "runs" / "kstarts-0.8-seed0"
    asked = ["--seeds", "2", "--epochs", "1", "--engine", "loop", "--set", "draws=2", "--set", "controls=shuffle_units,invert"]
    asked += ["--set", "lr=0.05", "--set", "seed=3"]
    assert CliRunner().invoke(app, ["check", str(run), *asked]).exit_code == 0
    told, text = (run / "check.json").read_text(), report(folder).read_text()
    line = next(line for line in re.findall(r"evoprune check [^\n]*", text) if "draws" in line)
    (run / "check.json").unlink()
    assert CliRunner().invoke(app, line.split()[1:]).exit_code == 0
    assert (run / "check.json").read_text() == told


def test_a_folder_whose_name_is_not_utf8_has_a_page(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / os.fsdecode(b"caf\xe9")))
    assert "caf?" in report(folder).read_text()


def test_the_command_of_an_equal_cost_comparison_of_several_problems_trains_nothing_again(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    np.savez(tmp_path / "blobs.npz", **{name: np.asarray(value) for name, value in table((6,), samples=160).items()})
    problems = [Problem(name, str(tmp_path / "blobs.npz")) for name in ("mlp:6", "mlp:8")]
    options: dict[str, Any] = {"epochs": 3, "engine": "loop", "batch_size": 36, "k": 3, "selection_epochs": 1, "workers": 1}
    compare(["random", "kstarts"], problems, sparsities=(0.5,), seeds=1, out=tmp_path / "out", equal_cost="dearest", **options)
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    line = next(line for line in re.findall(r"evoprune compare [^\n]*", report(tmp_path / "out").read_text()))
    done = CliRunner().invoke(app, line.split()[1:])
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")} == results


def commands_of(folder: Path) -> list[str]:
    found = re.search(r"<pre>(.*?)</pre>", report(folder).read_text(), re.DOTALL)
    assert found
    return html.unescape(found[1]).splitlines()


def test_options_that_do_not_agree_have_a_command_each(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    out = tmp_path / "out"
    for methods, k in ((("random", "kstarts"), "2"), (("combined",), "3")):
        asked = ["--model", "mlp:8", "--sparsity", "0.5", "--seeds", "1", "--epochs", "4", "--workers", "1", "--set", f"k={k}"]
        done = CliRunner().invoke(app, ["compare", *methods, *asked, "--engine", "loop", "--out", str(out)])
        assert done.exit_code == 0, done.output
    results = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    lines = [line for line in commands_of(out) if line.startswith("evoprune compare")]
    assert [re.findall("k=.", line) for line in lines] in ([["k=2"], ["k=3"]], [["k=3"], ["k=2"]])
    for line in lines:
        done = CliRunner().invoke(app, line.split()[1:])
        assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == results


def test_a_comparison_without_epochs_and_of_sparsity_0_has_a_command_that_goes_on(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    compare(["random"], Problem("mlp:4"), sparsities=(0.0, 0.5), seeds=1, out=tmp_path / "out", workers=1, engine="loop")
    [line] = [line for line in commands_of(tmp_path / "out") if line.startswith("evoprune compare")]
    assert "--sparsity 0.0,0.5 --seeds 1 --epochs 10" in line
    done = CliRunner().invoke(app, line.split()[1:])
    assert done.exit_code == 0, done.output


def test_what_no_command_line_says_is_called_so(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    asked: dict[str, Any] = {"sparsity": 0.5, "epochs": 1, "engine": "loop"}
    problems = {
        "model build": Problem(build),
        "data arrays": Problem("mlp:4", table((6,), samples=160)),
        "standardize=False": Problem("mlp:4", standardize=False),
        "seed=3": Problem("mlp:4", seed=3),
    }
    for number, (told, problem) in enumerate(problems.items()):
        run("random", problem, out=tmp_path / str(number), **asked)
        [line, _] = commands_of(tmp_path / str(number))
        assert line == f"# {tmp_path / str(number)}: from Python ({told}), which no command line says; call it again as then"
    compare(["random"], Problem("mlp:4"), sparsities=(0.5,), seeds=[2], epochs=1, out=tmp_path / "c", workers=1, engine="loop")
    assert "from Python (seeds 2)" in commands_of(tmp_path / "c")[0]
    asked = {"sparsities": (0.5,), "epochs": 1, "workers": 1, "engine": "loop"}
    compare(["random"], Problem("mlp:4"), seeds=[0, 2], out=tmp_path / "gap", **asked)
    assert "from Python (seeds 0, 2)" in commands_of(tmp_path / "gap")[0]
    np.savez(tmp_path / "blobs.npz", **{name: np.asarray(value) for name, value in table((6,), samples=160).items()})
    pair = [Problem("mlp:4"), Problem("mlp:8", str(tmp_path / "blobs.npz"))]
    compare(["random"], pair, seeds=1, out=tmp_path / "pair", **asked)
    assert f"from Python (mlp:4 on digits, mlp:8 on {tmp_path / 'blobs.npz'})" in commands_of(tmp_path / "pair")[0]
    compare(["random"], [Problem(build), Problem("mlp:4")], seeds=1, out=tmp_path / "mixed", **asked)
    [line, _] = commands_of(tmp_path / "mixed")
    assert "from Python (model build)" in line


def test_a_check_stands_with_its_run_whatever_the_data_file_is_called(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.npz", "b.npz")]
    for path in paths:
        np.savez(path, **{name: np.asarray(value) for name, value in table((6,), samples=160).items()})
    problems = [Problem("mlp:8", str(path)) for path in paths]
    asked: dict[str, Any] = {"sparsities": (0.5,), "seeds": 1, "epochs": 1, "engine": "loop", "workers": 1}
    compare(["random"], problems, out=tmp_path / "out", **asked)
    for path in paths:
        checked = tmp_path / "out" / "runs" / f"mlp:8-on-{path.name}" / "random-0.5-seed0"
        check(checked, seeds=1, epochs=1, controls=[], draws=1, problem=problems[paths.index(path)]).save(checked)
        words = read(report(tmp_path / "out"))
        start = words.rindex("Does random do" if "Does random do" in words else f"How well does random do with mlp:8 on {path}")
        assert "Is it real?" in words[start:]
        (checked / "check.json").unlink()


def test_a_mean_squared_error_is_no_percentage(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 4)).astype(np.float32)
    arrays = {"x_train": inputs[:150], "y_train": inputs[:150, :2], "x_test": inputs[150:], "y_test": inputs[150:, :2]}
    asked: dict[str, Any] = {"sparsities": (0.5,), "seeds": 4, "epochs": 3, "engine": "loop", "workers": 1, "batch_size": 30}
    compare(["random"], Problem("mlp:8", arrays), out=tmp_path / "out", **asked)
    text = report(tmp_path / "out").read_text()
    early = text[text.index("Early against final") :]
    assert "final validation mse" in early
    assert not re.search(r"<!-- [\d.]+% -->", early)


# ---- what may be missing -------------------------------------------------------------------------------------------


def test_a_folder_without_runs_is_refused_in_one_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    with pytest.raises(InputError, match="holds no finished run"):
        report(tmp_path)
    for path in (tmp_path, tmp_path / "nowhere"):
        done = CliRunner().invoke(app, ["report", str(path)])
        assert done.exit_code == 2
        assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_cells_are_named(folder: Path) -> None:
    shutil.rmtree(folder / "runs" / "kstarts-0.8-seed1")
    (folder / "runs" / "kstarts-0.5-seed2" / "result.json").unlink()
    words = read(report(folder))
    assert "kstarts at sparsity 0.8 has no run of seed 1." in words
    assert "kstarts-0.5-seed2 is not finished" in words


def test_a_single_seed_has_no_intervals_and_the_page_says_so(folder: Path) -> None:
    for seed in (1, 2):
        for path in (folder / "runs").glob(f"*seed{seed}"):
            shutil.rmtree(path)
    words = read(report(folder))
    assert "a single seed (0)" in words
    assert "(1 seed; need several for 0.2 points)" in words


def test_runs_of_other_options_are_left_out_and_named(folder: Path) -> None:
    alone = report(folder).read_text()
    for path in sorted((folder / "runs").glob("*-0.8-seed1")):
        ask(shutil.copytree(path, folder / "zother" / path.name), epochs=7)
    page = read(report(folder))
    assert "2 of 17 runs are left out" in page
    assert "differ from them in epochs: 2, 7" in page
    rows = re.compile(r"<tr.*?</tr>", re.DOTALL)
    assert rows.findall(report(folder).read_text()) == rows.findall(alone), "the tables are those without them"


def test_a_seed_of_other_options_is_left_out_and_named(folder: Path) -> None:
    ask(folder / "runs" / "kstarts-0.8-seed2", lr=0.3)
    page = read(report(folder))
    assert "1 of 15 runs are left out" in page
    assert "differ from them in lr: not set, 0.3" in page


def test_methods_that_were_trained_with_other_options_are_named(folder: Path) -> None:
    assert "were trained with other options" not in read(report(folder))
    for path in (folder / "runs").glob("kstarts-*"):
        ask(path, lr=0.3)
    words = read(report(folder))
    assert "trained with other options, which differences may come from: lr: not set (random, dense), 0.3 (kstarts)." in words


def test_a_single_run_gives_a_page(folder: Path) -> None:
    words = read(report(folder / "runs" / "kstarts-0.8-seed0"))
    assert "How well does kstarts do" in words
    assert "no runs of 'random'" in words


def test_a_run_that_turned_nan_counts_nowhere_and_is_named(folder: Path) -> None:
    edit(folder, "kstarts-0.8-seed1", val_score=None, test_score=None, val_accuracy=None, test_accuracy=None)
    words = read(report(folder))
    assert "kstarts at sparsity 0.8, seed 1, turned NaN" in words
    for seed in (0, 2):
        edit(folder, f"kstarts-0.8-seed{seed}", val_score=None, test_score=None)
    read(report(folder))
    for path in (folder / "runs").iterdir():
        edit(folder, path.name, val_score=None, test_score=None)
    assert "Score against sparsity" not in read(report(folder)), "nothing to draw, yet a page"


def test_different_versions_are_named(folder: Path) -> None:
    path = folder / "runs" / "random-0.5-seed0" / "result.json"
    result = json.loads(path.read_text())
    result["arguments"]["versions"]["torch"] = "1.0.0"
    path.write_text(json.dumps(result))
    words = read(report(folder))
    assert "different versions of torch" in words
    assert "1.0.0" in words


def test_damaged_files_are_named_and_left_out(folder: Path) -> None:
    (folder / "runs" / "random-0.5-seed0" / "result.json").write_text("{")
    (folder / "runs" / "random-0.5-seed1" / "history.csv").unlink()
    (folder / "runs" / "kstarts-0.8-seed0" / "check.csv").unlink()
    words = read(report(folder))
    assert "left out" in words
    assert "check of runs/kstarts-0.8-seed0 cannot be read" in words


SPOILED = {
    "runs/random-0.5-seed1/history.csv": "epoch,val_loss,val_accuracy\n1,high,low\n",
    "runs/random-0.5-seed2/history.csv": "epoch,loss\n1,2\n",
    "runs/kstarts-0.5-seed0/trace.csv": "epoch,individual\n1,0\n",
}


@pytest.mark.parametrize("setup", [{"problems": None, "options": None, "format": 1}, {"problems": [], "options": "none"}])
def test_what_is_no_table_of_scores_and_no_setup_is_left_out(folder: Path, setup: dict[str, Any]) -> None:
    for path, content in SPOILED.items():
        assert (folder / path).is_file()
        (folder / path).write_text(content)
    (folder / "compare.json").write_text(json.dumps(setup))
    shutil.copytree(folder / "runs" / "random-0.8-seed0", folder / "runs" / "random-0.8-seed0.bak")
    words = read(report(folder))
    for path in SPOILED:
        assert f"{path} cannot be read: the figures are without it." in words


def test_a_page_of_the_folder_called_runs_names_what_is_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "runs" / "random-0.5-seed0" / "result.json").write_text("{")
    words = read(report("runs"))
    assert "1 of 15 runs left out: random-0.5-seed0/result.json is damaged" in words


@pytest.mark.parametrize("rows", ["", "fresh_counts,0,0,0.5,accuracy,9,False\n"])
def test_a_check_that_lost_its_rows_is_left_out(folder: Path, rows: str) -> None:
    (folder / "runs" / "kstarts-0.8-seed0" / "check.csv").write_text(f"control,seed,draw,score,metric,survivors,failed\n{rows}")
    assert "check of runs/kstarts-0.8-seed0 cannot be read" in read(report(folder))


def test_a_check_whose_options_are_none_is_left_out(folder: Path) -> None:
    path = folder / "runs" / "kstarts-0.8-seed0" / "check.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "options": ["lr"]}))
    assert "check of runs/kstarts-0.8-seed0 cannot be read" in read(report(folder))


def test_several_problems_stand_one_after_the_other(folder: Path) -> None:
    for path in (folder / "runs").glob("*seed2"):
        edit(folder, path.name, model="mlp:other", metric="mse")
    words = read(report(folder))
    assert "mlp:other on" in words
    assert "(lower is better)" not in words or "mse" in words


def test_each_problem_has_the_figures_of_its_searches(folder: Path) -> None:
    for path in (folder / "runs").glob("kstarts*seed1"):
        edit(folder, path.name, model="mlp:other")
    assert read(report(folder)).count("Fitness over the search: kstarts") == 2


@pytest.mark.parametrize(("longest", "told"), [(1, "The line that goes on"), (3, "The 3 lines that go on are the finalists.")])
def test_a_search_says_who_went_on(longest: int, told: str) -> None:
    rows = [(one, epoch, 0.5) for one in range(4) for epoch in range(1, 4 if one < longest else 2)]
    assert (
        told in _searched("halving", pd.DataFrame(rows, columns=["individual", "epoch", "val_loss"]), "loss", "about")["caption"]
    )


def test_a_search_by_another_criterion_than_is_drawn_says_so(folder: Path) -> None:
    assert read(report(folder)).count("Chosen by grad, not by the score that is drawn.") == 1


def test_names_are_escaped(folder: Path) -> None:
    for path in (folder / "runs").iterdir():
        edit(folder, path.name, model="<script>alert(1)</script>")
    assert "<script" not in report(folder).read_text()


def test_a_page_without_runs_is_refused() -> None:
    from evoprune.evidence.report import Material

    with pytest.raises(InputError, match="no runs to report"):
        page(Material(pd.DataFrame(), []))
    assert ep.report is report


# ---- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Path]]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the path: the page is not opened in a browser")
    written = report(made, out=tmp_path_factory.mktemp("page") / "report.html")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened, written


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_it_readably_without_errors_or_requests(
    shown: tuple[Browser, Path], tmp_path: Path, width: int, dark: bool
) -> None:
    opened, written = shown
    seen = opened.open(written, width=width, dark=dark)
    assert seen.console == []
    assert seen.requests == [written.as_uri()], "the page asks for nothing but itself"
    assert opened.value("document.documentElement.scrollWidth") <= width, "the page scrolls down only"
    assert opened.value("parseFloat(getComputedStyle(document.querySelector('p')).fontSize)") >= 13
    figures = opened.value("[...document.querySelectorAll('figure svg')].map(one => one.getBoundingClientRect().width)")
    assert sum(figure > 0.7 * min(width, 400) for figure in figures) >= 4, "figures fill the width"
    assert max(figures) <= width
    for element in ("body", "h1", ".soft", "td", "th", ".chip"):
        assert contrast(opened, element) >= 4.5, element
    dull = [name for name in ("better", "worse") if opened.value(f"!!document.querySelector('td.{name}')")]
    assert all(contrast(opened, f"td.{name}") >= 4.5 for name in dull)
    from matplotlib.image import imread

    picture = imread(opened.picture(tmp_path / "page.png"))
    assert (picture[5, 5, :3].mean() < 0.3) == dark
    assert picture.std() > 0.02, "something is drawn"


def contrast(opened: Browser, element: str) -> float:
    """Of an element's text against what lies behind it, as WCAG 2 counts it."""
    script = """(() => {
      let at = document.querySelector(%r), ink = getComputedStyle(at).color;
      while (at && /, 0\\)$|transparent/.test(getComputedStyle(at).backgroundColor)) at = at.parentElement;
      return [ink, getComputedStyle(at || document.body).backgroundColor];
    })()"""
    brightness = []
    for colour in opened.value(script % element):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        brightness.append(float(np.dot(linear, [0.2126, 0.7152, 0.0722])))
    return (max(brightness) + 0.05) / (min(brightness) + 0.05)


def test_the_words_of_a_figure_are_text_and_its_ids_its_own() -> None:
    def draw(ax: Axes) -> None:
        ax.scatter([1, 2], [3, 4], label="a < b")
        ax.set_xlabel("share & cost")
        ax.legend()

    pictures = [figure("Cost", "A caption.", draw, about) for about in ("one", "two")]
    page = "".join(picture[size] for picture in pictures for size in ("wide", "narrow"))
    assert page.count(">share &amp; cost</text>") == page.count(">a &lt; b</text>") == 4
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(ids) == set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    assert "font-family" not in page


def test_the_digits_and_colours_of_words_are_kept() -> None:
    def draw(ax: Axes) -> None:
        ax.plot([0, 1], [0.0101, 0.0119], color="#0072B2")
        ax.set_yticks([0.01200, 0.01225])
        ax.set_title("v1.20240501 of #222222", color="#222222")

    page = figure("Cost", "A caption.", draw)["wide"]
    assert ">0.01200</text>" in page
    assert ">0.01225</text>" in page
    assert ">v1.20240501 of #222222</text>" in page
    assert "var(--blue)" in page
    assert not re.search(r' (?:d|x|y)="[^"]*\.\d{4}', page), "what is drawn needs no more than thousandths of a point"
