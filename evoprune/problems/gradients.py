"""Tensors that can be trained whatever mode the caller is in: under `torch.no_grad` and `torch.inference_mode` too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch

__all__ = ["always_trainable", "trainable"]

Class = TypeVar("Class", bound=type)


@contextmanager
def trainable() -> Iterator[None]:
    """Run a block, or as a decorator a function, with gradients; the tensors it makes can be trained later too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def always_trainable(made: Class) -> Class:
    """Decorate a class: its constructor and its public methods run as `trainable`."""
    for name, function in list(vars(made).items()):
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            setattr(made, name, _always(function))
    return made


def _always(function: Callable[..., Any]) -> Callable[..., Any]:
    changed = trainable()(function)

    @wraps(function)
    def always(*args: Any, **options: Any) -> Any:
        usual = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()  # asked in every step: changing it takes longer
        return (function if usual else changed)(*args, **options)

    return always
