"""Which unit stands where: every value of a network labelled with the unit (channel or feature) that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from evoprune.errors import InputError, UnsupportedLayer
from evoprune.masks.graph import DTYPE, Conv, Layer, Walker, own_name, pads, tensors_in
from evoprune.masks.mask import Indices

__all__ = ["CONSTANT", "INPUT", "Join", "LayerCall", "Units", "spread"]

CONSTANT, INPUT = 0, 1  # labels of values that belong to no unit; units count from 2


@dataclass(frozen=True)
class LayerCall:
    """One use of a Linear or Conv layer.

    node: its name in the traced graph. name: the module's name. inputs, outputs: the unit of each input and output channel
    or feature. seen: which taps of the kernel (C order) ever meet a pixel rather than padding; None for all.
    """

    node: str
    name: str
    module: Layer
    inputs: Indices
    outputs: Indices
    seen: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Join:
    """New units `targets[i]` that depend on the units `sources[i]`, without a weight between them."""

    targets: Indices
    sources: Indices


class Units(Walker):
    """Labels every value, and keeps what happened on the way.

    input_shape: the shape of one sample. steps: layer calls and joins in the order of computation. labels: the labels of every
    value, by node; numbers: every value that has none, such as sizes. outputs: units that the network gives out. tied: pairs of
    units that share a place. mixed: units whose places others depend on.
    """

    def __init__(self, graph: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
        super().__init__(graph)
        self.count = 2
        self.steps: list[LayerCall | Join] = []
        self.labels: dict[str, list[Tensor]] = {}
        self.numbers: dict[str, object] = {}
        self.tied: list[Indices] = []
        self.mixed: list[Indices] = []
        self.input_shape = _checked(input_shape)
        result = self.walk(torch.full((2, *self.input_shape), float(INPUT), dtype=DTYPE))
        if not tensors_in(result):
            raise UnsupportedLayer("the model's forward gives no tensor: return its outputs")
        self.outputs = _units(torch.cat([tensor.flatten() for tensor in tensors_in(result)]))

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        self.labels[n.name] = tensors_in(value)
        if not self.labels[n.name]:
            self.numbers[n.name] = value
        return value

    def overwrite(self, x: Tensor, result: Tensor) -> Tensor:
        for name, labels in self.labels.items():  # which are those of before
            self.labels[name] = [own.clone() if _same_memory(own, x) else own for own in labels]
        return super().overwrite(x, result)

    def layer(self, module: Layer, x: Tensor, shape: torch.Size) -> Tensor:
        axis = x.dim() - 1 if isinstance(module, nn.Linear) else 1
        inputs = _units(self._merge(x.movedim(axis, 0).flatten(1)), unique=False)
        outputs = self._new(shape[axis])
        seen = None if isinstance(module, nn.Linear) else _seen(module, x.shape[2:], shape[2:])
        self.steps.append(LayerCall(self.node.name, own_name(self.node.target), module, inputs, outputs, seen))
        return spread(torch.from_numpy(outputs).to(DTYPE), axis, shape)

    def pointwise(self, operands: list[Tensor], shape: torch.Size) -> Tensor:
        real = [x for x in operands if x.numel() > 1 or x.item() != CONSTANT] or operands[:1]  # scalars tie nothing
        if len(real) == 1:
            return real[0].expand(shape)
        rows = torch.stack([operand.expand(shape).flatten() for operand in real], dim=1)
        return self._join(rows, tie=True).view(shape)

    def channelwise(self, x: Tensor, shape: torch.Size) -> Tensor:
        return spread(self._merge(x.movedim(1, 0).flatten(1)), 1, shape)

    def reduce(self, x: Tensor, dims: list[int], shape: torch.Size) -> Tensor:
        kept = [dim for dim in range(x.dim()) if dim not in dims]
        sizes = [x.shape[dim] for dim in kept]
        rows = x.permute(*kept, *dims).reshape(int(np.prod(sizes)), -1)
        return self._merge(rows).view(shape)

    def mix(self, x: Tensor) -> Tensor:
        self.mixed.append(_units(x))
        return x

    def blend(self, x: Tensor, shape: torch.Size) -> Tensor:
        hub = self._merge(x.reshape(1, -1))
        self.mixed.append(_units(hub))
        return hub.expand(int(np.prod(shape))).view(shape)

    # ---- making units -------------------------------------------------------------------------------------------

    def _new(self, count: int) -> Indices:
        units = np.arange(self.count, self.count + count)
        self.count += count
        return units

    def _merge(self, rows: Tensor) -> Tensor:
        """One label a row for units that lose their own places; rows that hold several get a new unit."""
        if bool((rows == rows[:, :1]).all()):
            return rows[:, 0]
        merged = self._join(rows, tie=False)
        self.mixed += [_units(rows), _units(merged)]
        return merged

    def _join(self, rows: Tensor, *, tie: bool) -> Tensor:
        """One label a row: that of its only unit, or of a new unit that depends on all of them."""
        distinct, where = torch.unique(rows.sort(dim=1).values, dim=0, return_inverse=True)
        table = distinct.numpy().astype(np.int64)
        labels = table[:, -1].copy()
        several = ((table != CONSTANT) & (table != labels[:, None])).any(axis=1)
        labels[several] = self._new(int(several.sum()))
        targets = np.repeat(labels[several], table.shape[1])
        sources = table[several].ravel()
        real = sources != CONSTANT
        if several.any():
            self.steps.append(Join(targets[real], sources[real]))
        if tie:
            pairs = np.stack([np.repeat(labels, table.shape[1]), table.ravel()], axis=1)
            self.tied.append(np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0))
        return torch.from_numpy(labels.astype(np.float64))[where]


def _checked(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(input_shape)
    if not all(isinstance(size, (int, np.integer)) and size > 0 for size in shape):
        raise InputError(f"input shape {input_shape!r} is not usable: give the sizes of one sample, as in (1, 28, 28)")
    return tuple(int(size) for size in shape)


def _units(labels: Tensor, *, unique: bool = True) -> Indices:
    whole = labels.numpy().astype(np.int64)
    return np.unique(whole) if unique else whole


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def spread(channels: Tensor, axis: int, shape: torch.Size) -> Tensor:
    """A tensor of `shape` from one value a place of `axis`."""
    return channels.view([-1 if dim == axis else 1 for dim in range(len(shape))]).expand(shape)


def _seen(module: Conv, inputs: torch.Size, outputs: torch.Size) -> npt.NDArray[np.bool_] | None:
    """Taps of a kernel that meet a pixel for at least one output, flat in C order; None when all do."""
    if module.padding_mode != "zeros":
        return None
    seen = np.ones(1, dtype=bool)
    for dim, (size, count) in enumerate(zip(inputs, outputs, strict=True)):
        taps = np.arange(module.kernel_size[dim]) * module.dilation[dim] - pads(module)[dim]
        meets = np.arange(count)[:, None] * module.stride[dim] + taps
        seen = np.outer(seen, ((meets >= 0) & (meets < size)).any(axis=0)).ravel()
    return None if seen.all() else seen
