"""A table of named functions that a decorator fills; command line, docs, contract tests and benchmarks read it."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Generic, TypeVar

from evoprune.errors import InputError, UnknownName

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names to values of one kind; an unknown name raises `UnknownName` with the nearest known one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register `entry` under `name`. Raises `InputError` if the name is taken by something else.

        A function that is defined anew, as by a cell of a notebook that is run again or a reloaded module, takes its own place.
        """
        if name in self._entries and (_home(entry) is None or _home(entry) != _home(self._entries[name])):
            raise InputError(f"the {self.kind} {name!r} is registered already: choose another name")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of `add`."""
        return lambda entry: self.add(name, entry)

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise UnknownName(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"{self.kind}s: {', '.join(self._entries)}"


def _home(entry: object) -> tuple[str, str] | None:
    """Module and name of the function that was registered, alone or as the first function of a record; None for other things."""
    for part in (entry, *getattr(entry, "__dict__", {}).values()):
        if inspect.isfunction(part) or inspect.isclass(part):
            return part.__module__, part.__qualname__
    return None


def source_of(function: Callable[..., Any]) -> str | None:
    """As in "source 1a2b3c4d", another one for another program; comments, docstrings, layout and decorators do not count.

    None for what belongs to the package, whose version tells the same, and where there is no source.
    """
    function = inspect.unwrap(function)
    if str(function.__module__).partition(".")[0] == __name__.partition(".")[0]:
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            node.decorator_list = []
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return f"source {hashlib.blake2b(ast.unparse(tree).encode(), digest_size=4).hexdigest()}"


def one_of(kind: str, value: str, choices: Sequence[str]) -> str:
    """`value` if it is one of `choices`, else `UnknownName` with the nearest one."""
    if value not in choices:
        raise UnknownName(kind, value, choices)
    return value


class _Table(ModuleType):
    """A module that can be read like the registry it holds."""

    _table: Registry[Any]

    def __getitem__(self, name: str) -> Any:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table


def as_table(module: str, registry: Registry[Any]) -> None:
    """Let the module called `module` be subscripted, so that `evoprune.methods["kstarts"]` works though it is a package."""
    holder = sys.modules[module]
    holder.__class__ = _Table
    holder.__dict__["_table"] = registry
