"""Does a forward method run on smaller tensors, and compute the same with them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from evoprune.errors import EvopruneError
from evoprune.masks.graph import Layer, Walker, tensors_in
from evoprune.masks.kinds import KINDS, kind_of, name_of, plain_name
from evoprune.masks.units import INPUT, Units, spread

__all__ = ["clash"]

Flags = npt.NDArray[np.bool_]


class _Replay(Walker):
    """Walks with the labels of needed units only, as the smaller network will, and stops where they are not what they were."""

    def __init__(self, units: Units, needed: Flags) -> None:
        super().__init__(units.module)  # type: ignore[arg-type]
        self.units, self.needed = units, torch.from_numpy(needed)
        self.expected: list[Tensor] = []

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        self.expected = [_restrict(labels, self.needed) for labels in self.units.labels[n.name]]
        for operand in self._operands(n):
            if operand.name in self.units.numbers and not _same(self.units.numbers[operand.name], self.env[operand]):
                raise ValueError("a number is not what it was")
        value = super().run_node(n)
        found = tensors_in(value)
        if len(found) != len(self.expected) or not all(map(torch.equal, found, self.expected)):
            raise ValueError("the units are not where they were")
        return value

    def _operands(self, n: fx.Node) -> list[fx.Node]:
        """What a node reads for values, not for places and shapes, which its labels tell."""
        if n.op == "output":
            return n.all_input_nodes
        name = plain_name(name_of(n))
        kind = kind_of(self.fetch_attr(str(n.target))) if n.op == "call_module" else KINDS.get(name)
        if not self.expected:
            return []  # a number, which is compared where values are computed with it
        if kind not in ("move", "create", "ask") or "full" in name:
            return n.all_input_nodes
        return [value for value in [n.kwargs.get("value")] if isinstance(value, fx.Node)]  # of a pad

    def shape_of(self, function: Any, x: Tensor, args: Any, kwargs: Any) -> torch.Size:
        return self.expected[0].shape

    def layer(self, module: Layer, x: Tensor, shape: torch.Size) -> Tensor:
        return self.expected[0]

    def pointwise(self, operands: list[Tensor], shape: torch.Size) -> Tensor:
        if shape != self.expected[0].shape:
            raise ValueError("the operands do not fit")
        return self.expected[0]

    def channelwise(self, x: Tensor, shape: torch.Size) -> Tensor:
        return self.expected[0]

    def reduce(self, x: Tensor, dims: list[int], shape: torch.Size) -> Tensor:
        return self.expected[0]

    def mix(self, x: Tensor) -> Tensor:
        return self.expected[0]

    def blend(self, x: Tensor, shape: torch.Size) -> Tensor:
        return self.expected[0]


def clash(units: Units, needed: Flags) -> npt.NDArray[np.int64] | None:
    """Units that an operation of the forward method needs for their places only; None when it runs without the others."""
    replay = _Replay(units, needed)
    try:
        with torch.no_grad():
            replay.run(torch.full((2, *units.input_shape), float(INPUT), dtype=torch.float64))
        return None
    except EvopruneError:
        raise
    except Exception:
        labels = [tensor.flatten() for tensor in _upstream(replay.node, units)]
        return np.unique(torch.cat(labels).numpy().astype(np.int64)) if labels else np.arange(units.count)


def _same(one: object, other: object) -> bool:
    """Whether two values without labels are equal, whatever holds their numbers and tensors."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def _upstream(node: fx.Node, units: Units) -> Iterator[Tensor]:
    """The labels of the values that an operation works on, those behind sizes included."""
    for source in node.all_input_nodes:
        yield from units.labels[source.name] or _upstream(source, units)


def _restrict(labels: Tensor, needed: Tensor) -> Tensor:
    """The labels of needed units, cut along one axis. Raises `ValueError` where that is impossible."""
    kept = needed[labels.long()]
    if bool(kept.all()):
        return labels
    for axis in range(labels.dim()):
        along = kept.movedim(axis, 0).flatten(1).any(1)
        if bool(along.any()) and torch.equal(kept, spread(along, axis, kept.shape)):
            return labels.index_select(axis, along.nonzero().flatten())
    raise ValueError("the needed units are not a block")
