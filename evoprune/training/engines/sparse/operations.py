"""The operations of a lowered network: each turns itself into kernel calls, forward and backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from evoprune.training.engines.kernels import activation, border, product, sampled
from evoprune.training.engines.kernels.runtime import kernel
from evoprune.training.engines.sparse.structure import Sparse, by_column, by_row
from evoprune.training.engines.sparse.values import Layout, Value

if TYPE_CHECKING:
    from evoprune.training.engines.sparse.tables import Tables

__all__ = ["BARRIER", "Activation", "Call", "Operation", "Output", "Product", "gate_calls"]

Call = tuple[kernel, Sequence[int] | npt.NDArray[np.int64]]


@kernel
def _barrier(args: Any, kind: Any, row: int, slot: int, block: int) -> None:
    """Never called."""


BARRIER: Call = (_barrier, ())
"""Between two calls: no block of the batch goes on before all have come this far."""


class Operation(ABC):
    """Reads `inputs`, writes `output`. Its trained and fixed parameters are known by name."""

    inputs: tuple[Value, ...]
    output: Value
    barrier = False
    """Whether it asks for a barrier between reading its inputs and writing its output, and the other way round backward."""

    def prepare(self) -> None:  # noqa: B027 - most operations need none
        """Ask for the borders that this operation needs of its inputs and outputs."""

    @abstractmethod
    def forward(self, tables: Tables) -> list[Call]:
        """Kernel calls that compute the output."""

    @abstractmethod
    def backward(self, tables: Tables) -> list[Call]:
        """Kernel calls that compute the gradients of inputs and parameters from that of the output."""


class Product(Operation):
    """Linear and Conv2d: a sparse matrix times shifted rows, with bias, and ReLU if the output is gated."""

    def __init__(
        self, x: Value, output: Value, weight: str, bias: str | None, kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        self.inputs, self.output, self.weight, self.bias = (x,), output, weight, bias
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def prepare(self) -> None:
        x, y = self.inputs[0], self.output
        x.root.pad = max(x.root.pad, *self.padding)
        if not x.root.needs:
            return
        for size, out, window, step, around in zip(x.image[1:], y.image[1:], self.kernel, self.stride, self.padding, strict=True):
            for phase in range(step):
                last = (size - 1 - phase) // step
                for move in [(phase + around - k) // step for k in range(window) if (phase + around - k) % step == 0]:
                    y.root.delta_pad = max(y.root.delta_pad, -move, last + move - (out - 1))

    # ---- structure ----------------------------------------------------------------------------------------------

    def rows_of(self, tables: Tables, *, dense: bool = False) -> Sparse:
        """The weights by output row, with offsets into the input; dense: pruned ones too."""
        x = self.inputs[0]
        layout = tables.layout(x)
        channel, i, j = np.ogrid[: x.image[0], : self.kernel[0], : self.kernel[1]]
        offsets = (channel * layout.pixels(1, 0) + i * layout.pixels(0, 1) + j).ravel()
        key = ("rows", self.weight, dense, offsets.tobytes())
        every = np.arange(self.output.image[0] * len(offsets), dtype=np.int64)

        def make() -> Sparse:
            survivors = [every] * tables.chunk.k if dense else tables.survivors(self.weight)
            return by_row(survivors, self.output.image[0], offsets)

        return tables.structure(key, make, keep=not dense)

    def columns_of(self, tables: Tables, phase: tuple[int, int]) -> Sparse:
        """The transposed weights of one phase of the stride, with offsets into the output's gradient."""
        channels, layout = self.inputs[0].image[0], tables.delta_layout(self.output)
        channel, i, j = np.ogrid[:channels, : self.kernel[0], : self.kernel[1]]
        down, right = phase[0] + self.padding[0] - i, phase[1] + self.padding[1] - j
        meets = (down % self.stride[0] == 0) & (right % self.stride[1] == 0) & (channel >= 0)  # for every channel
        moved = np.where(meets, down // self.stride[0] * layout.pixels(0, 1) + right // self.stride[1], 0).ravel()
        goal, step = np.where(meets, channel, -1).ravel(), layout.pixels(1, 0)
        key = ("columns", self.weight, goal.tobytes(), moved.tobytes(), step)
        return tables.structure(key, lambda: by_column(tables.survivors(self.weight), channels, len(goal), goal, moved, step))

    # ---- calls --------------------------------------------------------------------------------------------------

    def forward(self, tables: Tables) -> list[Call]:
        x, y = self.inputs[0], self.output
        sparse, source, target = self.rows_of(tables), tables.layout(x), tables.layout(y)
        lines, runs, length, in_run = self._runs(y.image[1:], target.block)
        args = [0] * product.WORDS
        tables.put(args, product.OUT, tables.at(y, inside=True))
        tables.put(args, product.IN, tables.at(x, offset=self._window(source)))
        args[product.WEIGHTS] = tables.weight(self.weight)
        args[product.BIAS] = tables.stacked(self.bias)
        self._structure(args, product, tables, sparse)
        args[product.ROWS], args[product.LINES], args[product.RUNS], args[product.LENGTH] = sparse.rows, lines, runs, length
        args[product.OUT_ROW], args[product.OUT_LINE], args[product.OUT_RUN] = target.channel, target.line, target.block
        args[product.IN_LINE], args[product.IN_RUN] = source.line * self.stride[0], in_run
        args[product.UNIT], args[product.GATED] = source.block, int(y.gated)
        args[product.LANES], args[product.SIZE] = tables.lanes, tables.size
        return [(product.product, args)]

    def backward(self, tables: Tables) -> list[Call]:
        return self._sampled(tables) + self._transposed(tables)

    def _sampled(self, tables: Tables) -> list[Call]:
        x, y = self.inputs[0], self.output
        weight, bias = tables.weight_gradient(self.weight), tables.stacked_gradient(self.bias)
        if not weight and not bias:
            return []
        sparse, source, delta = self.rows_of(tables, dense=tables.dense), tables.layout(x), tables.delta_layout(y)
        lines, runs, length, in_run = self._runs(y.image[1:], source.block)
        args = [0] * sampled.WORDS
        tables.put(args, sampled.DELTA, tables.delta_at(y, inside=True))
        tables.put(args, sampled.IN, tables.at(x, offset=self._window(source)))
        args[sampled.WEIGHTS], args[sampled.BIAS] = weight, bias
        if lines * runs > 1:
            most = int(np.diff(sparse.first).max(initial=0))
            tables.put(args, sampled.SUMS, tables.space.scratch(most * tables.lanes))
        self._structure(args, sampled, tables, sparse)
        args[sampled.ROWS], args[sampled.LINES], args[sampled.RUNS], args[sampled.LENGTH] = sparse.rows, lines, runs, length
        args[sampled.DELTA_ROW], args[sampled.DELTA_LINE], args[sampled.DELTA_RUN] = delta.channel, delta.line, delta.block
        args[sampled.IN_LINE], args[sampled.IN_RUN] = source.line * self.stride[0], in_run
        args[sampled.UNIT], args[sampled.LANES], args[sampled.SIZE] = source.block, tables.lanes, tables.size
        return [(sampled.sampled, args)]

    def _transposed(self, tables: Tables) -> list[Call]:
        x, y = self.inputs[0], self.output
        if not x.root.needs:
            return []
        add, gated = tables.contribute(x.root)
        source, target, gate = tables.delta_layout(y), tables.delta_layout(x), tables.layout(x)
        calls: list[Call] = []
        for down in range(self.stride[0]):
            for right in range(self.stride[1]):
                sparse = self.columns_of(tables, (down, right))
                sizes = [
                    -(-(size - at) // stride) for size, at, stride in zip(x.image[1:], (down, right), self.stride, strict=True)
                ]
                lines, runs, length, out_run = self._runs(sizes, source.block)
                args = [0] * product.WORDS
                tables.put(
                    args, product.OUT, tables.delta_at(x, offset=target.origin + down * target.line + right * target.block)
                )
                tables.put(args, product.IN, tables.delta_at(y, inside=True))
                if gated:
                    tables.put(args, product.GATE, tables.at(x, offset=gate.origin + down * gate.line + right * gate.block))
                args[product.WEIGHTS] = tables.weight(self.weight)
                args[product.BIAS] = tables.address(self.rows_of(tables).first)
                self._structure(args, product, tables, sparse)
                args[product.ORDER] = tables.address(sparse.order)
                args[product.ROWS], args[product.LINES], args[product.RUNS], args[product.LENGTH] = (
                    sparse.rows,
                    lines,
                    runs,
                    length,
                )
                args[product.OUT_ROW], args[product.OUT_LINE] = target.channel, target.line * self.stride[0]
                args[product.OUT_RUN] = out_run
                args[product.IN_LINE], args[product.IN_RUN] = source.line, source.block
                args[product.GATE_ROW], args[product.GATE_LINE] = gate.channel, gate.line * self.stride[0]
                args[product.GATE_RUN] = out_run
                args[product.UNIT], args[product.ADD], args[product.GATED] = source.block, int(add), 2 if gated else 0
                args[product.LANES], args[product.SIZE] = tables.lanes, tables.size
                calls.append((product.transposed, args))
        return calls

    def _window(self, source: Layout) -> int:
        """Offset of the first pixel that the kernel's corner meets."""
        return source.origin - self.padding[0] * source.line - self.padding[1] * source.block

    def _runs(self, size: Sequence[int], block: int) -> tuple[int, int, int, int]:
        """Lines, runs a line, length of a run, and step from one strided run to the next."""
        height, width = size
        if self.stride[1] == 1:
            return height, 1, width * block, 0
        return height, width, block, self.stride[1] * block

    @staticmethod
    def _structure(args: list[int], names: object, tables: Tables, sparse: Sparse) -> None:
        args[names.POINTERS] = tables.address(sparse.pointers)  # type: ignore[attr-defined]
        args[names.INDICES] = tables.address(sparse.indices)  # type: ignore[attr-defined]
        args[names.FIRST] = tables.address(sparse.first)  # type: ignore[attr-defined]


class Activation(Operation):
    """An element-wise nonlinearity."""

    def __init__(self, x: Value, output: Value, kind: str) -> None:
        self.inputs, self.output, self.kind = (x,), output, kind

    def _args(self, tables: Tables) -> list[int]:
        x, y = self.inputs[0], self.output
        args = [0] * activation.WORDS
        layouts = [tables.layout(x), tables.layout(y), tables.delta_layout(y), tables.delta_layout(x)]
        for number, layout in enumerate(layouts):
            args[activation.STRIDES + 2 * number : activation.STRIDES + 2 * number + 2] = [layout.channel, layout.line]
        channels, lines, width = y.image
        args[activation.CHANNELS], args[activation.LINES] = channels, lines
        args[activation.LENGTH], args[activation.KIND] = width * layouts[0].block, activation.KINDS[self.kind]
        tables.put(args, activation.IN, tables.at(x, inside=True))
        tables.put(args, activation.OUT, tables.at(y, inside=True))
        return args

    def forward(self, tables: Tables) -> list[Call]:
        return [(activation.activate, self._args(tables))]

    def backward(self, tables: Tables) -> list[Call]:
        x, y = self.inputs[0], self.output
        if not x.root.needs:
            return []
        add, gated = tables.contribute(x.root)
        args = self._args(tables)
        tables.put(args, activation.DELTA_OUT, tables.delta_at(y, inside=True))
        tables.put(args, activation.DELTA_IN, tables.delta_at(x, inside=True))
        args[activation.ADD] = int(add)
        return [(activation.activate_back, args), *gate_calls(tables, x, gated)]


def gate_calls(tables: Tables, x: Value, gated: bool) -> list[Call]:
    """The gate of a fused ReLU as a pass of its own."""
    if not gated:
        return []
    value, delta = tables.layout(x.root), tables.delta_layout(x.root)
    channels, lines, width = x.root.image
    args = [0] * activation.WORDS
    args[activation.STRIDES + 2 : activation.STRIDES + 4] = [value.channel, value.line]
    args[activation.STRIDES + 6 : activation.STRIDES + 8] = [delta.channel, delta.line]
    args[activation.CHANNELS], args[activation.LINES], args[activation.LENGTH] = channels, lines, width * value.block
    tables.put(args, activation.OUT, tables.at(x.root, inside=True))
    tables.put(args, activation.DELTA_IN, tables.delta_at(x.root, inside=True))
    return [(activation.gate, args)]


class Output(Operation):
    """The last value leaves as an ordinary tensor; its gradient enters the same way.

    narrow: the tensor stays batch-last in memory.
    """

    NARROW = 64

    def __init__(self, x: Value) -> None:
        self.inputs, self.output = (x,), x
        self.narrow = prod(x.shape) <= self.NARROW

    def tensor(self, k: int, samples: int, dtype: torch.dtype) -> torch.Tensor:
        """A new tensor `(k, samples, …)` in the memory order that the kernels write."""
        shape = self.output.shape
        if self.narrow:
            return torch.empty((k, *shape, samples), dtype=dtype).movedim(-1, 1)
        return torch.empty((k, samples, *shape), dtype=dtype)

    def ordered(self, change: torch.Tensor) -> torch.Tensor:
        """`change` in that order."""
        return change.movedim(1, -1).contiguous() if self.narrow else change.contiguous()

    def _args(self, tables: Tables, at: tuple[int, int, int, int]) -> list[int]:
        args = [0] * border.WORDS
        layout = tables.layout(self.output)
        tables.put(args, border.BUFFER, at)
        args[border.FEATURES], args[border.SAMPLES] = layout.numbers // layout.block, tables.samples
        args[border.BLOCK], args[border.SIZE] = layout.block, tables.size
        narrow = self.narrow
        args[border.OF_FEATURE], args[border.OF_SAMPLE] = (tables.samples, 1) if narrow else (1, args[border.FEATURES])
        return args

    def forward(self, tables: Tables) -> list[Call]:
        if tables.objective:  # of a backward pass it is the first call
            return [] if tables.plan.keep else [tables.objective(tables)]
        return [(border.emit, self._args(tables, tables.at(self.output)))]

    def backward(self, tables: Tables) -> list[Call]:
        add, gated = tables.contribute(self.output.root)
        if tables.objective:
            assert not add, "the output's gradient is the first of all"
            return [tables.objective(tables), *gate_calls(tables, self.output, gated)]
        args = self._args(tables, tables.delta_at(self.output))
        args[border.ADD] = int(add)
        return [(border.absorb, args), *gate_calls(tables, self.output, gated)]
