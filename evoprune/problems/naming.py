"""What a user's function is called: for people, and with the options it holds for fingerprints; and which program it is."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from enum import Enum
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.programs import program_of

__all__ = ["name_of", "programs_in", "with_options"]

Function = FunctionType | MethodType | type


def name_of(function: Any) -> str:
    """The name of a function, of what a partial calls, or of an object's class."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def with_options(value: Any, within: tuple[int, ...] = ()) -> str:
    """The name of a function with the options and values that it holds, or one of these; the same in every process.

    Held are the arguments of a partial, the public attributes of an object that can be called, a module's parameters,
    buffers and parts; of tensors a hash is taken. What a function finds by itself (a closure, a global) is not seen.
    within: ids of the objects that `value` was found in, which are not gone through again.
    """
    inner = (*within, id(value))
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{key!r}: {with_options(entry, inner)}' for key, entry in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(with_options(entry, inner) for entry in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(with_options(entry, inner) for entry in value))}}}"
    if isinstance(value, np.ndarray | Tensor):
        return _hash_of(value)
    if value is None or isinstance(value, int | float | complex | str | bytes | np.generic | Enum | torch.dtype | torch.device):
        return repr(value)
    if not callable(value) or hasattr(value, "__qualname__") or id(value) in within:
        return name_of(value)
    called = with_options(value.func, inner) if isinstance(value, functools.partial) else name_of(value)
    given, named = _held(value)
    told = [with_options(entry, inner) for entry in given] + [f"{key}={with_options(named[key], inner)}" for key in sorted(named)]
    return f"{called}({', '.join(told)})" if told else called


def _held(function: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Options without and with a name."""
    if isinstance(function, functools.partial):
        return function.args, function.keywords
    own = getattr(function, "__dict__", {})
    named = {name: value for name, value in own.items() if name != "training" and not name.startswith("_")}
    if isinstance(function, nn.Module):
        parts = (function.named_parameters(recurse=False), function.named_buffers(recurse=False), function.named_children())
        named |= {name: value for part in parts for name, value in part}
    return (), named


def programs_in(*values: Any) -> dict[str, str]:
    """Programs of a user's functions and classes by name: the values, what partials are made of, layers and what they hold."""
    found: dict[str, str] = {}
    for thing in {id(part): part for value in values for part in _parts_of(value)}.values():
        if program := program_of(thing):
            found[name_of(thing)] = "; ".join(filter(None, (found.get(name_of(thing)), program)))  # two may share a name
    return found


def _parts_of(value: Any) -> Iterator[Any]:
    if isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _parts_of(part)
    elif isinstance(value, nn.Module):
        for layer in value.modules():
            yield type(layer)
            yield from (held for held in vars(layer).values() if isinstance(held, Function))
    elif isinstance(value, Function) or inspect.getattr_static(value, "__wrapped__", None) is not None:
        yield value
    elif callable(value):
        yield type(value)


def _hash_of(values: Tensor | np.ndarray[Any, Any]) -> str:
    if isinstance(values, Tensor):
        data = values.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()
    else:
        data = repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
    return f"{values.dtype}{list(values.shape)}:{hashlib.blake2b(data, digest_size=8).hexdigest()}"
