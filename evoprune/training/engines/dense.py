"""The dense engine: survivors scattered into stacked dense weights each step, one `torch.func.vmap` over the chunk."""

from __future__ import annotations

from torch import Tensor
from torch.func import functional_call, vmap

from evoprune.errors import UnsupportedLayer
from evoprune.training.engines.base import ENGINES, Chunk, Engine
from evoprune.training.engines.loop import ScatteredChunk
from evoprune.training.parameters import Parameters
from evoprune.training.precision import PRECISIONS

__all__ = ["DenseEngine"]

CHUNK_WEIGHTS = {"cpu": 4_000_000, "cuda": 400_000_000}
"""Dense weights a chunk holds at most: their scatter, product and gradient are the working set of a step."""


class _DenseChunk(ScatteredChunk):
    def run(self, weights: dict[str, Tensor], states: dict[str, Tensor], batch: Tensor, shared: bool) -> Tensor:
        def one(weights: dict[str, Tensor], states: dict[str, Tensor], batch: Tensor) -> Tensor:
            output: Tensor = functional_call(self.model, (weights, states), (batch,))
            return output

        # randomness="same": dropout draws common random numbers for all individuals
        run = vmap(one, in_dims=(0, 0, None if shared else 0), randomness="same")
        try:
            output: Tensor = run({**weights, **self.stacked}, states, batch)
        except RuntimeError as error:
            if "vmap" in str(error) or "data-dependent control flow" in str(error):
                raise UnsupportedLayer(
                    f"the dense engine cannot vmap this model ({str(error).splitlines()[0]}): use engine='loop'"
                ) from error
            raise
        return output


@ENGINES.register("dense")
class DenseEngine(Engine):
    """Stacked dense weights through vmap, for GPUs, moderate sparsity and any vmappable module."""

    name = "dense"
    precisions = PRECISIONS
    recordable = True

    @property
    def rows(self) -> int:
        limit = CHUNK_WEIGHTS["cuda" if self.device.type == "cuda" else "cpu"]
        return max(1, min(64, limit // self.space.prunable))

    def chunk(self, parameters: Parameters, start: int, stop: int) -> Chunk:
        return _DenseChunk(self, parameters, start, stop)
