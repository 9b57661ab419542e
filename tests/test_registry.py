"""The tables of named functions: what is defined anew takes its place, and another program is known by its source."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import evoprune as ep
from evoprune import runs
from evoprune.compare import compare
from evoprune.errors import InputError
from evoprune.methods import METHODS
from evoprune.methods.scorers import SCORERS
from evoprune.registry import Registry, one_of, source_of
from tests.tiny import mlp

SOURCE = """
def mine(x):
    '''Says so.'''
    return x + 1  # not 2
"""
METHOD = """
import evoprune as ep

@ep.method(reference="nobody")
def written_here(problem, *, sparsity=0.5, epochs=1, seed=0, **training):
    '''Random.'''
    return ep.methods["random"](problem, sparsity=sparsity, epochs=epochs, seed=seed + 0, **training)
"""
SCORER = """
import evoprune as ep

@ep.scorer(reference="nobody", needs="nothing")
def scored_here(probe):
    '''One each.'''
    return {name: weight * 0 + 1 for name, weight in probe.weights.items()}
"""


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """As they were."""
    before = [(table, dict(table)) for table in (METHODS, SCORERS)]
    yield
    for table, entries in before:
        table._entries.clear()
        table._entries.update(entries)


NUMBERS = itertools.count()


def loaded(path: Path, text: str) -> ModuleType:
    """A module of that text, always of one name, from a file of another name each time, which no cache knows."""
    path = path / f"file{next(NUMBERS)}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("mine_alone", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_function_that_is_defined_anew_takes_its_own_place() -> None:
    table: Registry[Callable[[], int]] = Registry("thing")

    def define(number: int) -> Callable[[], int]:
        def same() -> int:
            return number

        return same

    def other() -> int:
        return 3

    table.add("same", define(1))
    table.add("next", other)
    table.add("same", define(2))
    assert [entry() for entry in table.values()] == [2, 3]
    with pytest.raises(InputError, match="registered already"):
        table.add("same", other)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (SOURCE.replace("  # not 2", ""), True),
        (SOURCE.replace("Says so.", "Says it."), True),
        (SOURCE.replace("    '''Says so.'''\n", ""), True),
        (SOURCE.replace("x + 1", "x+1"), True),
        (SOURCE.replace("def mine", "@staticmethod\ndef mine"), True),
        (SOURCE.replace("x + 1", "x + 2"), False),
        (SOURCE.replace("mine(x)", "mine(x=1)"), False),
    ],
)
def test_a_functions_source_is_known_by_what_it_does(tmp_path: Path, text: str, same: bool) -> None:
    first, second = (source_of(loaded(tmp_path, one).mine) for one in (SOURCE, text))
    assert str(first).startswith("source ")
    assert (first == second) is same


def test_what_belongs_to_the_package_or_shows_no_source_has_none_of_its_own() -> None:
    assert source_of(one_of) is None
    assert source_of(eval("lambda: 1", {"__name__": "mine"})) is None
    assert {entry.source for entry in METHODS.values()} == {None}


def test_runs_of_a_method_that_was_written_anew_are_not_taken_for_its_own(tmp_path: Path) -> None:
    problem, asked = mlp(), {"sparsity": 0.5, "epochs": 1, "engine": "loop", "batch_size": 18}
    loaded(tmp_path, METHOD)
    found = runs.run("written_here", problem, out=tmp_path / "run", **asked)
    compare(["written_here"], problem, sparsities=[0.5], seeds=1, out=tmp_path / "all", workers=1, epochs=1, engine="loop")
    assert found["arguments"]["versions"]["written_here"] == METHODS["written_here"].source
    loaded(tmp_path, METHOD.replace("Random.", "As random."))
    assert runs.run("written_here", problem, out=tmp_path / "run", **asked) == found, "a docstring is no program"
    loaded(tmp_path, METHOD.replace("seed + 0", "seed + 1"))
    with pytest.raises(InputError, match=r"run holds another run \(of written_here as it was written then\): choose another"):
        runs.run("written_here", problem, out=tmp_path / "run", **asked)
    with pytest.raises(InputError, match="as it was written then"):
        compare(["written_here"], problem, sparsities=[0.5], seeds=1, out=tmp_path / "all", workers=1, epochs=1, engine="loop")


def test_a_scorer_is_written_anew_too_and_never_takes_anothers_name(tmp_path: Path) -> None:
    loaded(tmp_path, SCORER)
    first = METHODS["scored_here"].source
    loaded(tmp_path, SCORER.replace("* 0 + 1", "* 0 + 2"))
    assert None not in (first, METHODS["scored_here"].source)
    assert first != METHODS["scored_here"].source
    ticket = ep.methods["scored_here"](mlp(), sparsity=0.5, epochs=1, batch_size=18, engine="loop")
    assert ticket.provenance["versions"]["scored_here"] == METHODS["scored_here"].source
    snip = METHODS["snip"]
    with pytest.raises(InputError, match="'snip' is registered already"):
        loaded(tmp_path, SCORER.replace("scored_here", "snip"))
    assert METHODS["snip"] is snip
