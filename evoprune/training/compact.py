"""A smaller module with the same outputs: units that cannot matter are taken out of a sparse network.

A unit goes when every kept unit that reads it does so with zero weights, or when it is a constant (nothing reaches it but biases)
that the readers' biases can take over exactly. Units that share a place (residual adds) go together or not at all, and
where the forward method counts on a size, the units of that size stay.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from evoprune.errors import UnsupportedLayer
from evoprune.masks.graph import Conv, Layer, Walker, own_name, pads, trace
from evoprune.masks.units import CONSTANT, INPUT, LayerCall, Units, spread
from evoprune.problems.gradients import trainable
from evoprune.seeds import torch_generator
from evoprune.training.replay import clash

__all__ = ["compact"]

Flags = npt.NDArray[np.bool_]
BatchNorm = nn.modules.batchnorm._BatchNorm


@trainable()
def compact(module: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """A copy of `module` with smaller Linear, Conv and batch norm layers and, in evaluation mode, the same outputs.

    module: any module that torch.fx can trace; pruned weights are zeros. input_shape: the shape of one sample; images of
    another size are not promised the same outputs. Inputs and outputs keep their sizes, and every layer keeps a unit.
    Returns a new module of the same class. Raises `UnsupportedLayer` when the structure cannot be followed.
    """
    _check(module)
    graph = trace(module)
    units = Units(graph, input_shape)
    calls = [step for step in units.steps if isinstance(step, LayerCall)]
    readings = _readings(graph, units, calls)
    needed = _needed(units, readings, _pinned(module, graph, units, calls))
    small = copy.deepcopy(module)
    for reading in readings:
        _shrink(small.get_submodule(reading.call.name), reading, needed)  # type: ignore[arg-type]
    for name, labels in _norms(graph, units):
        _shrink_norm(small.get_submodule(name), needed[labels])  # type: ignore[arg-type]
    return small


# ---- what each layer reads, and what of it is constant -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """One call of a layer.

    reads: (rows, columns), whether an output needs an input: its weight is not 0, and the input is no constant that the bias
    could take over. constants: (columns,) what the bias takes over an input and unit of weight, 0 for the rest.
    """

    call: LayerCall
    reads: Flags
    constants: npt.NDArray[np.float64]


def _readings(graph: fx.GraphModule, units: Units, calls: list[LayerCall]) -> list[_Reading]:
    unknown = _Unknown(graph, units.input_shape, {call.node: call.seen for call in calls})
    values = _values(graph, units.input_shape)
    readings = []
    for call in calls:
        value, uniform = values[call.node]
        padded = not isinstance(call.module, nn.Linear) and _padded(call.module)
        foldable = ~unknown.columns[call.node] & uniform & ((value == 0) | (not padded))
        used = _used(call.module, call.seen)
        reads = used & ~foldable if used.shape[1] == len(foldable) else used  # groups: never folded
        readings.append(_Reading(call, reads, np.where(foldable, value, 0.0)))
    return readings


def _used(module: Layer, seen: Flags | None) -> Flags:
    """(rows, columns), whether a weight other than 0 connects them, at a tap that sees a pixel."""
    taps = (module.weight.detach() != 0).reshape(*module.weight.shape[:2], -1).numpy()
    used: Flags = np.any(taps if seen is None else taps & seen, axis=2)
    return used


def _padded(module: Conv) -> bool:
    """Whether zeros beside the image make its border differ from its middle."""
    same = module.padding == "same" and any(size > 1 for size in module.kernel_size)
    return module.padding_mode == "zeros" and (same or any(pads(module)))


class _Unknown(Walker):
    """Walks with 1 where a value depends on the input and 0 where it is a constant.

    columns: by node of a layer, whether each of its inputs depends on the network's input.
    """

    def __init__(self, graph: fx.GraphModule, input_shape: tuple[int, ...], seen: dict[str, Flags | None]) -> None:
        super().__init__(graph)
        self.seen = seen
        self.columns: dict[str, Flags] = {}
        self.walk(torch.ones(2, *input_shape, dtype=torch.float64))

    def layer(self, module: Layer, x: Tensor, shape: torch.Size) -> Tensor:
        axis = x.dim() - 1 if isinstance(module, nn.Linear) else 1
        columns = x.movedim(axis, 0).flatten(1).amax(1).numpy() > 0
        self.columns[self.node.name] = columns
        groups = int(getattr(module, "groups", 1))
        parts = zip(np.split(_used(module, self.seen[self.node.name]), groups), np.split(columns, groups), strict=True)
        rows = [used @ own for used, own in parts]
        return spread(torch.from_numpy(np.concatenate(rows)).double(), axis, shape)

    def pointwise(self, operands: list[Tensor], shape: torch.Size) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*operands)).amax(0).expand(shape)

    def channelwise(self, x: Tensor, shape: torch.Size) -> Tensor:
        return spread(x.movedim(1, 0).flatten(1).amax(1), 1, shape)

    def reduce(self, x: Tensor, dims: list[int], shape: torch.Size) -> Tensor:
        return x.amax(dims).view(shape)

    def mix(self, x: Tensor) -> Tensor:
        return x.amax().expand_as(x)

    def blend(self, x: Tensor, shape: torch.Size) -> Tensor:
        return x.amax().expand(shape)


class _Values(fx.Interpreter):
    """Runs the network and keeps, by node of a layer, one value an input channel and whether all its pixels have it."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.inputs: dict[str, tuple[npt.NDArray[np.float64], Flags]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module" and isinstance(layer := self.fetch_attr(str(n.target)), Layer):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            x: Tensor = args[0] if args else kwargs["input"]
            rows = x.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
            close = (rows - rows[:, :1]).abs() <= 64 * torch.finfo(x.dtype).eps * rows[:, :1].abs()  # a NaN is not
            self.inputs[n.name] = rows[:, 0].double().numpy(), close.all(1).numpy()
        return super().run_node(n)


def _values(graph: fx.GraphModule, input_shape: tuple[int, ...]) -> dict[str, tuple[npt.NDArray[np.float64], Flags]]:
    """What the layers read on some input: in float64, or as it is if the forward method insists on another type."""
    own = next((p.dtype for p in graph.parameters() if p.is_floating_point()), torch.float32)
    for last, dtype in ((False, torch.float64), (True, own)):
        values = _Values(copy.deepcopy(graph).to(dtype))
        x = torch.randn(2, *input_shape, generator=torch_generator(0, "compact"), dtype=torch.float64).to(dtype)
        try:
            with torch.no_grad():
                values.run(x)
            return values.inputs
        except Exception as error:
            if last:
                reason = " ".join(str(error).split())[:200]
                raise UnsupportedLayer(
                    f"the model does not run on inputs of shape {input_shape} ({reason}): check the shape"
                ) from None
    raise AssertionError("unreachable")


# ---- which units stay --------------------------------------------------------------------------------------------------------


def _pinned(module: nn.Module, graph: fx.GraphModule, units: Units, calls: list[LayerCall]) -> Flags:
    """Units that stay whatever their weights: outputs, those that others depend on by place, those of shared layers."""
    pinned = np.zeros(units.count, dtype=bool)
    pinned[[CONSTANT, INPUT]] = True
    for labels in [units.outputs, *units.mixed]:
        pinned[labels] = True
    shared = _shared(module, graph)
    for call in calls:
        if call.name in shared or getattr(call.module, "groups", 1) > 1:
            pinned[call.inputs] = pinned[call.outputs] = True
    for name, labels in _norms(graph, units):
        if name in shared:
            pinned[labels] = True
    return pinned


def _shared(module: nn.Module, graph: fx.GraphModule) -> set[str]:
    """Names of modules that are called twice, or whose parameters something else uses too."""
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    called = Counter(own_name(node.target) for node in nodes)
    owners = Counter(id(p) for name in called for p in module.get_submodule(name).parameters())
    owners.update(id(_attribute(module, own_name(node.target))) for node in graph.graph.nodes if node.op == "get_attr")
    return {
        name
        for name, count in called.items()
        if count > 1 or any(owners[id(p)] > 1 for p in module.get_submodule(name).parameters())
    }


def _attribute(module: nn.Module, path: str) -> object:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name, None)


def _needed(units: Units, readings: list[_Reading], pinned: Flags) -> Flags:
    """The smallest set of units with the pinned ones that the network, made smaller, still runs with."""
    classes = _classes(units)
    needed = pinned.copy()
    while True:
        needed = _closure(needed, classes, readings)
        empty = [reading for reading in readings if not needed[reading.call.outputs].any()]
        if empty:  # a layer needs a unit: the one that reads least
            needed[empty[-1].call.outputs[empty[-1].reads.sum(axis=1).argmin()]] = True
            continue
        block = clash(units, needed)
        if block is None:
            return needed
        before = needed.sum()
        needed[block] = True
        if needed.sum() == before:
            return np.ones_like(needed)


def _closure(needed: Flags, classes: npt.NDArray[np.int64], readings: list[_Reading]) -> Flags:
    """`needed` with all that its units read, and all that share a place with one of them."""
    while True:
        before = needed.sum()
        wanted = np.zeros_like(needed)
        wanted[classes[needed]] = True
        needed = wanted[classes]
        for reading in reversed(readings):
            call = reading.call
            if reading.reads.shape[1] == len(call.inputs):  # the units around grouped layers are pinned
                needed[call.inputs[reading.reads[needed[call.outputs]].any(axis=0)]] = True
        if needed.sum() == before:
            return needed


def _classes(units: Units) -> npt.NDArray[np.int64]:
    """For each unit the number of the class of units that it shares places with."""
    parent = list(range(units.count))

    def root(unit: int) -> int:
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    for pairs in units.tied:
        for one, other in pairs.tolist():
            parent[root(one)] = root(other)
    return np.array([root(unit) for unit in range(units.count)])


# ---- making modules smaller --------------------------------------------------------------------------------------------------


def _check(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, Layer) and "weight" not in layer._parameters:
            raise UnsupportedLayer(
                f"the weight of layer {name!r} is computed (pruned or parametrized by torch.nn.utils): make it permanent with "
                "prune.remove or remove_parametrizations first"
            )


def _norms(graph: fx.GraphModule, units: Units) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Name and the unit of each channel, of every call of a batch norm."""
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), BatchNorm):
            labels = units.labels[node.name][0]
            yield own_name(node.target), labels.movedim(1, 0).flatten(1)[:, 0].numpy().astype(np.int64)


@torch.no_grad()
def _shrink(layer: Layer, reading: _Reading, needed: Flags) -> None:
    """Keep the needed rows and columns of `layer`, in place; its bias takes over the constants among the others."""
    rows, columns = needed[reading.call.outputs], needed[reading.call.inputs]
    if rows.all() and columns.all():
        return
    keep_rows, keep_columns = torch.from_numpy(np.flatnonzero(rows)), torch.from_numpy(np.flatnonzero(columns))
    weight, device = layer.weight, layer.weight.device
    constants = torch.from_numpy(np.where(columns, 0.0, reading.constants)).to(device)
    shift = weight.double().reshape(*weight.shape[:2], -1).sum(2) @ constants
    shift = shift[keep_rows.to(device)]
    if layer.bias is not None:
        moved = layer.bias.double()[keep_rows.to(device)] + shift
        layer.bias = nn.Parameter(moved.to(layer.bias.dtype), layer.bias.requires_grad)
    elif bool((shift != 0).any()):
        layer.bias = nn.Parameter(shift.to(weight.dtype), weight.requires_grad)
    smaller = weight.index_select(0, keep_rows.to(device)).index_select(1, keep_columns.to(device))
    layer.weight = nn.Parameter(smaller, weight.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = smaller.shape[0], smaller.shape[1]
    else:
        layer.out_channels, layer.in_channels = smaller.shape[0], smaller.shape[1]


@torch.no_grad()
def _shrink_norm(norm: BatchNorm, kept: Flags) -> None:
    """Keep the channels `kept` of a batch norm, in place."""
    if kept.all():
        return
    places = torch.from_numpy(np.flatnonzero(kept))
    for name, value in [*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)]:
        if value.dim() == 1:
            own = value.index_select(0, places.to(value.device))
            setattr(norm, name, nn.Parameter(own, value.requires_grad) if isinstance(value, nn.Parameter) else own)
    norm.num_features = len(places)
