"""What a population starts with: the values of each network, what it cost to make them, and the memory that they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.errors import InputError, MaskMismatch
from evoprune.masks.mask import Mask
from evoprune.problems.files import first_line
from evoprune.problems.problem import Problem
from evoprune.training.initializers import INITIALIZERS
from evoprune.training.ledger import Ledger
from evoprune.training.options import Training
from evoprune.values import whole

__all__ = ["completed", "least_bytes", "starting_weights"]


class _Completed(Mapping[str, Tensor]):
    """Given values by name, and the problem's initial ones where none are given; made as they are read."""

    def __init__(self, given: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> None:
        self.given, self.initial = given, initial

    def __getitem__(self, name: str) -> Tensor:
        initial = self.initial[name]
        try:
            given = self.given[name]
        except KeyError:
            return initial
        value = _as_tensor(name, given, initial)
        if value.shape != initial.shape and value.shape != (initial.numel(),):
            raise InputError(
                f"weights of {name!r} have shape {tuple(value.shape)}, the model's {tuple(initial.shape)}: give that"
            )
        return value.reshape(initial.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.initial)

    def __len__(self) -> int:
        return len(self.initial)


def _as_tensor(name: str, given: object, initial: Tensor) -> Tensor:
    """A tensor or an array that a user gives, as one that can stand for `initial`."""
    try:
        value = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    except (TypeError, ValueError) as error:
        raise InputError(f"weights of {name!r} are no tensor ({first_line(error)}): give tensors or arrays of numbers") from None
    if value.is_complex() > initial.is_complex():
        raise InputError(f"weights of {name!r} are complex numbers, the model's are not: give real ones")
    return value if value.is_floating_point() == initial.is_floating_point() else value.to(initial.dtype)


def completed(problem: Problem, weights: Sequence[Mapping[str, Tensor]], networks: int) -> list[Mapping[str, Tensor]]:
    """The weights that a user gives, one mapping a network, with the problem's for every parameter and buffer that they lack.

    Raises `InputError` for another number of mappings, for names that the model has not, and for other shapes
    or what is no tensor.
    """
    if len(weights) != networks:
        raise InputError(f"{len(weights)} mappings of weights for {networks} individuals: give one each")
    initial, module = problem.initial_weights(), problem.module()
    held = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(value), name) for name, value in held}  # a tied one has several
    for own in weights:
        if unknown := [name for name in own if name not in names]:
            raise InputError(
                f"the model {problem.model_name!r} has no {unknown[0]!r}: give weights by the names of its parameters"
            )
    aliases = {name: found for name, found in names.items() if name != found}
    return [
        _Completed({**own, **{aliases[name]: own[name] for name in aliases if name in own}} if aliases else own, initial)
        for own in weights
    ]


def starting_weights(
    problem: Problem, masks: Sequence[Mask], training: Training
) -> tuple[list[dict[str, Tensor]], tuple[Ledger, ...]]:
    """Dense values by parameter name, one mapping a mask, as the options `init` and `own_weights` say, and what each cost."""
    costs = tuple(Ledger() for _ in masks)
    if training.own_weights:
        drawn = [seeds.derive(problem.seed, "start", position) for position in range(len(masks))]
        starts = [problem.initial_weights(seed) for seed in drawn]
        owners = [problem if training.init == "problem" else problem.with_seed(seed) for seed in drawn]
    else:
        starts, owners = [problem.initial_weights()] * len(masks), [problem] * len(masks)
    make = INITIALIZERS[training.init]
    return [make(*each) for each in zip(owners, masks, starts, costs, strict=True)], costs


def least_bytes(masks: Sequence[Mask], model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Bytes of what training holds at least: values, initial values, gradients and one number of optimizer state for all that
    is trained, and where the survivors stand."""
    dense = sum(value.numel() for value in [*model.parameters(), *model.buffers()]) - masks[0].space.prunable
    survivors = sum(mask.count for mask in masks)
    return (4 * dtype.itemsize + 8) * survivors + 4 * dtype.itemsize * dense * len(masks)


def masks_of(individuals: object) -> list[Mask]:
    """Of masks, and of what has one. Raises `InputError` for anything else."""
    if not isinstance(individuals, Iterable):
        raise InputError(f"individuals is one {type(individuals).__name__}: give a list of masks or of what has a .mask")
    masks: list[Mask] = []
    for position, individual in enumerate(individuals):
        mask = individual if isinstance(individual, Mask) else getattr(individual, "mask", None)
        if not isinstance(mask, Mask):
            raise InputError(
                f"individual {position} has no mask: give masks, or what has a .mask, as random_mask or a method makes"
            )
        masks.append(mask)
    return masks


def check_arguments(problem: Problem, masks: Sequence[Mask], horizon: int) -> None:
    """Raise `InputError` for no mask or no horizon, `MaskMismatch` for masks of another model."""
    if not masks:
        raise InputError("a population needs at least one individual: give masks or individuals")
    whole("horizon", horizon, 1, give="the epochs of the schedule,")
    for mask in masks:
        if mask.space is not problem.space and mask.space != problem.space:
            raise MaskMismatch(f"a mask belongs to another model than {problem.model_name!r}: use masks of problem.space")
