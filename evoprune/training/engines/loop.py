"""The reference engine: one module after the other, each with its weights scattered into dense tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evoprune.training.engines.base import ENGINES, Chunk, Engine
from evoprune.training.parameters import Parameters
from evoprune.training.precision import PRECISIONS, autocast

__all__ = ["LoopEngine", "ScatteredChunk", "call"]


class ScatteredChunk(Chunk):
    """A chunk that runs the model itself on survivors scattered into dense weights, in the engine's precision."""

    def __init__(self, engine: Engine, parameters: Parameters, start: int, stop: int) -> None:
        super().__init__(parameters, start, stop)
        self.engine, self.model, self.space = engine, engine.model, engine.space
        self.indices = {name: parameters.indices(name, start, stop) for name in self.space.names}

    @abstractmethod
    def run(self, weights: dict[str, Tensor], states: dict[str, Tensor], batch: Tensor, shared: bool) -> Tensor:
        """Outputs `(k, B, …)` for dense `weights` `(k, *shape)` of the prunable layers."""

    def dense_weights(self) -> dict[str, Tensor]:
        """Survivors scattered into dense weights, by name, each `(k, *shape)`; differentiable in the survivors."""
        weights = {}
        for name, shape, size in zip(self.space.names, self.space.shapes, self.space.sizes, strict=True):
            values = self.survivors[name]
            dense = torch.zeros(self.k * size, dtype=values.dtype, device=values.device)
            weights[name] = dense.scatter_(0, self.indices[name], values).view(self.k, *shape)
        return weights

    def _outputs(self, weights: dict[str, Tensor], states: dict[str, Tensor], batch: Tensor, shared: bool) -> Tensor:
        with autocast(self.engine.precision, batch.device):
            own = batch.clone()  # a model may change its input, which is the next chunk's, and the data set
            return self.run(weights, states, own, shared).to(self.engine.dtype)

    def forward(self, batch: Tensor, shared: bool = True) -> Tensor:
        return self._outputs(self.dense_weights(), self.states, batch, shared)

    def dense_gradients(self, batch: Tensor, objective: Callable[[Tensor], Tensor], shared: bool = True) -> dict[str, Tensor]:
        with torch.enable_grad():
            weights = {name: value.detach().requires_grad_() for name, value in self.dense_weights().items()}
            states = {name: value.clone() for name, value in self.states.items()}
            outputs = self._outputs(weights, states, batch, shared)
            leaves = list(weights.values())  # the gradient of one that none reaches is 0
            found = torch.autograd.grad(objective(outputs), leaves, allow_unused=True, materialize_grads=True)
            return dict(zip(weights, found, strict=True))


def call(model: nn.Module, values: Mapping[str, Tensor], states: Mapping[str, Tensor], batch: Tensor) -> Tensor:
    """The model's output with these parameters and buffers; a buffer that forward assigns anew goes where the old one is."""
    given = {**values, **states}
    output: Tensor = functional_call(model, given, (batch,))
    for name, state in states.items():
        if given[name] is not state:  # functional_call tells what it found on the model
            state.copy_(given[name].detach())
    return output


class _LoopChunk(ScatteredChunk):
    def run(self, weights: dict[str, Tensor], states: dict[str, Tensor], batch: Tensor, shared: bool) -> Tensor:
        values, own = ({name: value[0] for name, value in group.items()} for group in ({**weights, **self.stacked}, states))
        return call(self.model, values, own, batch if shared else batch[0]).unsqueeze(0)


@ENGINES.register("loop")
class LoopEngine(Engine):
    """One individual a chunk, through `torch.func.functional_call`; runs any module."""

    name = "loop"
    precisions = PRECISIONS

    @property
    def rows(self) -> int:
        return 1

    def chunk(self, parameters: Parameters, start: int, stop: int) -> Chunk:
        return _LoopChunk(self, parameters, start, stop)
