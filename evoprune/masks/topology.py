"""Which survivors matter: those on a path of survivors from the input to the output.

Paths run from unit to unit, a unit being a channel or a feature; biases do not make one. Norms, activations and pooling let every
path through, adds join the paths of their operands, zeros that pad channels end them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from evoprune.errors import MaskMismatch
from evoprune.masks.graph import trace
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.space import MaskSpace
from evoprune.masks.units import INPUT, Join, LayerCall, Units

__all__ = ["DeadUnits", "Topology"]

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DeadUnits:
    """Units of one layer, one bool each: without a path from the input, without a path to the output."""

    no_input: Flags
    no_output: Flags

    @property
    def dead(self) -> Flags:
        """Units without one or the other."""
        return self.no_input | self.no_output


@dataclass(frozen=True)
class _Use:
    """One use of a prunable tensor: the units of its columns and rows, and the taps of its kernel that see a pixel."""

    layer: int
    inputs: Indices
    outputs: Indices
    taps: int
    fan_in: int
    groups: int
    seen: Flags | None

    def ends(self, survivors: Indices) -> tuple[Indices, Indices]:
        """The units that each survivor reads and writes."""
        rows = survivors // self.fan_in
        columns = survivors - rows * self.fan_in
        if self.taps > 1:
            columns //= self.taps
        if self.groups > 1:
            width = self.fan_in // self.taps
            columns += rows // (len(self.outputs) // self.groups) * width
        return self.inputs[columns], self.outputs[rows]

    def blind(self, survivors: Indices) -> Flags | None:
        """Survivors whose tap only ever sees padding; None when there are none."""
        return None if self.seen is None else ~self.seen[survivors % self.taps]


class Topology:
    """The units of one model and what connects them; made once, asked for many masks. Picklable.

    space: the model's mask space; a mask of another one raises `MaskMismatch`.
    """

    def __init__(self, space: MaskSpace, steps: tuple[_Use | Join, ...], units: int, outputs: Indices) -> None:
        self.space, self._steps, self._units, self._outputs = space, steps, units, outputs

    @classmethod
    def of(cls, model: nn.Module, input_shape: tuple[int, ...]) -> Topology:
        """The topology of `model` on samples of `input_shape` (without the batch). The model is neither run nor changed.

        Raises `UnsupportedLayer` for a forward method that torch.fx cannot trace, or an operation that connects units in an
        unknown way.
        """
        space = MaskSpace.of(model)
        walked = Units(trace(model), input_shape)
        layers = {id(model.get_parameter(name)): position for position, name in enumerate(space.names)}
        steps: list[_Use | Join] = []
        units = walked.count
        for step in walked.steps:
            if isinstance(step, Join):
                steps.append(step)
                continue
            position = layers.get(id(model.get_submodule(step.name)._parameters.get("weight")))
            if position is not None:
                steps.append(_use(step, position))
            else:
                steps += _dense(step, units)
                units += 1
        return cls(space, tuple(steps), units, walked.outputs)

    def live(self, mask: Mask) -> Mask:
        """The survivors of `mask` that lie on a path from the input to the output, as a mask."""
        kept = zip(mask.survivors, self._live_flags(mask), strict=True)
        return Mask._trusted(self.space, (survivors[flags] for survivors, flags in kept))

    def live_paths(self, mask: Mask) -> int:
        """How many survivors lie on a path from the input to the output."""
        return sum(int(np.count_nonzero(flags)) for flags in self._live_flags(mask))

    def dead_units(self, mask: Mask) -> dict[str, DeadUnits]:
        """The dead units of each layer, by the name of its weight.

        Of a layer used twice, those that are dead in both uses; of one that forward never calls, all.
        """
        fed, heard, _ = self._flow(mask)
        names, shapes = self.space.names, self.space.shapes
        dead = {
            name: DeadUnits(np.ones(shape[0], bool), np.ones(shape[0], bool)) for name, shape in zip(names, shapes, strict=True)
        }
        for use in self._uses():
            old = dead[names[use.layer]]
            dead[names[use.layer]] = DeadUnits(old.no_input & ~fed[use.outputs], old.no_output & ~heard[use.outputs])
        return dead

    def collapsed_layers(self, mask: Mask) -> list[str]:
        """Layers without a survivor on a path from the input to the output, by the name of their weight."""
        return [name for name, flags in zip(self.space.names, self._live_flags(mask), strict=True) if not flags.any()]

    # ---- paths --------------------------------------------------------------------------------------------------

    def _uses(self) -> Iterator[_Use]:
        return (step for step in self._steps if isinstance(step, _Use))

    def _live_flags(self, mask: Mask) -> list[Flags]:
        """Per layer, whether each survivor lies on a path, in one of its uses at least."""
        fed, heard, ends = self._flow(mask)
        live: list[Flags] = [np.zeros(count, dtype=bool) for count in mask.counts]
        for use, (sources, targets) in zip(self._uses(), ends, strict=True):
            blind = use.blind(mask.survivors[use.layer])
            flags = fed[sources] & heard[targets]
            live[use.layer] |= flags if blind is None else flags & ~blind
        return live

    def _flow(self, mask: Mask) -> tuple[Flags, Flags, list[tuple[Indices, Indices]]]:
        """Units that hear of the input, units that the output hears of, and the two ends of every survivor, use by use."""
        if mask.space is not self.space and mask.space != self.space:
            raise MaskMismatch("the mask belongs to another model than this topology: make Topology.of its own model")
        ends = [use.ends(mask.survivors[use.layer]) for use in self._uses()]
        edges = self._edges(mask, ends)
        fed, heard = np.zeros(self._units, dtype=bool), np.zeros(self._units, dtype=bool)
        fed[INPUT] = True
        heard[self._outputs] = True
        for sources, targets in edges:
            fed[targets[fed[sources]]] = True
        for sources, targets in reversed(edges):
            heard[sources[heard[targets]]] = True
        return fed, heard, ends

    def _edges(self, mask: Mask, ends: list[tuple[Indices, Indices]]) -> list[tuple[Indices, Indices]]:
        """Sources and targets of every step, in the order of computation."""
        own = iter(ends)
        edges = []
        for step in self._steps:
            if isinstance(step, Join):
                edges.append((step.sources, step.targets))
                continue
            sources, targets = next(own)
            blind = step.blind(mask.survivors[step.layer])
            edges.append((sources, targets) if blind is None else (sources[~blind], targets[~blind]))
        return edges


def _use(call: LayerCall, layer: int) -> _Use:
    shape: torch.Size = call.module.weight.shape
    taps, groups = int(np.prod(shape[2:])), int(getattr(call.module, "groups", 1))
    return _Use(layer, call.inputs, call.outputs, taps, shape[1] * taps, groups, call.seen)


def _dense(call: LayerCall, hub: int) -> list[Join]:
    """A layer that is not pruned connects all its units: through one unit in the middle."""
    into, out = np.full(len(call.inputs), hub), np.full(len(call.outputs), hub)
    return [Join(into, call.inputs), Join(call.outputs, out)]
