"""One family of exceptions, whose messages say what to do, in one line."""

from __future__ import annotations

import pickle

import pytest

from evoprune import errors
from evoprune.errors import DamagedFile, EvopruneError, InputError, TestSplitLocked, TrainingFailed, UnknownName
from evoprune.registry import Registry, one_of


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_of_the_family(name: str) -> None:
    assert issubclass(getattr(errors, name), EvopruneError)


def test_a_users_mistake_is_told_from_a_run_that_failed() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(UnknownName, InputError)
    assert issubclass(DamagedFile, InputError)
    assert not issubclass(TrainingFailed, InputError)
    assert not issubclass(TestSplitLocked, InputError)


@pytest.mark.parametrize(
    ("name", "hint"), [("kstart", "did you mean 'kstarts'? "), ("zzz", ""), (3, ""), (None, ""), ("KSTARTS", "")]
)
def test_an_unknown_name_suggests_the_nearest_and_lists_all(name: object, hint: str) -> None:
    message = str(UnknownName("method", name, ["random", "kstarts"]))
    assert message == f"unknown method {name!r}: {hint}choose from kstarts, random"


def test_errors_cross_processes() -> None:
    again = pickle.loads(pickle.dumps(UnknownName("method", "kstart", ["kstarts"])))
    assert str(again) == str(UnknownName("method", "kstart", ["kstarts"]))
    assert again.known == ["kstarts"]
    assert str(pickle.loads(pickle.dumps(InputError("one line")))) == "one line"


def test_a_registry_is_a_read_only_table_that_refuses_doubles_and_strangers() -> None:
    table: Registry[int] = Registry("thing")
    table.add("one", 1)
    assert table["one"] == 1
    assert dict(table) == {"one": 1}
    assert "one" in table
    assert 1 not in table
    with pytest.raises(InputError, match="registered already"):
        table.add("one", 2)
    for stranger in ("two", ["one"], None):
        with pytest.raises(UnknownName):
            table[stranger]  # type: ignore[index]
    with pytest.raises(TypeError):
        table["two"] = 2  # type: ignore[index]


def test_one_of_gives_the_value_or_the_nearest_name() -> None:
    assert one_of("order", "together", ("together", "apart")) == "together"
    with pytest.raises(UnknownName, match="did you mean 'together'"):
        one_of("order", "togehter", ("together", "apart"))
