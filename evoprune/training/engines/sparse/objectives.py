"""What a fused step or evaluation asks of the data: losses that have a kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evoprune.training.engines.kernels import loss
from evoprune.training.engines.kernels.runtime import bits, kernel
from evoprune.training.engines.sparse.sources import Batch
from evoprune.training.engines.sparse.values import Layout

if TYPE_CHECKING:
    from evoprune.training.engines.sparse.lowering import Network
    from evoprune.training.engines.sparse.tables import At, Call, Plan, Tables

__all__ = ["OBJECTIVES", "Objective"]


class Objective(ABC):
    """A loss as a kernel call between forward and backward, or after forward.

    weight: of one sample's loss in the sum that the call adds up.
    """

    entry: kernel
    batches: tuple[Batch, ...] = ()

    def __init__(self, network: Network, plan: Plan, targets: Tensor, batch: Batch, weight: float) -> None:
        self.network, self.plan, self.targets, self.weight = network, plan, targets, weight
        self.args = np.zeros(loss.WORDS, dtype=np.int64)

    @staticmethod
    @abstractmethod
    def fits(network: Network, inputs: Tensor, targets: Tensor) -> bool:
        """Whether the kernel can compare the network's outputs with these targets."""

    @abstractmethod
    def scale(self, features: int) -> float:
        """Weight of one sample's sum over `features` outputs."""

    @abstractmethod
    def goal(self, tables: Tables) -> At:
        """Where the targets lie."""

    def call(self, tables: Tables) -> Call:
        """The kernel call."""
        output, plan = self.network.output.output, self.plan
        layout = tables.layout(output)
        features = layout.numbers // layout.block
        tables.put(self.args, loss.OUT, tables.at(output))
        tables.put(self.args, loss.DELTA, tables.delta_at(output))
        tables.put(self.args, loss.TARGETS, self.goal(tables))
        tables.put(self.args, loss.SCRATCH, tables.space.scratch(2 * tables.lanes))
        self.args[loss.FEATURES], self.args[loss.SAMPLES], self.args[loss.BLOCK] = features, plan.samples, plan.block
        self.args[loss.LANES], self.args[loss.SCALE] = tables.lanes, bits(self.scale(features))
        return self.entry, self.args

    def take(self, indices: Tensor, losses: Tensor, hits: Tensor | None = None) -> None:
        """The targets of samples `indices`, and where their losses and, of class numbers, their hits go."""
        self.args[loss.LOSS], self.args[loss.HITS] = losses.data_ptr(), 0 if hits is None else hits.data_ptr()


class CrossEntropy(Objective):
    """Softmax and class numbers."""

    entry = loss.cross_entropy

    @staticmethod
    def fits(network: Network, inputs: Tensor, targets: Tensor) -> bool:
        shape = network.output.output.shape
        known = len(shape) == 1 and targets.dtype == torch.int64 and targets.ndim == 1
        return known and bool((targets >= 0).all()) and bool((targets < shape[0]).all())

    def scale(self, features: int) -> float:
        return self.weight

    def goal(self, tables: Tables) -> At:
        self._classes = torch.zeros(self.plan.blocks * self.plan.block, dtype=torch.int64)
        self._chosen = self._classes[: self.plan.samples]
        return self._classes.data_ptr(), 0, 0, 0

    def take(self, indices: Tensor, losses: Tensor, hits: Tensor | None = None) -> None:
        super().take(indices, losses, hits)
        torch.index_select(self.targets, 0, indices, out=self._chosen)


class SquaredError(Objective):
    """Mean square of the difference to values, often the inputs themselves."""

    entry = loss.squared_error

    def __init__(self, network: Network, plan: Plan, targets: Tensor, batch: Batch, weight: float) -> None:
        super().__init__(network, plan, targets, batch, weight)
        layout = Layout(prod(targets.shape[1:]), 1, 1, 0, plan.block)
        same = targets.data_ptr() == batch.data.data_ptr() and layout.numbers == batch.layout.numbers
        self._goal = batch if same else Batch(targets, layout, plan)
        self.batches = () if same else (self._goal,)

    @staticmethod
    def fits(network: Network, inputs: Tensor, targets: Tensor) -> bool:
        return targets.dtype == inputs.dtype and prod(targets.shape[1:]) == prod(network.output.output.shape)

    def scale(self, features: int) -> float:
        return self.weight / features

    def goal(self, tables: Tables) -> At:
        return self._goal.at


OBJECTIVES: dict[str, type[Objective]] = {"cross_entropy": CrossEntropy, "mse": SquaredError}
"""Losses with a kernel, by their name in `LOSSES`."""
