"""The programs of a user's functions and classes: one that is written anew is another, and what it gave is not its own."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

__all__ = ["program_of", "rewritten"]

PYTHON = f" of Python {sys.version_info.major}.{sys.version_info.minor}"


def rewritten(before: Mapping[str, str] | None, now: Mapping[str, str] | None) -> list[str]:
    """Names in both whose programs differ; those that other Pythons compiled cannot be compared."""
    held, found = before or {}, now or {}
    return [
        name for name, own in found.items() if own.endswith(PYTHON) and held.get(name, "").endswith(PYTHON) and held[name] != own
    ]


def program_of(thing: Any) -> str | None:
    """As in "code 1a2b3c4d of Python 3.11", for a function as it runs, or all functions of a class and those it is made from.

    Comments, docstrings and layout do not count. What a function calls, and values that it finds, are not seen. None for what
    is this package's, Python's or torch's, and where there is no function.
    """
    functions = _functions_of(thing) if isinstance(thing, type) else _unwrapped(thing)
    text = "\n".join(line for function in functions for line in _lines(function))
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


def _lines(function: FunctionType) -> Iterator[str]:
    yield _told([function.__defaults__, sorted((function.__kwdefaults__ or {}).items())])
    yield from _steps(function.__code__)


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
    plain = value is None or value is ... or isinstance(value, int | float | complex | str | bytes)
    return repr(value) if plain else type(value).__qualname__
