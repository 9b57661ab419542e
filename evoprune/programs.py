"""The programs of a user's functions and classes: one that is written anew is another, and what it gave is not its own."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from types import CellType, CodeType, FunctionType
from typing import Any

__all__ = ["program_of", "rewritten"]

PLAIN = (int, float, complex, str, bytes, tuple, frozenset)
"""What nobody can change."""
PYTHON = f" of Python {sys.version_info.major}.{sys.version_info.minor}"


def rewritten(before: Mapping[str, str] | None, now: Mapping[str, str] | None) -> list[str]:
    """Names in both whose programs differ; those that other Pythons compiled cannot be compared."""
    held, found = before or {}, now or {}
    return [
        name for name, own in found.items() if own.endswith(PYTHON) and held.get(name, "").endswith(PYTHON) and held[name] != own
    ]


def program_of(thing: Any) -> str | None:
    """As in "code 1a2b3c4d of Python 3.11", for a function as it runs, or all functions of a class and those it is made from.

    With it goes what it finds by name in its module and around it: numbers, texts, and functions and classes that are not of an
    installed package; what else it reads is not seen. Comments, docstrings and layout do not count. None for what is this
    package's, Python's or torch's, and where there is no function.
    """
    text = "\n".join(_lines(thing, set()))
    return f"code {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}{PYTHON}" if text else None


def _outside(thing: Any) -> bool:
    """Whether a function or class is neither this package's nor Python's nor torch's, whose versions tell the same."""
    home = thing.__globals__.get("__name__") if isinstance(thing, FunctionType) else thing.__module__
    package = str(home).partition(".")[0]
    return package not in (__name__.partition(".")[0], "torch") and package not in sys.stdlib_module_names


def _functions_of(owner: type) -> Iterator[FunctionType]:
    for part in owner.__mro__:
        for _, member in sorted(vars(part).items()) if _outside(part) else ():
            if isinstance(member, staticmethod | classmethod):
                yield from _unwrapped(member.__func__)
            elif isinstance(member, functools.cached_property | functools.partialmethod):
                yield from _unwrapped(member.func)
            elif isinstance(member, property):
                yield from (*_unwrapped(member.fget), *_unwrapped(member.fset))
            else:
                yield from _unwrapped(member)


def _unwrapped(thing: Any) -> Iterator[FunctionType]:
    """A function of a user's, and those that it decorates."""
    seen: set[int] = set()
    while thing is not None and id(thing) not in seen:
        seen.add(id(thing))
        if isinstance(thing, FunctionType) and _outside(thing):
            yield thing
        thing = inspect.getattr_static(thing, "__wrapped__", None)


def _lines(thing: Any, seen: set[int]) -> Iterator[str]:
    for function in _functions_of(thing) if isinstance(thing, type) else _unwrapped(thing):
        if id(function) not in seen:
            seen.add(id(function))
            yield _told([function.__defaults__, sorted((function.__kwdefaults__ or {}).items())])
            yield from _steps(function.__code__)
            yield from _found(function, seen)


def _found(function: FunctionType, seen: set[int]) -> Iterator[str]:
    """What a function finds by name in its module and around it, but for what it assigns itself."""
    read, assigned = _names(function.__code__)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    around = {name: cell.cell_contents for name, cell in cells.items() if _filled(cell)}
    for name in sorted(read - assigned):
        value = around[name] if name in around else function.__globals__.get(name)
        if isinstance(value, FunctionType | type):
            if not _installed(value):
                yield from (f"{name}: {line}" for line in _lines(value, seen))
        elif isinstance(value, PLAIN):
            yield f"{name} = {_told(value)}"


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """Names of a module or around a function that it reads, and that it assigns."""
    read: set[str] = set()
    assigned: set[str] = set()
    for step in dis.get_instructions(code):
        if isinstance(step.argval, CodeType):
            inner = _names(step.argval)
            read, assigned = read | inner[0], assigned | inner[1]
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"):
            read.add(step.argval)
        elif step.opname in ("STORE_GLOBAL", "STORE_DEREF"):
            assigned.add(step.argval)
    return read, assigned


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _installed(thing: FunctionType | type) -> bool:
    """Whether it is of a package in an environment."""
    file = getattr(sys.modules.get(str(thing.__module__)), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _steps(code: CodeType) -> Iterator[str]:
    named, kinds = code.co_argcount + code.co_kwonlyargcount, code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    yield _told([code.co_varnames[:named], code.co_posonlyargcount, code.co_kwonlyargcount, kinds])
    for step in dis.get_instructions(code):  # of which neither lines nor docstrings are a part
        if isinstance(step.argval, CodeType):
            yield from _steps(step.argval)
        else:
            yield f"{step.opname} {_told(step.argval)}"


def _told(value: Any) -> str:
    """The same in every process."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_told(inner) for inner in value)}]"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(_told(inner) for inner in value))}}}"
    return repr(value) if value is None or value is ... or isinstance(value, PLAIN) else type(value).__qualname__
