"""Tensors that can be trained whatever mode the caller is in: under `torch.no_grad` and `torch.inference_mode` too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["always_trainable", "trainable"]

Class = TypeVar("Class", bound=type)


@contextmanager
def trainable() -> Iterator[None]:
    """Run a block, or as a decorator a function, with gradients; the tensors it makes can be trained later too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def always_trainable(*, but: Sequence[str] = ()) -> Callable[[Class], Class]:
    """Decorate a class: its constructor and its public methods run as `trainable`, `but` for those that every step calls."""

    def decorate(made: Class) -> Class:
        for name, function in list(vars(made).items()):
            public = inspect.isfunction(function) and not name.startswith("_") and name not in but
            if public or name == "__init__":
                setattr(made, name, trainable()(function))
        return made

    return decorate
