"""A whole training step in two launches: the batch is gathered, then every individual, alone on one thread, goes forward,
takes its loss, goes backward and updates its weights, so that its activations and gradients never leave the core's cache.
An evaluation is the same without the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evoprune.problems.losses import LOSSES, Loss
from evoprune.problems.splits import batch_sizes
from evoprune.training.engines.kernels import update
from evoprune.training.engines.kernels.runtime import bits, launch
from evoprune.training.engines.sparse.objectives import OBJECTIVES, Objective
from evoprune.training.engines.sparse.sources import Batch
from evoprune.training.engines.sparse.tables import Call, Plan, Tables, Workspace
from evoprune.training.engines.sparse.values import Layout
from evoprune.training.parameters import Parameters

if TYPE_CHECKING:
    from evoprune.training.engines.sparse.engine import SparseChunk
    from evoprune.training.engines.sparse.lowering import Network

__all__ = ["fuse", "fuse_evaluation"]


def fuse(
    chunk: SparseChunk, parameters: Parameters, network: Network, data: tuple[Tensor, Tensor], loss: Loss,
    optimizer: torch.optim.Optimizer, samples: int, *, most: int,
) -> Step | None:  # fmt: skip
    """The fused step of a chunk of all individuals, or None for a loss, targets or an optimizer without kernels.

    data: inputs and targets of the training split. samples: of a batch. most: individuals that may train
    at the same time, each on a thread with activations of its own.
    """
    objective = _objective(network, data, loss)
    if objective is None or type(optimizer) is not torch.optim.SGD:
        return None
    return Step(chunk, network, data, objective, samples, most, update=SGD(parameters, optimizer))


def fuse_evaluation(
    chunk: SparseChunk, network: Network, data: tuple[Tensor, Tensor], loss: Loss, samples: int, *, most: int
) -> Evaluation | None:
    """The fused evaluation of a chunk of all individuals on the split `data`, or None for a loss or targets without kernels."""
    objective = _objective(network, data, loss)
    return None if objective is None else Evaluation(chunk, network, data, objective, samples, most)


def _objective(network: Network, data: tuple[Tensor, Tensor], loss: Loss) -> type[Objective] | None:
    found = next((own for name, own in OBJECTIVES.items() if LOSSES[name] is loss), None)
    return found if found is not None and found.fits(network, *data) else None


class Fused:
    """Forward and loss of one batch and, with an update, what follows of a training step."""

    def __init__(
        self, chunk: SparseChunk, network: Network, data: tuple[Tensor, Tensor], objective: type[Objective],
        samples: int, most: int, *, update: SGD | None = None,
    ) -> None:  # fmt: skip
        self.chunk, self.network, self.samples, self.data = chunk, network, samples, data
        self._make, self._update, self._most, self._threads = objective, update, most, 0

    def run(self, indices: Tensor, losses: Tensor, hits: Tensor | None = None) -> None:
        """Gather the samples `indices` and launch."""
        threads = min(torch.get_num_threads(), self._most)
        if self._threads != threads:
            self._build(threads)
        for batch in self._batches:
            batch.take(indices, self._threads)
        self._objective.take(indices, losses, hits)
        launch(self._tables.forward, self._threads)

    def _build(self, threads: int) -> None:
        """Buffers and program for a number of threads."""
        chunk, (inputs, targets), value, update = self.chunk, self.data, self.network.source, self._update
        plan = Plan(self.network, chunk.k, self.samples, shared=True, threads=threads, keep=update is not None, fused=True)
        batch = Batch(inputs, Layout(*value.image, value.root.pad, plan.block), plan)
        self._objective = self._make(self.network, plan, targets, batch, 1 if update is None else 1 / self.samples)
        self._batches = [batch, *self._objective.batches]
        gradients = {name: leaf.grad for name, leaf in chunk.leaves.items() if leaf.grad is not None}
        self._tables = Tables(
            chunk, chunk.structures, chunk.masks, Workspace(plan, inputs.dtype), (batch.buffer, batch.at), gradients,
            objective=self._objective.call, last=[] if update is None else update.calls,
        )  # fmt: skip
        self._threads = threads


class Step(Fused):
    """See `FusedStep`."""

    def __call__(self, indices: Tensor, losses: Tensor, sums: Mapping[str, Mapping[str, Tensor]]) -> None:
        assert self._update is not None
        self._update.take(sums)
        self.run(indices, losses)


class Evaluation:
    """See `FusedEvaluation`: batch by batch, so that the samples too stay in the cache for all individuals."""

    def __init__(
        self, chunk: SparseChunk, network: Network, data: tuple[Tensor, Tensor], objective: type[Objective],
        samples: int, most: int,
    ) -> None:  # fmt: skip
        self._parts = torch.arange(len(data[0])).split(batch_sizes(len(data[0]), samples))
        sizes = {len(part) for part in self._parts}  # of whole batches, and of the last ones
        self._programs = {size: Fused(chunk, network, data, objective, size, most) for size in sizes}

    def __call__(self, losses: Tensor, hits: Tensor | None) -> None:
        for part in self._parts:
            self._programs[len(part)].run(part, losses, hits)


class SGD:
    """`torch.optim.SGD` as kernel calls on the values, gradients and momenta that it holds."""

    def __init__(self, parameters: Parameters, optimizer: torch.optim.SGD) -> None:
        self.optimizer, self._summed = optimizer, False
        self.calls: list[Call] = []
        self._args: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}
        self._kept: list[Any] = []
        for name, leaf in parameters.leaves().items():
            rows = np.arange(len(parameters) + 1, dtype=np.int64)
            bounds = parameters.bounds[name] if name in parameters.bounds else rows * leaf[0].numel()
            self._args[name] = self._arguments(leaf, np.ascontiguousarray(bounds, dtype=np.int64))
            self.calls.append((update.sgd, self._args[name]))

    def _arguments(self, leaf: Tensor, bounds: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
        [options] = self.optimizer.param_groups
        args = np.zeros(update.WORDS, dtype=np.int64)
        assert leaf.grad is not None
        assert not options["dampening"]
        assert not options["maximize"]
        if options["momentum"]:
            # torch starts with the first gradient, which is what a momentum of 0 gives
            state = self.optimizer.state[leaf]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(leaf)
            args[update.MOMENTA] = state["momentum_buffer"].data_ptr()
        args[update.VALUES], args[update.GRADIENTS] = leaf.data_ptr(), leaf.grad.data_ptr()
        args[update.BOUNDS], args[update.SIZE] = bounds.ctypes.data, leaf.element_size()
        args[update.MOMENTUM], args[update.DECAY] = bits(options["momentum"]), bits(options["weight_decay"])
        args[update.NESTEROV] = int(options["nesterov"])
        self._kept.append(bounds)
        return args

    def take(self, sums: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The present learning rate, and the sums that gradients are added to."""
        [options] = self.optimizer.param_groups
        rate = bits(options["lr"])
        for args in self._args.values():
            args[update.RATE] = rate
        if sums or self._summed:
            for which, word in (("grad", update.SUM), ("grad_path", update.SUM_OF_SIZES)):
                own = sums.get(which, {})
                for name, args in self._args.items():
                    args[word] = own[name].data_ptr() if name in own else 0
            self._summed = bool(sums)
