"""The sparse engine on a GPU: a chunk is one block-diagonal network whose products touch survivors only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from triton.runtime import JITFunction

from evoprune.errors import InputError, UnsupportedLayer
from evoprune.masks.mask import Indices
from evoprune.masks.space import MaskSpace
from evoprune.training.engines.base import Chunk, Engine
from evoprune.training.engines.blocks.layer import Layer
from evoprune.training.engines.blocks.product import product
from evoprune.training.engines.blocks.run import check, closed_values, run
from evoprune.training.engines.dense import DenseEngine
from evoprune.training.engines.sparse.lowering import Network, Trace
from evoprune.training.engines.sparse.operations import Product
from evoprune.training.engines.sparse.values import Value
from evoprune.training.parameters import Parameters

__all__ = ["BlockChunk", "BlockEngine"]

KEPT_BYTES = 8 << 30
"""Activations and their gradients that a chunk of a fully connected network keeps at most."""


class BlockEngine(Engine):
    """Triton kernels on survivors, for high sparsity on a GPU; on a CPU with Triton's interpreter, for tests.

    With precision "bf16" activations and their gradients are stored as bfloat16 and summed in float32, which halves the bytes.
    Raises `UnsupportedLayer` for a model with a layer it has no rule for, or on a device it cannot run on.
    """

    name = "sparse"
    precisions = ("full", "bf16")
    recordable = True

    def __init__(self, model: nn.Module, space: MaskSpace, *, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(model, space, batch_size=batch_size, device=device, dtype=dtype)
        if torch.device(device).type != "cuda" and isinstance(product, JITFunction):
            raise UnsupportedLayer(f"these kernels run on CUDA, not on {device}: use device='cuda', or engine='dense'")
        self.traces = {training: Trace(model, training) for training in (True, False)}
        self._networks: dict[tuple[bool, tuple[int, ...]], Network] = {}

    @property
    def rows(self) -> int:
        if any(len(shape) > 2 for shape in self.space.shapes):
            return 64  # images: what the activations take is known with the first batch; memory halves it
        numbers = 2 * sum(shape[0] for shape in self.space.shapes) * self.batch_size
        fitting = KEPT_BYTES // (numbers * torch.empty((), dtype=self.dtype).element_size())
        return max(1, min(4096, 1 << (fitting.bit_length() - 1 if fitting else 0)))

    @property
    def random(self) -> bool:
        return self.traces[True].random

    @property
    def stored(self) -> torch.dtype:
        """The type of activations."""
        return torch.bfloat16 if self.precision == "bf16" else self.dtype

    def chunk(self, parameters: Parameters, start: int, stop: int) -> Chunk:
        return BlockChunk(self, parameters, start, stop)

    def prepare(self, shape: Sequence[int]) -> None:
        for training in self.traces:
            self.network(training, tuple(shape))

    def network(self, training: bool, shape: tuple[int, ...]) -> Network:
        """The model lowered for one mode and one shape of a sample."""
        key = (training, shape)
        if key not in self._networks:
            network = Network(self.traces[training], shape)
            check(network)
            self._networks[key] = network
        return self._networks[key]


class BlockChunk(Chunk):
    """k individuals as one block-diagonal network on the device."""

    engine: BlockEngine

    def __init__(self, engine: BlockEngine, parameters: Parameters, start: int, stop: int) -> None:
        super().__init__(parameters, start, stop)
        self.engine = engine
        masks = parameters.masks[start:stop]
        self._masks = {name: [mask.survivors[layer] for mask in masks] for layer, name in enumerate(parameters.space.names)}
        self._layers: dict[Hashable, Layer] = {}
        self._closed: dict[Network, set[Value]] = {}
        self._constants: dict[Hashable, Tensor] = {}
        self._dense = (parameters, start, stop)

    def forward(self, batch: Tensor, shared: bool = True) -> Tensor:
        if not shared and len(batch) != self.k:
            raise InputError(f"{len(batch)} batches for {self.k} individuals: give one each")
        rows = batch.unsqueeze(0) if shared else batch
        network = self.engine.network(self.training, tuple(rows.shape[2:]))
        source = rows.to(self.engine.stored).movedim(1, -1).contiguous()
        return run(self, network, source).to(self.engine.dtype)

    def dense_gradients(self, batch: Tensor, objective: Callable[[Tensor], Tensor], shared: bool = True) -> dict[str, Tensor]:
        engine = self.engine
        dense = DenseEngine(
            engine.model, engine.space, batch_size=engine.batch_size, device=engine.device, dtype=engine.dtype
        ).chunk(*self._dense)
        return dense.train(self.training).dense_gradients(batch, objective, shared)

    # ---- what the operations ask --------------------------------------------------------------------------------

    def tensor(self, name: str) -> Tensor:
        """Values of a weight, a stacked parameter or a buffer."""
        for group in (self.survivors, self.stacked, self.states):
            if name in group:
                return group[name]
        raise KeyError(name)

    def layer(self, operation: Product, *, closes: bool) -> Layer:
        """Structure of a product of this chunk, made once for each geometry."""
        image = operation.inputs[0].image, operation.output.image
        gates = operation.output.gated, closes
        key = (operation.weight, image, operation.kernel, operation.stride, operation.padding, gates)
        if key not in self._layers:
            self._layers[key] = Layer(operation, self._survivors(operation.weight), self.engine.device, closes=closes)
        return self._layers[key]

    def closed(self, network: Network) -> set[Value]:
        """See `closed_values`."""
        if network not in self._closed:
            self._closed[network] = closed_values(network)
        return self._closed[network]

    def constant(self, operation: Any, what: str, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        """A small tensor on the device, in the type of `like`; made once."""
        key = (id(operation), what, like.dtype)
        if key not in self._constants:
            self._constants[key] = make().to(like.device, like.dtype)
        return self._constants[key]

    def _survivors(self, name: str) -> list[Indices]:
        """Sorted indices of the weights of each individual; all of a weight that is not pruned."""
        if name in self._masks:
            return self._masks[name]
        return [np.arange(self.tensor(name)[0].numel(), dtype=np.int64)] * self.k
