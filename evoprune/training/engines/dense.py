"""The dense engine: survivors scattered into stacked dense weights each step, one `torch.func.vmap` over the chunk."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import vmap

from evoprune.errors import UnsupportedLayer
from evoprune.masks.space import MaskSpace
from evoprune.shortage import out_of_memory
from evoprune.training.engines.base import ENGINES, Chunk, Engine, hooked
from evoprune.training.engines.batch_last import batch_last
from evoprune.training.engines.loop import ScatteredChunk, call
from evoprune.training.parameters import Parameters
from evoprune.training.precision import PRECISIONS

__all__ = ["DenseEngine"]

log = logging.getLogger("evoprune")

CHUNK_WEIGHTS = {"cpu": 4_000_000, "cuda": 400_000_000}
"""Dense weights a chunk holds at most: their scatter, product and gradient are the working set of a step."""

CHUNK_ROWS = {"cpu": 64, "cuda": 512}
"""Individuals a chunk holds at most. On a GPU every kernel of a small network's step should fill the chip."""
IMAGE_ROWS = 64
"""The same for models with convolutions, whose activations take more memory than their weights."""

BATCH_LAST_ON = ("cuda",)
"""Devices on which products of Linear layers are computed batch-last (see `batch_last`)."""

UNVMAPPABLE = ("vmap", "data-dependent control flow", "Batching rule")
"""Words of torch's errors for what `vmap` cannot do."""

Forward = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor, bool], Tensor]


class _DenseChunk(ScatteredChunk):
    engine: DenseEngine

    def run(self, weights: dict[str, Tensor], states: dict[str, Tensor], batch: Tensor, shared: bool) -> Tensor:
        values = {**weights, **self.stacked}
        if self.engine.compiled is not None and self.training and torch.is_grad_enabled():
            try:
                return self.engine.compiled(values, states, batch, shared)
            except Exception as error:  # a compiler has many ways to fail
                if out_of_memory(error):
                    raise
                self.engine.refuse_compiled(error)
        try:
            return self.engine.forward(values, states, batch, shared)
        except RuntimeError as error:
            if any(word in str(error) for word in UNVMAPPABLE):
                raise UnsupportedLayer(
                    f"the dense engine cannot vmap this model ({str(error).splitlines()[0]}): use engine='loop'"
                ) from error
            raise


@ENGINES.register("dense")
class DenseEngine(Engine):
    """Stacked dense weights through vmap, for GPUs, moderate sparsity and any vmappable module."""

    name = "dense"
    precisions = PRECISIONS
    recordable = True
    compilable = True

    def __init__(self, model: nn.Module, space: MaskSpace, *, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        name = hooked(model, backward=True)
        if name is not None:
            raise UnsupportedLayer(f"the dense engine runs no backward hooks, and {name} has some: use engine='loop'")
        for layer, module in model.named_modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
                # torch.vmap changes a copy of the weights and not these
                raise UnsupportedLayer(f"the dense engine cannot renorm weights, as {layer!r} does: use engine='loop'")
        if device.type in BATCH_LAST_ON:
            model = batch_last(copy.deepcopy(model))
        super().__init__(model, space, batch_size=batch_size, device=device, dtype=dtype)
        self.compiled: Forward | None = None

    def compile(self) -> None:
        # one shape a chunk, and static: whatever else is asked (evaluation, a smaller last batch) runs as it is
        self.compiled = torch.compile(self.forward, dynamic=False, fullgraph=True)

    def refuse_compiled(self, error: Exception) -> None:
        """Go on without the compiler, and say why."""
        self.compiled = None
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        log.warning("torch.compile does not take this model (%s): it runs uncompiled", reason)

    def forward(self, values: dict[str, Tensor], states: dict[str, Tensor], batch: Tensor, shared: bool) -> Tensor:
        """Outputs `(k, B, …)` of the model with stacked parameters and buffers."""

        def one(values: dict[str, Tensor], states: dict[str, Tensor], batch: Tensor) -> Tensor:
            return call(self.model, values, states, batch)

        # randomness="same": dropout draws common random numbers for all individuals
        outputs: Tensor = vmap(one, in_dims=(0, 0, None if shared else 0), randomness="same")(values, states, batch)
        return outputs

    @property
    def rows(self) -> int:
        kind = "cuda" if self.device.type == "cuda" else "cpu"
        most = CHUNK_ROWS[kind] if all(len(shape) == 2 for shape in self.space.shapes) else IMAGE_ROWS
        return max(1, min(most, CHUNK_WEIGHTS[kind] // self.space.prunable))

    def chunk(self, parameters: Parameters, start: int, stop: int) -> Chunk:
        return _DenseChunk(self, parameters, start, stop)
