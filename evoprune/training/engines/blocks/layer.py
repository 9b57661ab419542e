"""One Linear or Conv2d of a chunk: its structure on the device, and the product with its gradients for autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from evoprune.masks.mask import Indices
from evoprune.training.engines.blocks.product import product
from evoprune.training.engines.blocks.sampled import sampled
from evoprune.training.engines.blocks.transposed import transposed
from evoprune.training.engines.sparse.operations import Product
from evoprune.training.engines.sparse.structure import Sparse, by_column, by_row

__all__ = ["Layer", "SparseProduct", "pad"]

PART = 64
"""Pixels of a row over which one program adds up the gradient of a survivor, in whole lines."""


@dataclass(frozen=True)
class Tile:
    """What one program computes at a time: runs of `entries` survivors, `width` numbers of each, with `warps` of 32 threads.

    It follows from the layer alone, never from masks or rows: sums keep their order whoever shares a chunk.
    """

    entries: int
    width: int
    warps: int

    @property
    def options(self) -> dict[str, int]:
        """As the kernels are called with."""
        return {"ENTRIES": self.entries, "WIDTH": self.width, "num_warps": self.warps}


UNITS = Tile(entries=16, width=32, warps=1)
"""Of a Linear layer: at 98% sparsity a row has about 16 survivors. 32 samples are a cache line; 16 numbers a thread are enough
for the few survivors of a row, and the inputs of 784 units take 100 KB of a processor's cache."""
PIXELS = Tile(entries=4, width=128, warps=1)
"""Of a convolution: a channel has few survivors and long lines."""


@dataclass(frozen=True)
class _Table:
    """A `Sparse` on the device."""

    rows: int
    pointers: Tensor
    indices: Tensor
    order: Tensor
    first: Tensor

    @classmethod
    def of(cls, sparse: Sparse, device: torch.device) -> _Table:
        arrays = (sparse.pointers, sparse.indices, sparse.order, sparse.first)
        return cls(sparse.rows, *(torch.from_numpy(array).to(device) for array in arrays))


class Layer:
    """Geometry and structure of one product of a chunk.

    operation: of the lowered network. survivors: sorted indices of each individual. closes: whether its input came out of a
    ReLU that nothing else reads, so that the gradient of the input is closed here.
    """

    def __init__(self, operation: Product, survivors: Sequence[Indices], device: torch.device, *, closes: bool) -> None:
        x, y = operation.inputs[0].image, operation.output.image
        self.kernel, self.stride, self.padding = operation.kernel, operation.stride, operation.padding
        self.channels, self.rows, self.out, self.k = x[0], y[0], y[1:], len(survivors)
        self.padded = (x[1] + 2 * self.padding[0], x[2] + 2 * self.padding[1])
        self.closes = closes and not any(self.padding)
        self.relu, self.device, self._survivors = operation.output.gated, device, survivors
        width = self.padded[1]
        self.line_step, self.pixel_step = self.stride[0] * width, self.stride[1]
        size = prod(self.padded)
        offsets = [c * size + i * width + j for c in range(x[0]) for i in range(self.kernel[0]) for j in range(self.kernel[1])]
        self.forward = _Table.of(by_row(survivors, self.rows, np.array(offsets, dtype=np.int64)), device)
        self._backward: _Table | None = None

    @property
    def tile(self) -> Tile:
        """How its kernels divide the work."""
        return UNITS if self.out == (1, 1) else PIXELS

    @property
    def part(self) -> int:
        """Lines over which one program adds up the gradient of a survivor."""
        return max(1, PART // self.out[1])

    @property
    def stretched(self) -> tuple[int, int]:
        """Lines and columns of the delta when strides are undone and windows fit on every side."""
        return self.padded[0] + self.kernel[0] - 1, self.padded[1] + self.kernel[1] - 1

    @property
    def backward(self) -> _Table:
        """The transpose, made when it is first needed."""
        if self._backward is None:
            (tall, wide), (_, width) = self.kernel, self.stretched
            taps = [(tall - 1 - i) * width + wide - 1 - j for i in range(tall) for j in range(wide)]
            target = np.repeat(np.arange(self.channels, dtype=np.int64), tall * wide)
            shift = np.tile(np.array(taps, dtype=np.int64), self.channels)
            table = by_column(self._survivors, self.channels, len(target), target, shift, prod(self.stretched))
            self._backward = _Table.of(table, self.device)
        return self._backward

    def stretch(self, delta: Tensor) -> Tensor:
        """Zeros between the pixels of `delta` `(k, rows, lines, columns, B)` for strides, and around it for windows."""
        if self.kernel == self.stride == (1, 1):
            return delta.contiguous()
        k, rows, lines, columns, samples = delta.shape
        whole = delta.new_zeros((k, rows, *self.stretched, samples))
        down, right = self.kernel[0] - 1, self.kernel[1] - 1
        spans = slice(down, down + (lines - 1) * self.stride[0] + 1), slice(right, right + (columns - 1) * self.stride[1] + 1)
        whole[:, :, spans[0], spans[1]][:, :, :: self.stride[0], :: self.stride[1]] = delta
        return whole


class SparseProduct(torch.autograd.Function):
    """`(data, values, bias, layer) -> (k, rows, lines, columns, B)`, with ReLU where the layer has one.

    data: `(k or 1, channels, lines, columns, B)`, padded. values: survivors of all k. bias: `(k, rows)` or None. closed: the
    reader of the output has closed the gradient where the ReLU is shut.
    """

    @staticmethod
    def forward(ctx: Any, data: Tensor, values: Tensor, bias: Tensor | None, layer: Layer, closed: bool) -> Tensor:
        data = data.contiguous()
        samples = data.shape[-1]
        output = data.new_empty((layer.k, layer.rows, *layer.out, samples))
        table, sums = layer.forward, _sums(values)
        grid = (layer.rows * layer.out[0], layer.k, triton.cdiv(layer.out[1] * samples, layer.tile.width))
        with torch.cuda.device_of(data):
            product[grid](
                output, data, values, values if bias is None else bias, table.pointers, table.indices, table.first,
                layer.rows, *layer.out, samples, _owner(data), layer.line_step, layer.pixel_step,
                STRIDED=layer.pixel_step != 1, BIASED=bias is not None, RELU=layer.relu, SUM=sums, **layer.tile.options,
            )  # fmt: skip
        gate = output if layer.relu and not closed else None
        ctx.save_for_backward(data, values, gate)
        ctx.layer, ctx.biased = layer, bias is not None
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        data, values, gate = ctx.saved_tensors
        delta = delta.contiguous() if gate is None else torch.where(gate > 0, delta, 0)
        change, bias = _sampled(ctx.layer, data, delta, values, biased=ctx.biased)
        into = _transposed(ctx.layer, data, delta, values) if ctx.needs_input_grad[0] else None
        return into, change, bias, None, None


def _sampled(layer: Layer, data: Tensor, delta: Tensor, values: Tensor, *, biased: bool) -> tuple[Tensor, Tensor | None]:
    """Gradients of survivors and bias."""
    parts, samples, table = triton.cdiv(layer.out[0], layer.part), data.shape[-1], layer.forward
    change = values.new_empty((parts, len(values)))
    bias = values.new_empty((parts, layer.k, layer.rows) if biased else (1,))
    with torch.cuda.device_of(data):
        sampled[(layer.rows, layer.k, parts)](
            change, bias, delta, data, table.pointers, table.indices, table.first, len(values),
            layer.rows, layer.out[0], layer.part, layer.out[1], samples, _owner(data), layer.line_step, layer.pixel_step,
            STRIDED=layer.pixel_step != 1, BIASED=biased, SUM=_sums(values), **layer.tile.options,
        )  # fmt: skip
    return change.sum(0), bias.sum(0) if biased else None


def _transposed(layer: Layer, data: Tensor, delta: Tensor, values: Tensor) -> Tensor:
    """Gradient of the padded input."""
    whole, samples, table = layer.stretch(delta), data.shape[-1], layer.backward
    into = data.new_empty((layer.k, layer.channels, *layer.padded, samples))
    grid = (layer.channels * layer.padded[0], layer.k, triton.cdiv(layer.padded[1] * samples, layer.tile.width))
    with torch.cuda.device_of(data):
        transposed[grid](
            into, whole, data, values, table.pointers, table.indices, table.order, table.first,
            layer.channels, *layer.padded, samples, whole[0].numel(), layer.stretched[1],
            GATED=layer.closes, SUM=_sums(values), **layer.tile.options,
        )  # fmt: skip
    return into


def _owner(data: Tensor) -> int:
    """Numbers from one individual's data to the next's."""
    return data[0].numel() if len(data) > 1 else 0


def _sums(values: Tensor) -> Any:
    """The type in which products are added up."""
    return tl.float64 if values.dtype == torch.float64 else tl.float32


def pad(data: Tensor, padding: tuple[int, int]) -> Tensor:
    """`data` `(k, channels, lines, columns, B)` with zeros around its pixels."""
    down, right = padding
    return F.pad(data, (0, 0, right, right, down, down)) if down or right else data
