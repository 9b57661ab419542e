"""The sparse engine: a chunk of the generation is one block-diagonal sparse network, and no zero is ever multiplied."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from evoprune.errors import EvopruneError, InputError, UnsupportedLayer
from evoprune.masks.space import MaskSpace
from evoprune.problems.losses import Loss
from evoprune.training.engines.base import Chunk, Engine, FusedEvaluation, FusedStep
from evoprune.training.engines.kernels.border import TENSOR
from evoprune.training.engines.kernels.runtime import launch
from evoprune.training.engines.sparse.fused import fuse, fuse_evaluation
from evoprune.training.engines.sparse.lowering import Network, Trace
from evoprune.training.engines.sparse.sources import Source
from evoprune.training.engines.sparse.structure import Sparse
from evoprune.training.engines.sparse.tables import At, Plan, Tables, Workspace
from evoprune.training.parameters import Parameters

__all__ = ["SparseChunk", "SparseEngine"]

KEPT_BYTES = 8 << 20
"""Activations that a chunk of a fully connected network keeps at most: they should not leave the cache before backward."""

Span = tuple[int, int]

KEPT_PLANS = 8
"""Kinds of batches (size, training or not, …) whose buffers are kept for the next batch of that kind."""


class SparseEngine(Engine):
    """Block-diagonal sparse chunks, for high sparsity on a CPU.

    Raises `UnsupportedLayer` for a model with a layer it has no kernel for, or on a device or type it has none for.
    """

    name = "sparse"

    def __init__(self, model: nn.Module, space: MaskSpace, *, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(model, space, batch_size=batch_size, device=device, dtype=dtype)
        if torch.device(device).type != "cpu":
            raise UnsupportedLayer(f"the sparse engine runs on the CPU, not on {device}: use engine='dense'")
        if dtype not in (torch.float32, torch.float64):
            raise UnsupportedLayer(f"the sparse engine computes in float32 or float64, not in {dtype}: use engine='dense'")
        self.traces = {training: Trace(model, training) for training in (True, False)}
        self._rows = self._fitting_rows()
        self._networks: dict[tuple[bool, tuple[int, ...]], Network] = {}
        self._free: dict[Hashable, list[Workspace]] = {}
        self._sources: dict[Hashable, Source] = {}
        self._structures: weakref.WeakKeyDictionary[Parameters, dict[Span, dict[Hashable, Sparse]]] = weakref.WeakKeyDictionary()

    @property
    def rows(self) -> int:
        return self._rows

    def _fitting_rows(self) -> int:
        if any(len(shape) > 2 for shape in self.space.shapes):
            return max(4, torch.get_num_threads())  # images: one individual alone fills the cache, and a chunk much memory
        numbers = sum(shape[0] for shape in self.space.shapes) * self.batch_size
        fitting = KEPT_BYTES // (numbers * torch.empty((), dtype=self.dtype).element_size())
        return max(4, min(64, 1 << (fitting.bit_length() - 1 if fitting else 0)))

    def halve(self, held: int) -> bool:
        self._free.clear()
        self._sources.clear()
        self._structures.clear()
        return super().halve(held)

    @property
    def random(self) -> bool:
        return self.traces[True].random

    def chunk(self, parameters: Parameters, start: int, stop: int) -> SparseChunk:
        return SparseChunk(self, parameters, start, stop)

    def fuse(
        self, parameters: Parameters, data: tuple[Tensor, Tensor], loss: Loss, optimizer: torch.optim.Optimizer
    ) -> FusedStep | None:
        if self.random or data[0].dtype != self.dtype:
            return None
        network = self.network(True, tuple(data[0].shape[1:]))
        chunk = self.chunk(parameters, 0, len(parameters))
        return fuse(chunk, parameters, network, data, loss, optimizer, self.batch_size, most=self.width)

    def fuse_evaluation(self, parameters: Parameters, data: tuple[Tensor, Tensor], loss: Loss) -> FusedEvaluation | None:
        if data[0].dtype != self.dtype:
            return None
        network = self.network(False, tuple(data[0].shape[1:]))
        if network.draws:  # dropout that stays on: nothing draws the noise of a fused program
            return None
        chunk = self.chunk(parameters, 0, len(parameters))
        return fuse_evaluation(chunk, network, data, loss, self.batch_size, most=self.width)

    def structures(self, parameters: Parameters, start: int, stop: int) -> dict[Hashable, Sparse]:
        """Where the sparse matrices of individuals start … stop - 1 are kept, for all chunks of them."""
        return self._structures.setdefault(parameters, {}).setdefault((start, stop), {})

    def prepare(self, shape: Sequence[int]) -> None:
        for training in self.traces:
            self.network(training, tuple(shape))

    def network(self, training: bool, shape: tuple[int, ...]) -> Network:
        """The model lowered for one mode and one shape of a sample."""
        key = (training, shape)
        if key not in self._networks:
            self._networks[key] = Network(self.traces[training], shape)
        return self._networks[key]

    def source(self, plan: Plan) -> Source:
        """The input buffer of a plan."""
        key = (*plan.key[2:], id(plan.network), plan.rows if not plan.shared else 0)
        if key not in self._sources:
            while len(self._sources) > KEPT_PLANS:
                del self._sources[next(iter(self._sources))]
            self._sources[key] = Source(plan, self.dtype)
        return self._sources[key]

    def take(self, plan: Plan) -> Workspace:
        """A free workspace for `plan`."""
        free = self._free.setdefault(plan.key, [])
        space = free.pop() if free else Workspace(plan, self.dtype)
        space.stamp += 1
        return space

    def give(self, space: Workspace) -> None:
        """The workspace is free again; what it holds stays until the next taker."""
        free = self._free.pop(space.plan.key, [])
        if not any(space is other for other in free):
            free.append(space)
        self._free[space.plan.key] = free  # the latest last
        while len(self._free) > KEPT_PLANS:
            del self._free[next(iter(self._free))]


class SparseChunk(Chunk):
    """k individuals as one block-diagonal network.

    in_place: gradients are added to the leaves' `.grad` by the kernels; otherwise autograd receives them.
    """

    def __init__(self, engine: SparseEngine, parameters: Parameters, start: int, stop: int) -> None:
        super().__init__(parameters, start, stop)
        self.engine, self.in_place = engine, True
        masks = parameters.masks[start:stop]
        self.masks = {name: [mask.survivors[layer] for mask in masks] for layer, name in enumerate(parameters.space.names)}
        self.structures = engine.structures(parameters, start, stop)
        self.leaves: dict[str, Tensor] = {**self.survivors, **self.stacked}
        self._anchor = torch.zeros((), dtype=engine.dtype, requires_grad=True)

    def _plan(self, batch: Tensor, shared: bool) -> tuple[Plan, Tensor]:
        """How to run on `batch`, which is cast to the engine's type."""
        samples, shape = (batch.shape[0], batch.shape[1:]) if shared else (batch.shape[1], batch.shape[2:])
        if samples == 0:
            raise InputError("an empty batch: give at least one sample")
        if not shared and batch.shape[0] != self.k:
            raise InputError(f"{batch.shape[0]} batches for {self.k} individuals: give one each")
        engine = self.engine
        network = engine.network(self.training, tuple(shape))
        plan = Plan(
            network,
            max(self.k, engine.width),
            samples,
            shared=shared,
            threads=min(torch.get_num_threads(), engine.width),
            keep=torch.is_grad_enabled(),
        )
        if batch.dtype != engine.dtype:
            batch = batch.to(engine.dtype)
        return plan, batch

    def forward(self, batch: Tensor, shared: bool = True) -> Tensor:
        plan, batch = self._plan(batch, shared)
        if not plan.keep:
            space = self.engine.take(plan)
            try:
                return self._forward(space, batch)
            finally:
                self.engine.give(space)
        leaves = [self._anchor] if self.in_place else list(self.leaves.values())
        output: Tensor = _Run.apply(self, plan, batch, *leaves)  # type: ignore[no-untyped-call]
        return output

    def dense_gradients(self, batch: Tensor, objective: Callable[[Tensor], Tensor], shared: bool = True) -> dict[str, Tensor]:
        """Gradient of `objective(outputs)` (a number, outputs as of `forward`) with respect to every prunable weight.

        `(k, *shape)` by name, pruned weights included; gradients and running statistics of the chunk stay as they are.
        """
        before = {name: value.clone() for name, value in self.states.items()}
        with torch.enable_grad():
            plan, batch = self._plan(batch, shared)
            space = self.engine.take(plan)
            try:
                outputs = self._forward(space, batch).requires_grad_()
                [change] = torch.autograd.grad(objective(outputs), [outputs])
                space_names = zip(self.engine.space.names, self.engine.space.shapes, strict=True)
                result = {name: torch.zeros((self.k, *shape), dtype=self.engine.dtype) for name, shape in space_names}
                tables = Tables(self, self.structures, self.masks, space, self._source(plan), result, dense=True)
                self._backward(space, batch, plan.network.output.ordered(change), tables)
            finally:
                self.engine.give(space)
        for name, value in self.states.items():
            value.copy_(before[name])
        return result

    def _source(self, plan: Plan) -> tuple[Tensor, At]:
        source = self.engine.source(plan)
        return source.buffer, source.at

    def _tables_on(self, space: Workspace, gradients: dict[str, Tensor] | None = None) -> Tables:
        source = self.engine.source(space.plan)
        if gradients is not None:
            return Tables(self, self.structures, self.masks, space, self._source(space.plan), gradients)
        known = space.tables.get(self)
        if known is None or known.source[0] is not source.buffer:
            own = {name: leaf.grad for name, leaf in self.leaves.items() if leaf.grad is not None}
            known = space.tables[self] = Tables(self, self.structures, self.masks, space, self._source(space.plan), own)
        return known

    def _forward(self, space: Workspace, batch: Tensor) -> Tensor:
        plan = space.plan
        self.engine.source(plan).fill(batch)
        tables = self._tables_on(space)
        for operation in plan.network.draws:
            operation.draw(tables)
        output = plan.network.output.tensor(self.k, plan.samples, self.engine.dtype)
        tables.forward.args[-1][TENSOR] = output.data_ptr()
        launch(tables.forward, plan.threads)
        return output

    def _backward(self, space: Workspace, batch: Tensor, change: Tensor, tables: Tables) -> None:
        self.engine.source(space.plan).fill(batch)
        assert tables.backward is not None
        tables.backward.args[0][TENSOR] = change.data_ptr()
        launch(tables.backward, space.plan.threads)


class _Lease:
    """One use of a workspace, from a forward pass to the end of its graph."""

    def __init__(self, engine: SparseEngine, plan: Plan) -> None:
        self.engine, self.space = engine, engine.take(plan)
        self.stamp = self.space.stamp

    def check(self) -> None:
        if self.space.stamp != self.stamp:
            raise EvopruneError("backward a second time after another forward pass: run forward again")

    def end(self) -> None:
        """Another forward pass may take the buffers from now on."""
        if self.space.stamp == self.stamp:
            self.engine.give(self.space)

    __del__ = end


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chunk: SparseChunk, plan: Plan, batch: Tensor, *leaves: Tensor) -> Tensor:
        ctx.chunk, ctx.batch, ctx.lease, ctx.leaves = chunk, batch, _Lease(chunk.engine, plan), len(leaves)
        return chunk._forward(ctx.lease.space, batch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
        chunk, lease = ctx.chunk, ctx.lease
        lease.check()
        change = lease.space.plan.network.output.ordered(change)
        if chunk.in_place:
            chunk._backward(lease.space, ctx.batch, change, chunk._tables_on(lease.space))
            lease.end()
            return (None,) * (3 + int(ctx.leaves))
        gradients: dict[str, Tensor | None] = {name: torch.zeros_like(leaf) for name, leaf in chunk.leaves.items()}
        chunk._backward(lease.space, ctx.batch, change, chunk._tables_on(lease.space, gradients))
        return (None, None, None, *gradients.values())
