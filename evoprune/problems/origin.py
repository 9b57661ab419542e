"""Where a problem's module comes from, and how another seed draws it again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problems.files import first_line
from evoprune.problems.models import find_model, he_normal_

__all__ = ["Built", "Given", "Named", "Origin", "shapes_of"]


@dataclass(frozen=True)
class Named:
    """A registered model: He-normal weights, zero biases."""

    name: str
    inputs: tuple[int, ...]
    outputs: int

    def draw(self, seed: int) -> nn.Module:
        """A new module with the weights of `seed`."""
        with _drawing(seed):  # torch's layers draw weights when they are made; these are drawn over
            module = find_model(self.name).build(self.inputs, self.outputs)
        return he_normal_(module, seeds.torch_generator(seed, "weights"))


@dataclass(frozen=True, eq=False)
class Built:
    """A user's callable, called with the global generators seeded and float32 as torch's default type."""

    builder: Callable[[], nn.Module]

    @property
    def name(self) -> str:
        """The callable's name."""
        return str(getattr(self.builder, "__name__", type(self.builder).__name__))

    def draw(self, seed: int) -> nn.Module:
        """What the callable builds for `seed`. Raises `InputError` when it fails or gives no module."""
        with _drawing(seed):
            try:
                module = self.builder()
            except Exception as error:
                what = first_line(error)
                raise InputError(f"the model builder {self.name} fails ({what}): it is called without arguments") from error
        if not isinstance(module, nn.Module):
            raise InputError(f"the model builder {self.name} gives {type(module).__name__}: return a torch.nn.Module")
        return own_copy(module, "build it with torch.nn.utils.parametrizations, or as copy.deepcopy takes it")


@dataclass(frozen=True, eq=False)
class Given:
    """A user's module, with the weights it has, whatever the seed."""

    module: nn.Module

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self.module).__name__

    def draw(self, seed: int) -> nn.Module:
        """A copy of the module."""
        return own_copy(self.module)


Origin = Named | Built | Given


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Run a block that builds a module for `seed`: what it draws depends on nothing that a process has set."""
    before = torch.get_default_dtype()
    with seeds.isolated(seed, "model"):
        torch.set_default_dtype(torch.float32)  # the same seed draws other numbers in another type
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def own_copy(module: nn.Module, otherwise: str = "give a callable that builds it") -> nn.Module:
    """A copy on the CPU in float32 that shares nothing with `module`, in the same mode.

    Raises `InputError`, which says what to do `otherwise`.
    """
    try:
        return copy.deepcopy(module).cpu().float()
    except Exception as error:
        raise InputError(f"the module {type(module).__name__} cannot be copied ({first_line(error)}): {otherwise}") from error


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters and buffers by name."""
    return {name: tuple(value.shape) for part in (module.named_parameters(), module.named_buffers()) for name, value in part}
