"""A table of named functions that a decorator fills; command line, docs, contract tests and benchmarks read it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Generic, TypeVar

from evoprune.errors import InputError, UnknownName
from evoprune.programs import program_of

T = TypeVar("T")

_TABLES: list[Registry[Any]] = []
"""Every table, each made once by its module."""


class Registry(Mapping[str, T], Generic[T]):
    """Names to values of one kind; an unknown name raises `UnknownName` with the nearest known one.

    by: what a user registers with.
    """

    def __init__(self, kind: str, *, by: str = "its decorator") -> None:
        self.kind, self._by = kind, by
        self._entries: dict[str, T] = {}
        _TABLES.append(self)

    def add(self, name: str, entry: T) -> T:
        """Register `entry` under `name`. Raises `InputError` if the name is taken by something else.

        A function that is defined anew, as by a cell of a notebook that is run again or a reloaded module, takes its own place.
        """
        own = _registered(entry)
        if name in self._entries and (own is None or _home(own) != _home(_registered(self._entries[name]))):
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
            if callable(name):
                told = f"{self.kind} {getattr(name, '__name__', name)!r} is given as a function"
                raise InputError(f"{told}: register it with {self._by}, and give its name") from None
            raise UnknownName(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"{self.kind}s: {', '.join(self._entries)}"


def _registered(entry: object) -> Any:
    """The function or class that was registered, alone or as the first one of a record; None for other things."""
    for part in (entry, *getattr(entry, "__dict__", {}).values()):
        if inspect.isfunction(part) or inspect.isclass(part):
            return part
    return None


def _home(registered: Any) -> tuple[str, str]:
    return getattr(registered, "__module__", ""), getattr(registered, "__qualname__", "")


def programs(*values: Any) -> dict[str, str]:
    """Programs of what a user registered under a text that is found in `values`, by kind and name as in "criterion mine"."""
    names = dict.fromkeys(_texts(values))
    entries = {f"{table.kind} {name}": table[name] for table in _TABLES for name in names if name in table}
    return {name: program for name, entry in entries.items() if (program := program_of(_registered(entry)))}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


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
