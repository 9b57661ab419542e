"""What a population starts with: the values of each network, what it cost to make them, and the memory that they take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evoprune import seeds
from evoprune.masks.mask import Mask
from evoprune.problems.problem import Problem
from evoprune.training.initializers import INITIALIZERS
from evoprune.training.ledger import Ledger
from evoprune.training.options import Training

__all__ = ["least_bytes", "starting_weights"]


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
