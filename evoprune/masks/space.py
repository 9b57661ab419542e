"""The mask space: names and shapes of the prunable tensors of one model, and the budget of survivors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from functools import cached_property
from math import prod

from torch import nn
from torch.nn.parameter import UninitializedParameter

from evoprune.errors import InputError

__all__ = ["MaskSpace", "check_sparsity"]

PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_sparsity(sparsity: object) -> Decimal:
    """`sparsity` as an exact decimal in [0, 1), or `InputError`."""
    try:
        exact = Decimal(str(sparsity))
    except InvalidOperation:
        exact = Decimal("NaN")
    if isinstance(sparsity, bool) or not exact.is_finite() or not 0 <= exact < 1:
        raise InputError(f"sparsity {sparsity!r} is not usable: give a number in [0, 1), 0.95 keeps 5% of the weights")
    return exact


@dataclass(frozen=True)
class MaskSpace:
    """Names and shapes of the prunable tensors of a model, in the order of its parameters.

    names: parameter names, as in `model.named_parameters()`; a tied weight counts once, under its first name.
    shapes: their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("nothing to prune: the model has no trainable weight of a Linear or Conv layer")
        if len(self.names) != len(self.shapes):
            raise InputError(f"{len(self.names)} names but {len(self.shapes)} shapes: give one shape a name")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if 0 in shape:
                raise InputError(f"{name!r} of shape {shape} has no weights: leave it out")

    @classmethod
    def of(cls, model: nn.Module) -> MaskSpace:
        """The weights of the Linear and Conv layers of `model` that are trained (`requires_grad`) and not empty."""
        if not isinstance(model, nn.Module):
            raise InputError(f"{type(model).__name__} is not a torch.nn.Module: give the model itself")
        found: dict[int, tuple[str, tuple[int, ...]]] = {}
        first = {id(parameter): name for name, parameter in model.named_parameters()}  # a tied weight's first name
        for prefix, module in model.named_modules():
            weight = module._parameters.get("weight")  # `module.weight` of a parametrized layer computes, and may change it
            if isinstance(module, PRUNABLE) and weight is not None:
                if isinstance(weight, UninitializedParameter):
                    raise InputError(f"the lazy layer {prefix!r} has no weights yet: run the model once on a batch before")
                if weight.requires_grad and weight.numel():
                    found.setdefault(id(weight), (first[id(weight)], tuple(weight.shape)))
        return cls(tuple(name for name, _ in found.values()), tuple(shape for _, shape in found.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of weights of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def prunable(self) -> int:
        """Number of prunable weights in all."""
        return sum(self.sizes)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of each name."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of names and shapes."""
        return hashlib.sha256(repr((self.names, self.shapes)).encode()).hexdigest()[:32]

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[type[MaskSpace], tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]]:
        return type(self), (self.names, self.shapes)  # cached properties stay behind

    def budget(self, sparsity: float | str | Decimal) -> int:
        """Survivors asked for: floor((1 - sparsity)·N + 1/2), in exact decimal arithmetic.

        Raises `InputError` unless 0 <= sparsity < 1.
        """
        exact = (1 - check_sparsity(sparsity)) * self.prunable + Decimal("0.5")
        return int(exact.to_integral_value(rounding=ROUND_FLOOR))
