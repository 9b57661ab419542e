"""The programs of a user's functions and classes: one that is written anew is another, and what it gave is not its own."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CellType, CodeType, EllipsisType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

__all__ = ["program_of", "rewritten"]

PLAIN = (bool, int, float, complex, str, bytes, tuple, frozenset)
"""What nobody can change."""
TOLD_BY_PYTHON = {"__doc__", "__firstlineno__", "__module__", "__qualname__", "__static_attributes__"}
"""What the body of a class is given besides what stands in it."""
PYTHON = f" of Python {sys.version_info.major}.{sys.version_info.minor}"


def rewritten(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Whose programs differ, as in "f and Net as it was written then"; those that other Pythons compiled cannot be compared."""
    names = [
        name
        for name, own in now.items()
        if own.endswith(PYTHON) and before.get(name, "").endswith(PYTHON) and before[name] != own
    ]
    return f"{' and '.join(names)} as it was written then" if names else ""


def program_of(thing: Any) -> str | None:
    """As in "code 1a2b3c4d of Python 3.11", for a function as it runs, or what stands in a class and those it is made from.

    With it goes what it names in its module, in a user's other modules and around it: functions, classes, values around it, and
    constants (in capitals) that nobody can change; not what is installed, nor what else it reads. Comments, docstrings and layout
    do not count. None for what is this package's, Python's or torch's, and where there is no function.
    """
    text = "\n".join(_lines(thing))
    return f"code {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}{PYTHON}" if text else None


def _lines(thing: Any) -> Iterator[str]:
    todo, known = deque([thing]), {}
    while todo:
        part = todo.popleft()
        if id(part) in known:
            continue
        known[id(part)] = part  # held, so that nothing else gets its id
        found: Iterable[Any] = ()
        if isinstance(part, type):
            lines, found = _class(part)
            yield from lines
        elif not isinstance(part, FunctionType):
            found = _inside(part)
        elif _outside(part):
            lines, found = _function(part)
            yield from lines
        todo += [one for one in found if not (isinstance(one, FunctionType | type) and _installed(one))]


def _inside(thing: Any) -> list[Any]:
    """The functions that make up what can be called or stands in a class."""
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, property):
        return [thing.fget, thing.fset]
    if isinstance(thing, staticmethod | classmethod | MethodType):
        return [thing.__func__]
    if isinstance(thing, functools.cached_property | functools.partialmethod):
        return [thing.func]
    return [inspect.getattr_static(thing, "__wrapped__", None)]


def _class(owner: type) -> tuple[list[str], list[Any]]:
    """What a class says of itself, but for what its functions change, and what else belongs to it."""
    lines: list[str] = []
    found: list[Any] = []
    for part in filter(_outside, owner.__mro__):
        members = {str(name): member for name, member in vars(part).items()}
        functions = {name: member for name, member in members.items() if isinstance(member, FunctionType)}
        changed = {name for member in functions.values() for name in _names(member.__code__).set}
        for name in sorted(members):
            if name in functions:
                lines.append(name)
                found.append(members[name])
            elif type(members[name]) not in PLAIN and not name.startswith("__"):
                found.append(members[name])
            elif not name.startswith("_") and name not in changed:
                lines.append(f"{name} = {_told(members[name])}")
    return lines, found


def _function(function: FunctionType) -> tuple[list[str], list[Any]]:
    """What a function does and finds by name, and what that is."""
    code, names = function.__code__, _names(function.__code__)
    defaults = [*(function.__defaults__ or ()), *(value for _, value in sorted((function.__kwdefaults__ or {}).items()))]
    lines = [_told(defaults), *_steps(code)]
    found = [inspect.getattr_static(function, "__wrapped__", None), *defaults]
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    for name in sorted(names.read - names.assigned):
        around = name in cells
        value = _content(cells[name]) if around else function.__globals__.get(name)
        if isinstance(value, ModuleType):
            own = vars(value) if _outside(value) and not _installed(value) else {}
            named = {one: own[one] for one in sorted(names.attributes) if one in own}
        else:
            named = {name: value}
        for one, held in named.items():
            if type(held) in PLAIN:
                lines += [f"{one} = {_told(held)}"] if around or (one.isupper() and one[0] != "_") else []
            elif callable(held):
                lines.append(f"{one} is {_described(held)}")
                found.append(held)
    return lines, found


@dataclass
class _Names:
    """Names outside of a function that it reads and assigns, and attributes that it reads and sets."""

    read: set[str] = field(default_factory=set)
    assigned: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    set: set[str] = field(default_factory=set)


def _names(code: CodeType) -> _Names:
    names, todo = _Names(), [code]
    kinds = {
        **dict.fromkeys(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"), names.read),
        **dict.fromkeys(("STORE_GLOBAL", "STORE_DEREF"), names.assigned),
        **dict.fromkeys(("LOAD_ATTR", "LOAD_METHOD"), names.attributes),
        "STORE_ATTR": names.set,
    }
    while todo:
        for step in dis.get_instructions(todo.pop()):
            if isinstance(step.argval, CodeType):
                todo.append(step.argval)
            elif step.opname in kinds and not str(step.argval).startswith("__"):
                kinds[step.opname].add(step.argval)
    return names


def _steps(code: CodeType) -> list[str]:
    named, kinds = code.co_argcount + code.co_kwonlyargcount, code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    lines = [_told([code.co_varnames[:named], code.co_posonlyargcount, code.co_kwonlyargcount, kinds])]
    for step in dis.get_instructions(code):  # of which neither lines nor docstrings are a part
        if isinstance(step.argval, CodeType):
            lines += _steps(step.argval)
        elif step.opname == "STORE_NAME" and step.argval in TOLD_BY_PYTHON:
            lines.pop()  # what was loaded for it
        else:
            lines.append(f"{step.opname} {_told(step.argval)}")
    return lines


def _told(value: Any) -> str:
    """The same in every process."""
    kind = type(value)
    if kind in (list, tuple):
        return f"[{', '.join(_told(inner) for inner in value)}]"
    if kind is frozenset:
        return f"{{{', '.join(sorted(_told(inner) for inner in value))}}}"
    if kind is int:
        return hex(value)  # of any size
    return repr(value) if kind in (*PLAIN, NoneType, EllipsisType) else kind.__qualname__


def _described(called: Any) -> str:
    if isinstance(called, functools.partial):
        given = [*called.args, *(part for pair in sorted(called.keywords.items()) for part in pair)]
        return f"{_described(called.func)} of {_told(given)}"
    return str(getattr(called, "__qualname__", type(called).__qualname__))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _outside(thing: FunctionType | type | ModuleType) -> bool:
    """Whether it is neither this package's nor Python's nor torch's, whose versions tell the same."""
    if isinstance(thing, FunctionType):
        home = thing.__globals__.get("__name__")  # its __module__ may have been set
    else:
        home = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", "")
    package = str(home).partition(".")[0]
    return package not in (__name__.partition(".")[0], "torch") and package not in sys.stdlib_module_names


def _installed(thing: FunctionType | type | ModuleType) -> bool:
    """Whether it lies in a package of an environment."""
    if isinstance(thing, type):
        return any(_installed(member) for member in vars(thing).values() if isinstance(member, FunctionType))
    file = thing.__code__.co_filename if isinstance(thing, FunctionType) else str(getattr(thing, "__file__", ""))
    return "site-packages" in file or "dist-packages" in file
