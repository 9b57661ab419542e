"""What the docs say is true: their Python runs, their tables can be made, their formulas are what is sent, their links lead."""

from __future__ import annotations

import importlib
import json
import pickle
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from evoprune import seeds
from evoprune.criteria import CRITERIA
from evoprune.evidence.controls import CONTROLS
from evoprune.evidence.search_controls import SEARCH_CONTROLS
from evoprune.evolution.jobs import Job, Key
from evoprune.evolution.operators import OPERATORS
from evoprune.evolution.store import Trained
from evoprune.masks.sampling import random_mask
from evoprune.methods import METHODS
from evoprune.methods.scorers import SCORERS
from evoprune.problems.models import MODELS
from evoprune.problems.problem import Problem
from evoprune.training.population import Population

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"(<!-- notest -->\n)?```python\n(.*?)```", flags=re.DOTALL)


def code_of(page: Path) -> str:
    """The page's Python in one piece, with the page's own line numbers."""
    text, code = page.read_text(), ""
    for found in BLOCK.finditer(text):
        if not found[1]:
            code += "\n" * (text[: found.start(2)].count("\n") - code.count("\n")) + found[2]
    return code


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    """docs/_generate.py, without mkdocs."""
    sys.path.insert(0, str(DOCS))
    try:
        yield importlib.import_module("_generate")
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own; registries, global generators and torch's threads are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    tables: list[Any] = [METHODS, SCORERS, OPERATORS, CRITERIA, MODELS, CONTROLS]
    held = [dict(table) for table in tables]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with seeds.isolated():
        yield
    torch.set_num_threads(threads)
    for table, entries in zip(tables, held, strict=True):
        table._entries = entries


@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page)], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, untouched: None) -> None:
    exec(compile(code_of(page), str(page), "exec"), {"__name__": f"docs_{page.stem}"})


SEEDED = [block for _, block in BLOCK.findall((DOCS / "howto" / "deap.md").read_text()) if "seed=3)" in block]
BEFORE = (
    "import random\nfrom deap import algorithms, tools\nimport evoprune as ep\nproblem = ep.Problem('mlp:16', 'digits', seed=0)\n"
)


@pytest.mark.parametrize("search", SEEDED, ids=["loop", "objectives", "inherit"])
def test_a_search_that_is_seeded_is_the_same_whatever_was_drawn_before(search: str, untouched: None) -> None:
    found = []
    for drawn in (1, 2):
        random.seed(drawn)
        names: dict[str, Any] = {}
        exec(BEFORE + search, names)
        found.append(set(names["toolbox"].map._records))
    assert found[0] == found[1]


def test_every_marker_is_made_and_every_table_is_shown(generate: ModuleType) -> None:
    used = {name for page in PAGES for name in generate.markers(page.read_text())}
    assert used == set(generate.TABLES)
    assert not [
        page.name for page in PAGES if page.read_text().count("<!-- generated:") != len([*generate.markers(page.read_text())])
    ]


def test_tables_hold_every_registered_name(generate: ModuleType) -> None:
    for maker, names in (("operator-index", OPERATORS), ("criteria", CRITERIA), ("models", MODELS)):
        table = generate.TABLES[maker]()
        assert [name for name in names if f"`{name}`" not in table] == []
    assert f"{Problem('lenet-300-100', 'digits').prunable:,}" not in generate.TABLES["models"]()  # 28x28, not 8x8
    assert "266,200" in generate.TABLES["models"]()


def test_the_page_of_the_command_line_holds_every_option(generate: ModuleType) -> None:
    page = generate.TABLES["commands"]()
    for line in (
        "`--epochs EPOCHS` | Epochs on the path of the returned network. | `10`",
        "`--test`, `--no-test`",
        "`--set KEY=VALUE`",
        "runs/&lt;time&gt;-",
    ):
        assert line in page
    assert "evoprune compare METHOD… [OPTIONS]" in page
    assert re.findall(r"^## `evoprune (\w+)`$", page, flags=re.MULTILINE) == ["run", "compare", "check", "report", "list"]
    for maker, names in (("controls", CONTROLS), ("search-controls", SEARCH_CONTROLS)):
        assert [name for name in names if f"`{name}`" not in generate.TABLES[maker]()] == []


def test_the_page_of_methods_holds_every_method(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {name: {"samples": 1234, "dense_equivalent_epochs": 0.5} for name in METHODS}
    monkeypatch.setattr(importlib.import_module("_registries"), "method_costs", lambda: costs)
    page = generate.TABLES["methods"]()
    for name, method in METHODS.items():
        section = page.split(f"### `{name}` ")[1].split("\n### ")[0]
        assert method.reference in section
        assert "1,234 samples" in section
        assert "methods-test_contract.md" in section
        assert [option for option in method.options if f"`{option}`" not in section] == []


def test_a_test_is_found_by_the_method_it_speaks_of(generate: ModuleType) -> None:
    found = dict(map(reversed, generate.tests_of("snip", "methods", ("snip",))))
    assert found["snip is the derivative in the mask"] == "methods/test_scorers.py"
    assert "grasp is a finite difference of gradients" not in found


def test_unknown_results_are_shown_without_a_word(generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = importlib.import_module("_results")
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text("| a | b |\n|---|---|\n")
    (tmp_path / "results" / "new.json").write_text('{"what": "a test", "rows": [{"x": 1, "y": 0.51234}, {"x": 20000}]}')
    (tmp_path / "results" / "raw.csv").write_text("method,sparsity,seed,test_accuracy\nsnip,0.9,0,0.5\nsnip,0.9,1,0.7\n")
    for name, value in {"ROOT": tmp_path, "BENCHMARKS": tmp_path, "RESULTS": tmp_path / "results"}.items():
        monkeypatch.setattr(results, name, value)
    page = results.benchmark_pages()
    assert "| 20,000 |  |" in page
    assert "| 1 | 0.512 |" in page
    assert "| snip | 0.9 | 2 | 0.6 | 0.14 |" in page


@pytest.mark.parametrize("inherit", [False, True])
def test_the_formulas_are_what_is_sent(generate: ModuleType, inherit: bool) -> None:
    scaling = importlib.import_module("_scaling")
    problem = Problem("mlp:300", "digits")
    mask, parent = (random_mask(problem.space, sparsity=0.5, seed=seed) for seed in range(2))
    trained = Trained.of(Population(problem, [parent], horizon=1, engine="sparse").parameters, 0)
    sent = len(pickle.dumps(Job(Key(mask.hash), mask, trained if inherit else None)))
    others = sum(value.nbytes for value in trained.others.values()) if inherit else 0
    assert scaling.job_bytes(mask.count, inherit=inherit) == pytest.approx(sent - others, abs=3000)
    assert scaling.survivors(10**9, 0.98) == 20_000_000


def test_no_code_for_masks_beats_the_bound(generate: ModuleType) -> None:
    from math import comb, log2

    scaling = importlib.import_module("_scaling")
    assert scaling.bound_bytes(4000, 200) == pytest.approx(log2(comb(4000, 200)) / 8, rel=0.01)
    assert scaling.plan(1000, 1000, 16) == (1, 1000, 1)
    assert scaling.plan(16000, 100, 16) == (16, 1000, 10)


def test_a_measured_table_is_shown_where_there_is_one(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling = importlib.import_module("_scaling")
    monkeypatch.setattr(scaling, "RESULTS", tmp_path)
    assert "No measurement" in scaling.measured()
    row = {"executor": "ray", "workers": 2, "chunk": 16, "first_s": 9.0, "then_s": 2.5, "overhead_s": 0.5, "speed_up": 1.6}
    sizes = {"survivors": 5324, "mask_bytes": 21700, "inherited_bytes": 70000, "lineage_bytes": 200, "line_bytes": 900}
    found = {"what": "32 masks", "command": "python x.py", "machine": "here", "rows": [row]}
    (tmp_path / "scaling.json").write_text(json.dumps({**found, "bytes": {**sizes, "problem_bytes": 1_100_000}}))
    page = scaling.measured()
    assert "| ray | 2 | 16 | 9 | 2.5 | 0.5 | 1.6 |" in page
    assert "| a mask | 21,700 | 21,296 |" in page
    assert "1.1 MB" in page


def test_every_page_is_in_the_navigation() -> None:
    listed = (DOCS.parent / "mkdocs.yml").read_text()
    assert [page for page in PAGES if f"{page.relative_to(DOCS).as_posix()}\n" not in listed] == []


def test_links_between_pages_lead_somewhere(generate: ModuleType) -> None:
    made = {*generate.reference_pages(), *generate.verified_pages()}
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)", page.read_text()):
            path = (page.parent / target).resolve()
            if not path.exists() and str(path.relative_to(DOCS)) not in made:
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_the_reference_has_what_a_user_types(generate: ModuleType) -> None:
    text = "\n".join(generate.reference_pages().values())
    for name in (
        "problems.problem.Problem",
        "training.population.Population",
        "evolution.toolbox.make_toolbox",
        "runs.results.load_runs",
    ):
        assert f"::: evoprune.{name}\n" in text
