"""What a user writes: defined anew it takes its place, and another program is known for one."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

import evoprune as ep
from evoprune import runs
from evoprune.compare import compare
from evoprune.criteria import CRITERIA
from evoprune.errors import InputError
from evoprune.methods import METHODS
from evoprune.methods.scorers import SCORERS
from evoprune.problems.naming import programs_in
from evoprune.programs import program_of, rewritten
from evoprune.registry import Registry, one_of, programs
from tests.tiny import mlp, table

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
CRITERION = """
from evoprune.criteria import criterion

@criterion("min")
def judged_here(trace, masks):
    return trace.last("val_loss") + 0
"""
MODEL = """
import functools
from torch import nn

def fine(function):
    return function

class Base(nn.Module):
    def squash(self, x):
        return x.relu()

class Net(Base):
    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        self.act = held
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)

    @fine
    def forward(self, x, by=1.0):
        '''Two layers.'''
        return self.out(self.act(self.squash(self.inp(x)))) * by * self.gain

    @property
    def gain(self):
        return 1

def held(x):
    return x

def loss(outputs, targets, times):
    return nn.functional.cross_entropy(outputs, targets, reduction="none") * times * 1
own_loss = functools.partial(loss, times=1)
"""
ASKED = {"sparsity": 0.5, "epochs": 1, "engine": "loop", "batch_size": 18}


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """As they were."""
    before = [(one, dict(one)) for one in (METHODS, SCORERS, CRITERIA)]
    yield
    for held, entries in before:
        held._entries.clear()
        held._entries.update(entries)


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
        (f"# a line before\n{SOURCE}", True),
        (SOURCE.replace("  # not 2", ""), True),
        (SOURCE.replace("Says so.", "Says it."), True),
        (SOURCE.replace("    '''Says so.'''\n", ""), True),
        (SOURCE.replace("x + 1", "x+1"), True),
        (SOURCE.replace("    return", "#   x = 3\n    return"), True),
        (SOURCE.replace("    return", "    def inner():\n        '''Of no use.'''\n    return"), False),
        (SOURCE.replace("x + 1", "x + 2"), False),
        (SOURCE.replace("x + 1", "x - 1"), False),
        (SOURCE.replace("x + 1", "x + y"), False),
        (SOURCE.replace("mine(x)", "mine(x=1)"), False),
        (SOURCE.replace("mine(x)", "mine(*x)"), False),
    ],
)
def test_a_functions_program_is_known_by_what_it_does(tmp_path: Path, text: str, same: bool) -> None:
    first, second = (program_of(loaded(tmp_path, one).mine) for one in (SOURCE, text))
    assert re.fullmatch(r"code [0-9a-f]{8} of Python 3\.\d+", str(first))
    assert (first == second) is same


def test_a_program_is_the_same_in_every_process(tmp_path: Path) -> None:
    text = f"{MODEL}\nchosen = lambda x, *, k=('a', 2.5): x in {{'a', 'b', 'c'}} and [y for y in x]"
    here = loaded(tmp_path, text)
    names = "Net", "loss", "chosen"
    (tmp_path / "elsewhere.py").write_text(text)
    asked = f"from elsewhere import *; from evoprune.programs import *; print([program_of(one) for one in ({', '.join(names)})])"
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str([program_of(getattr(here, name)) for name in names])


def test_all_that_decorates_a_function_is_a_part_of_its_program(tmp_path: Path) -> None:
    text = "import functools\ndef by(f):\n    @functools.wraps(f)\n    def inner(x): return f(x) + 1\n    return inner\n"
    plain, cached, wrapped, other = (
        program_of(loaded(tmp_path, f"{one}def mine(x): return x").mine)
        for one in ("", "import functools\n@functools.cache\n", f"{text}@by\n", f"{text.replace('+ 1', '+ 2')}@by\n")
    )
    assert plain == cached, "a cache is Python's"
    assert len({plain, wrapped, other}) == 3


HELPED = """
import functools, math, numpy
from torch.nn import functional

SCALE, MODES, WEIGHTS, calls = 2.0, ("a", "b"), {"a": 1}, 0

def inner(x):
    return x + 1

def helper(x):
    return inner(x) * SCALE

class Power:
    def of(x):
        return x ** 2

def made(times):
    def own(x):
        return times * x
    return own

times = made(3)

def mine(x, mode="a"):
    global calls
    calls += 1
    if calls < 0:
        mine(x)
    return [helper(y) for y in Power.of(times(functional.relu(numpy.clip(x, 0, 1)))) if mode in MODES and WEIGHTS[mode]]
"""


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (HELPED.replace("calls = 2.0", "calls = 2.0 + 0"), True),
        (HELPED.replace('{"a": 1}, 0', '{"a": 1}, 7'), True),
        (HELPED.replace('{"a": 1}', '{"a": 2}'), True),
        (HELPED.replace("calls = 2.0", "calls = 2.5"), False),
        (HELPED.replace('("a", "b")', '("a", "c")'), False),
        (HELPED.replace("x + 1", "x - 1"), False),
        (HELPED.replace("inner(x) *", "inner(x) /"), False),
        (HELPED.replace("x ** 2", "x ** 3"), False),
        (HELPED.replace("made(3)", "made(4)"), False),
        (HELPED.replace("return times * x", "return times + x"), False),
    ],
)
def test_what_a_function_finds_around_it_is_a_part_of_its_program(tmp_path: Path, text: str, same: bool) -> None:
    """But for what it changes itself, what can be changed in place, and installed packages."""
    first, second = (loaded(tmp_path, one).mine for one in (HELPED, text))
    assert (program_of(first) == program_of(second)) is same
    before = program_of(first)
    first.__globals__["calls"], first.__globals__["numpy"] = 5, None
    assert program_of(first) == before


STATE = """
from functools import cache, partial
import numpy
count, _SCALE, TIMES = 0, None, 3
def bump(*_):
    global count, _SCALE
    count, _SCALE = count + 1, 2.0
    return 1
def steps():
    n = 0
    def step():
        nonlocal n
        n += 1
        return n
    return step
step = steps()
class Mine:
    made, by = 0, 2
    def __init__(self):
        Mine.made += 1
    def of(self, x):
        bump()
        class Inner:
            '''Says so.'''
            k = 1
        return x * Mine.by * TIMES * (count > 100) * (_SCALE or 1) * Inner.k * shared(x) * cached(x) * doubled(x) * step()
shared = partial(numpy.multiply, 2)
@cache
def cached(x):
    return x + 1
doubled = partial(bump, 2)
"""


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (STATE.replace("Says so.", "Says it."), True),
        (STATE.replace("count, _SCALE, TIMES = 0", "count, _SCALE, TIMES = 1"), True),
        (STATE.replace("made, by = 0", "made, by = 1"), True),
        (STATE.replace("made, by = 0, 2", "made, by = 0, 3"), False),
        (STATE.replace("None, 3", "None, 4"), False),
        (STATE.replace("k = 1", "k = 2"), False),
        (STATE.replace("x + 1", "x + 2"), False),
        (STATE.replace("partial(bump", "partial(cached"), False),
        (STATE.replace("partial(bump, 2", "partial(bump, 3"), False),
        (STATE.replace("numpy.multiply", "numpy.divide"), False),
        (STATE.replace("count + 1", "count + 2"), False),
    ],
)
def test_state_is_no_part_of_a_program(tmp_path: Path, text: str, same: bool) -> None:
    first, second = (loaded(tmp_path, one).Mine for one in (STATE, text))
    before = program_of(first)
    assert (before == program_of(second)) is same
    first().of(1)
    assert program_of(first) == before


def test_a_program_is_the_same_under_every_name_of_its_module() -> None:
    def of(name: str) -> str | None:
        module = ModuleType(name)
        exec(compile(STATE, name, "exec"), module.__dict__)
        return program_of(module.__dict__["Mine"])

    assert of("__main__") == of("__mp_main__") == of("mine_alone") is not None


def test_a_program_follows_a_users_other_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import own_helpers, numpy\ndef mine(x):\n    return own_helpers.act(numpy.clip(x, 0, 1)) * own_helpers.SCALE"
    found = []
    for helpers in ("def act(x): return x\nSCALE = 1", "def act(x): return -x\nSCALE = 1", "def act(x): return x\nSCALE = 2"):
        module = ModuleType("own_helpers")
        exec(helpers, module.__dict__)
        monkeypatch.setitem(sys.modules, "own_helpers", module)
        found.append(program_of(loaded(tmp_path, text).mine))
    assert len(set(found)) == 3


def test_a_program_may_be_of_any_size_and_shape(tmp_path: Path) -> None:
    def of(text: str, name: str) -> str | None:
        return program_of(getattr(loaded(tmp_path, text), name))

    long = "\n".join(f"def f{i}(x): return f{i + 1}(x)" for i in range(1500)) + "\ndef f1500(x): return f0(x)"
    assert of(long, "f0") is not None
    assert of(long, "f0") != of(long.replace("f1500(x): return", "f1500(x): return 2 *"), "f0")
    assert of("P = 2 ** 20_000\ndef f(x=2 ** 20_000): return x % P", "f") is not None
    assert of("class C:\n  locals()[1] = 2\n  def f(self): pass", "C") is not None
    plain = "class S(int):\n  __repr__ = object.__repr__\nX = S(3)\ndef f(): return X"
    assert of(plain, "f") == of(plain, "f")
    hidden = (
        "class M(type):\n  @property\n  def __module__(cls): raise AttributeError\nclass C(metaclass=M):\n  def f(self): pass"
    )
    assert of(hidden, "C") is not None


def test_the_programs_of_losses_are_those_of_what_they_call(tmp_path: Path) -> None:
    text = "import functools\nclass L:\n  def by(self, o, t): return o\n@functools.cache\ndef kept(o, t): return o\nby = L().by"
    module = loaded(tmp_path, text)
    layer = nn.Linear(2, 2)
    layer.forward = module.by
    for value, name in ((module.by, "L.by"), (module.kept, "kept"), (functools.partial(module.kept, 1), "kept"), (layer, "L.by")):
        assert list(programs_in(value)) == [name]
    assert list(programs_in(module.L())) == [], "nobody can call it"


def test_what_belongs_to_the_package_or_is_no_function_has_no_program() -> None:
    class Answers:
        def __getattr__(self, name: str) -> Any:
            return self

    things = (one_of, Registry, nn.Linear, nn.functional.relu, len, re.compile, Answers(), {}, None, functools.partial(len))
    assert [program_of(thing) for thing in things] == [None] * len(things)
    assert programs(list(METHODS), {"criterion": list(CRITERIA)}) == {}


def test_programs_that_other_pythons_compiled_are_not_compared() -> None:
    now = program_of(test_programs_that_other_pythons_compiled_are_not_compared)
    assert now is not None
    other = f"code 00000000{now[len('code 00000000') :]}"
    assert rewritten({"f": other, "g": now}, {"f": now, "g": now}) == "f as it was written then"
    assert rewritten({"f": other, "g": other}, {"f": now, "g": now}) == "f and g as it was written then"
    assert rewritten({"f": "code 00000000 of Python 2.7", "torch": "2.1"}, {"f": now, "torch": "2.2"}) == ""
    assert rewritten({}, {"f": now}) == rewritten({"f": now}, {}) == ""


def test_runs_of_a_method_that_was_written_anew_are_not_taken_for_its_own(tmp_path: Path) -> None:
    problem = mlp()
    loaded(tmp_path, METHOD)
    found = runs.run("written_here", problem, out=tmp_path / "run", **ASKED)
    compare(["written_here"], problem, sparsities=[0.5], seeds=1, out=tmp_path / "all", workers=1, epochs=1, engine="loop")
    assert found["arguments"]["versions"]["method written_here"].startswith("code ")
    loaded(tmp_path, METHOD.replace("Random.", "As random."))
    assert runs.run("written_here", problem, out=tmp_path / "run", **ASKED) == found, "a docstring is no program"
    loaded(tmp_path, METHOD.replace("seed + 0", "seed + 1"))
    with pytest.raises(InputError, match=r"run holds another run \(of method written_here as it was written then\): choose"):
        runs.run("written_here", problem, out=tmp_path / "run", **ASKED)
    with pytest.raises(InputError, match="as it was written then"):
        compare(["written_here"], problem, sparsities=[0.5], seeds=1, out=tmp_path / "all", workers=1, epochs=1, engine="loop")


def test_a_scorer_is_written_anew_too_and_never_takes_anothers_name(tmp_path: Path) -> None:
    loaded(tmp_path, SCORER)
    first = METHODS["scored_here"].versions({})["scorer scored_here"]
    loaded(tmp_path, SCORER.replace("* 0 + 1", "* 0 + 2"))
    second = METHODS["scored_here"].versions({})["scorer scored_here"]
    assert first != second
    ticket = ep.methods["scored_here"](mlp(), sparsity=0.5, epochs=1, batch_size=18, engine="loop")
    assert ticket.provenance["versions"]["scorer scored_here"] == second
    assert "method scored_here" not in ticket.provenance["versions"], "what wraps it is the package's"
    snip = METHODS["snip"]
    with pytest.raises(InputError, match="'snip' is registered already"):
        loaded(tmp_path, SCORER.replace("scored_here", "snip"))
    assert METHODS["snip"] is snip


def test_runs_and_journals_by_a_criterion_that_was_written_anew_are_not_taken_for_its_own(tmp_path: Path) -> None:
    problem = mlp()
    plain = {"criterion": "judged_here", "journal": tmp_path / "plain.jsonl"}
    raced = {"criterion": "judged_here", "journal": tmp_path / "raced.jsonl", "rungs": (1,)}

    def work() -> None:
        asked = {**ASKED, "k": 3, "selection_epochs": 1, "epochs": 2}
        runs.run("kstarts", problem, out=tmp_path / "run", criterion="judged_here", **asked)

    def evaluate(options: dict[str, Any]) -> None:
        toolbox = ep.make_toolbox(problem, **ASKED, **options)
        toolbox.map(toolbox.evaluate, toolbox.population(n=2))

    for text in (CRITERION, f"# the same\n{CRITERION}"):
        loaded(tmp_path, text)
        work()
        evaluate(plain)
        evaluate(raced)
    loaded(tmp_path, CRITERION.replace("+ 0", "+ 1"))
    with pytest.raises(InputError, match=r"another run \(of criterion judged_here as it was written then\)"):
        work()
    for options in (plain, raced):
        with pytest.raises(InputError, match=r"jsonl is of criterion judged_here as it was written then: go on with that, or"):
            evaluate(options)


@pytest.mark.parametrize(
    ("text", "anew"),
    [
        (MODEL.replace("Two layers.", "Layers."), None),
        (MODEL.replace("@fine", "# fine"), None),
        (MODEL.replace("x.relu()", "x.tanh()"), "Net"),
        (MODEL.replace("* by", "+ by"), "Net"),
        (MODEL.replace("by=1.0", "by=1.5"), "Net"),
        (MODEL.replace("return 1\n", "return 2\n"), "Net"),
        (MODEL.replace("return x\n", "return 2 * x\n"), "Net and held"),
        (MODEL.replace("* times * 1", "* times * 2"), "loss"),
    ],
)
def test_runs_and_journals_of_a_forward_or_a_loss_that_was_written_anew_are_not_taken_for_its_own(
    tmp_path: Path, text: str, anew: str | None
) -> None:
    def work(text: str) -> None:
        module = loaded(tmp_path, text)
        problem = ep.Problem(module.Net(), table(), loss=module.own_loss)
        ep.make_toolbox(problem, journal=tmp_path / "a.jsonl", **ASKED).map.journal.append([], engine="loop")
        runs.run("random", problem, out=tmp_path / "run", **ASKED)

    work(MODEL)
    if anew is None:
        work(text)
        return
    with pytest.raises(InputError, match=rf"jsonl is of {anew} as it was written then"):
        work(text)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(InputError, match=rf"another run \(of {anew} as it was written then\)"):
        work(text)


def test_a_comparison_of_a_model_that_was_written_anew_is_another(tmp_path: Path) -> None:
    def work(text: str, *methods: str, data: dict[str, Any] | None = None) -> None:
        problem = ep.Problem(loaded(tmp_path, text).Net, data or table())
        compare(methods, problem, sparsities=[0.5], seeds=1, out=tmp_path / "all", workers=1, epochs=1, engine="loop")

    work(MODEL, "random")
    work(f"\n{MODEL}", "random", "magnitude")
    with pytest.raises(InputError, match=r"another comparison \(of another model, other data or initial weights\)"):
        work(MODEL, "random", data=table(seed=1))
    for methods in (["random"], ["snip"]):
        with pytest.raises(InputError, match=r"another comparison \(of Net as it was written then\)"):
            work(MODEL.replace("x.relu()", "x.tanh()"), *methods)


def test_problems_tell_the_programs_of_a_user_alone(tmp_path: Path) -> None:
    assert "programs" not in ep.Problem("mlp:8").describe()
    module = loaded(tmp_path, MODEL)
    problem = ep.Problem(functools.partial(module.Net), table(), loss=module.own_loss)
    assert set(problem.describe()["programs"]) == {"Net", "held", "loss"}
    assert problem.with_seed(1).describe()["programs"] == problem.describe()["programs"]
