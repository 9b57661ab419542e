"""A lowered network on batch-last tensors `(k or 1, *shape, B)`: products by our kernels, the rest by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evoprune.errors import UnsupportedLayer
from evoprune.training.engines.blocks.layer import SparseProduct, pad
from evoprune.training.engines.sparse.lowering import Network
from evoprune.training.engines.sparse.operations import Activation, Output, Product
from evoprune.training.engines.sparse.spatial import Dropout, Largest, Mean, Norm, Plus, Region, Reshape
from evoprune.training.engines.sparse.values import Value

if TYPE_CHECKING:
    from evoprune.training.engines.blocks.engine import BlockChunk

__all__ = ["check", "closed_values", "run"]

Rule = Callable[["BlockChunk", Network, Any, list[Tensor]], Tensor]


def run(chunk: BlockChunk, network: Network, source: Tensor) -> Tensor:
    """Outputs `(k, B, …)` of `source` `(k or 1, *shape, B)`."""
    known: dict[Value, Tensor] = {network.source: source}

    def read(value: Value) -> Tensor:
        if value not in known:  # another shape of the same numbers
            held = known[value.root]
            known[value] = held.reshape(len(held), *value.shape, held.shape[-1])
        return known[value]

    for operation in network.operations:
        if not isinstance(operation, Output):
            inputs = [read(value) for value in operation.inputs]
            known[operation.output] = RULES[type(operation)](chunk, network, operation, inputs)
    output = read(network.output.output)
    return output.expand(chunk.k, *output.shape[1:]).movedim(-1, 1)


def check(network: Network) -> None:
    """Raises `UnsupportedLayer` for an operation that would have to ask the device for a number in every step."""
    for operation in network.operations:
        if isinstance(operation, Norm) and operation.options.momentum is None and operation.options.tracked:
            raise UnsupportedLayer("the sparse engine on a GPU has no batch norm with momentum=None: use engine='dense'")


def closed_values(network: Network) -> set[Value]:
    """Values out of a fused ReLU that one unpadded product alone reads: the product closes their gradient itself."""
    closed = set()
    for operation in network.operations:
        if isinstance(operation, Product):
            root = operation.inputs[0].root
            if root.gated and network.uses[root] == 1 and not any(operation.padding):
                closed.add(root)
    return closed


# ---- one rule an operation -------------------------------------------------------------------------------------------------


def _product(chunk: BlockChunk, network: Network, operation: Product, inputs: list[Tensor]) -> Tensor:
    closed = chunk.closed(network)
    layer = chunk.layer(operation, closes=operation.inputs[0].root in closed)
    [data] = inputs
    image = pad(data.reshape(len(data), *operation.inputs[0].image, data.shape[-1]), operation.padding)
    bias = None if operation.bias is None else chunk.tensor(operation.bias)
    output: Tensor = SparseProduct.apply(  # type: ignore[no-untyped-call]
        image, chunk.tensor(operation.weight).reshape(-1), bias, layer, operation.output.root in closed
    )
    return output.reshape(chunk.k, *operation.output.shape, data.shape[-1])


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def _activation(chunk: BlockChunk, network: Network, operation: Activation, inputs: list[Tensor]) -> Tensor:
    return ACTIVATIONS[operation.kind](inputs[0])


def _gated(operation: Any, value: Tensor) -> Tensor:
    return torch.relu(value) if operation.output.gated else value


def _norm(chunk: BlockChunk, network: Network, operation: Norm, inputs: list[Tensor]) -> Tensor:
    """The channels of all individuals side by side, each normalised over its pixels and samples."""
    options, k = operation.options, chunk.k

    def numbers(name: str | None) -> Tensor | None:
        return None if name is None else chunk.tensor(name).reshape(-1)

    if options.batch_statistics and options.tracked:
        chunk.tensor(options.tracked).add_(1)
    x = inputs[0].expand(k, *inputs[0].shape[1:])
    flat = x.reshape(1, k * x.shape[1], -1)
    y = F.batch_norm(
        flat, numbers(options.mean), numbers(options.variance), numbers(options.weight), numbers(options.bias),
        training=options.batch_statistics, momentum=options.momentum or 0.0, eps=options.epsilon,
    )  # fmt: skip
    return _gated(operation, y.reshape(x.shape))


def _largest(chunk: BlockChunk, network: Network, operation: Largest, inputs: list[Tensor]) -> Tensor:
    """Windows of one sample each, in three dimensions: the batch is the last of them."""
    window = ((*operation.kernel, 1), (*operation.stride, 1), (*operation.padding, 0))
    y = F.max_pool3d(inputs[0], *window)
    if y.shape[2:4] != operation.output.shape[1:]:
        y = F.max_pool3d(inputs[0], *window, ceil_mode=True)
    return y


def _mean(chunk: BlockChunk, network: Network, operation: Mean, inputs: list[Tensor]) -> Tensor:
    """Sums over lines, then over columns, as two small products; one window over all is a plain sum."""
    x, (tops, bottoms, lefts, rights, divisors) = inputs[0], operation.tables
    divisor = chunk.constant(operation, "divisors", lambda: torch.from_numpy(divisors).reshape(len(tops), len(lefts), 1), x)
    if len(tops) == len(lefts) == 1 and (bottoms[0] - tops[0], rights[0] - lefts[0]) == tuple(x.shape[2:4]):
        return x.sum((2, 3), keepdim=True) / divisor
    down = chunk.constant(operation, "lines", lambda: _windows(tops, bottoms, x.shape[2]), x)
    across = chunk.constant(operation, "columns", lambda: _windows(lefts, rights, x.shape[3]), x)
    return torch.einsum("kchwb,ih,jw->kcijb", x, down, across) / divisor


def _windows(starts: Any, stops: Any, size: int) -> Tensor:
    at = torch.arange(size)
    return (at >= torch.from_numpy(starts)[:, None]) & (at < torch.from_numpy(stops)[:, None])


def _region(chunk: BlockChunk, network: Network, operation: Region, inputs: list[Tensor]) -> Tensor:
    x, samples = inputs[0], inputs[0].shape[-1]
    image = x.reshape(len(x), *operation.inputs[0].image, samples)
    spans = zip(operation.start, operation.size, operation.step, strict=True)
    part = image[(slice(None), *(slice(a, a + (n - 1) * step + 1, step) for a, n, step in spans))]
    sides = [(to, whole - to - n) for to, whole, n in zip(operation.to, operation.output.image, operation.size, strict=True)]
    padding = [side for pair in reversed(sides) for side in pair]
    return F.pad(part, (0, 0, *padding)).reshape(len(x), *operation.output.shape, samples)


def _reshape(chunk: BlockChunk, network: Network, operation: Reshape, inputs: list[Tensor]) -> Tensor:
    return inputs[0].reshape(len(inputs[0]), *operation.output.shape, inputs[0].shape[-1])


def _plus(chunk: BlockChunk, network: Network, operation: Plus, inputs: list[Tensor]) -> Tensor:
    return _gated(operation, inputs[0] + inputs[1])


def _dropout(chunk: BlockChunk, network: Network, operation: Dropout, inputs: list[Tensor]) -> Tensor:
    """The noise that torch draws for one batch, the same for all individuals."""
    [x] = inputs
    shape = (x.shape[-1], *operation.output.shape)
    noise = F.dropout(torch.ones(shape, dtype=chunk.engine.dtype, device=x.device), operation.rate)
    return x * noise.movedim(0, -1).to(x.dtype)


RULES: dict[type, Rule] = {
    Product: _product,
    Activation: _activation,
    Norm: _norm,
    Largest: _largest,
    Mean: _mean,
    Region: _region,
    Reshape: _reshape,
    Plus: _plus,
    Dropout: _dropout,
}
