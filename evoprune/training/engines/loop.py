"""The reference engine: one module after the other, each with its weights scattered into dense tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evoprune.masks.space import MaskSpace
from evoprune.training.engines.base import ENGINES, Chunk, Engine
from evoprune.training.parameters import Parameters

__all__ = ["LoopEngine", "dense_weights"]


def dense_weights(chunk: Chunk, indices: dict[str, Tensor], space: MaskSpace) -> dict[str, Tensor]:
    """Survivors scattered into dense weights, by name, each `(k, *shape)`; differentiable in the survivors."""
    weights = {}
    for name, shape, size in zip(space.names, space.shapes, space.sizes, strict=True):
        values = chunk.survivors[name]
        dense = torch.zeros(chunk.k * size, dtype=values.dtype, device=values.device)
        weights[name] = dense.scatter(0, indices[name], values).view(chunk.k, *shape)
    return weights


class _LoopChunk(Chunk):
    def __init__(self, model: nn.Module, space: MaskSpace, parameters: Parameters, start: int, stop: int) -> None:
        super().__init__(parameters, start, stop)
        self.model, self.space = model, space
        self.indices = {name: parameters.indices(name, start, stop) for name in space.names}

    def forward(self, batch: Tensor, shared: bool = True) -> Tensor:
        weights = {**dense_weights(self, self.indices, self.space), **self.stacked, **self.states}
        own = {name: value[0] for name, value in weights.items()}
        output: Tensor = functional_call(self.model, own, (batch if shared else batch[0],))
        return output.unsqueeze(0)


@ENGINES.register("loop")
class LoopEngine(Engine):
    """One individual a chunk, through `torch.func.functional_call`; runs any module."""

    name = "loop"

    @property
    def rows(self) -> int:
        return 1

    def chunk(self, parameters: Parameters, start: int, stop: int) -> Chunk:
        return _LoopChunk(self.model, self.space, parameters, start, stop)
