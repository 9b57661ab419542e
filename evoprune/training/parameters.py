"""The trainable numbers of K sparse networks, in one flat layout that every engine and optimizer shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evoprune.errors import InputError, MaskMismatch
from evoprune.masks.mask import Indices, Mask, common_space

__all__ = ["Parameters", "Relayout"]


class Parameters:
    """Leaf tensors of K individuals.

    masks: the K masks.
    survivors: per prunable layer one flat vector `(sum of counts,)` of all survivors' values, sorted by owner, and
        within an owner by index (C order). An optimizer therefore never sees a pruned weight.
    stacked: every other trained parameter as `(K, *shape)`: biases, norms.
    buffers: buffers, and parameters that are not trained, as `(K, *shape)`.
    initial: the values of every trained tensor and running statistic before the first step, in the layout of `survivors`,
        `stacked` and `buffers`.
    bounds: per prunable layer `(K + 1,)` offsets; individual i owns `survivors[name][bounds[name][i]:bounds[name][i + 1]]`.

    Every trained tensor is a leaf that requires a gradient, and its `.grad` always exists (zeros between steps), so that
    chunks can accumulate into views of it.
    """

    def __init__(
        self,
        masks: Sequence[Mask],
        survivors: Mapping[str, Tensor],
        stacked: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        initial: Mapping[str, Tensor],
    ) -> None:
        self.masks = tuple(masks)
        self.space = common_space(*self.masks)
        self.survivors = {name: _leaf(value) for name, value in survivors.items()}
        self.stacked = {name: _leaf(value) for name, value in stacked.items()}
        self.buffers = {name: value.detach() for name, value in buffers.items()}
        self.initial = {name: value.detach() for name, value in initial.items()}
        counts = np.array([mask.counts for mask in self.masks], dtype=np.int64)
        self.bounds = {name: np.concatenate([[0], np.cumsum(counts[:, i])]) for i, name in enumerate(self.space.names)}

    @classmethod
    def of(
        cls,
        masks: Sequence[Mask],
        weights: Sequence[Mapping[str, Tensor]],
        trained: Iterable[str],
        *,
        statistics: Iterable[str] = (),
        rescale: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Parameters:
        """K masks on dense `weights` (one mapping an individual, of all parameters and buffers, by name).

        trained: names of the parameters that require a gradient. statistics: names of the buffers, which training may change.
        rescale: divide survivors by sqrt(layer density), which keeps the variance of a unit's input what it was in the dense
        network.
        """
        if not masks:
            raise InputError("no masks: give at least one")
        space, trained = common_space(*masks), set(trained)

        def cast(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() else None)

        survivors: dict[str, Tensor] = {}
        for layer, (name, size) in enumerate(zip(space.names, space.sizes, strict=True)):
            pieces = []
            for mask, own in zip(masks, weights, strict=True):
                if own[name].numel() != size:
                    raise MaskMismatch(f"{name!r} has {own[name].numel()} weights, the mask has {size}: use the mask's own model")
                kept = own[name].detach().reshape(-1)[torch.from_numpy(mask.survivors[layer].copy())]
                pieces.append(kept / (mask.counts[layer] / size) ** 0.5 if rescale and mask.counts[layer] else kept)
            survivors[name] = cast(torch.cat(pieces))
        others = [name for name in weights[0] if name not in space.index]
        rest = {name: cast(torch.stack([own[name].detach() for own in weights])) for name in others}
        stacked = {name: value for name, value in rest.items() if name in trained}
        buffers = {name: value for name, value in rest.items() if name not in trained}
        changing = {**survivors, **stacked, **{name: buffers[name] for name in statistics}}
        initial = {name: value.clone() for name, value in changing.items()}
        return cls(masks, survivors, stacked, buffers, initial)

    def __len__(self) -> int:
        return len(self.masks)

    def leaves(self) -> dict[str, Tensor]:
        """Every trained tensor by name, for the optimizer."""
        return {**self.survivors, **self.stacked}

    def span(self, name: str, start: int, stop: int) -> slice:
        """Where individuals start … stop - 1 lie in `survivors[name]`."""
        return slice(int(self.bounds[name][start]), int(self.bounds[name][stop]))

    def indices(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Positions of the survivors of individuals start … stop - 1 in a dense `(stop - start) * size` vector, int64."""
        layer = self.space.index[name]
        size, rows = self.space.sizes[layer], self.masks[start : len(self) if stop is None else stop]
        moved = [mask.survivors[layer] + position * size for position, mask in enumerate(rows)]
        return torch.from_numpy(np.concatenate(moved)).to(self.survivors[name].device)

    def owners(self, name: str) -> Tensor:
        """The row that owns each survivor of a layer, int64."""
        counts = torch.from_numpy(np.diff(self.bounds[name]))
        return torch.repeat_interleave(torch.arange(len(self)), counts).to(self.survivors[name].device)

    def row(self, position: int, *, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """All parameters and buffers of one individual in their dense shapes (pruned weights 0), detached copies.

        values: read these in place of the current ones (`initial`); a buffer that is not among them is the current one.
        """
        dense: dict[str, Tensor] = {}
        flat = values or self.survivors
        for layer, (name, shape) in enumerate(zip(self.space.names, self.space.shapes, strict=True)):
            own = flat[name].detach()[self.span(name, position, position + 1)]
            target = torch.zeros(self.space.sizes[layer], dtype=own.dtype, device=own.device)
            target[torch.from_numpy(self.masks[position].survivors[layer].copy()).to(own.device)] = own
            dense[name] = target.view(shape)
        rest = {name: (values or {}).get(name, value) for name, value in {**self.stacked, **self.buffers}.items()}
        return {**dense, **{name: value.detach()[position].clone() for name, value in rest.items()}}

    # ---- another generation in the same layout -------------------------------------------------------------------

    def select(self, rows: Sequence[int]) -> tuple[Parameters, Relayout]:
        """Individuals `rows`, in that order; the relayout carries optimizer state along."""
        flat = {name: _ranges(self.bounds[name], rows) for name in self.space.names}
        return self._moved([self.masks[row] for row in rows], flat, rows)

    def rewire(self, rows: Sequence[int], masks: Sequence[Mask]) -> tuple[Parameters, Relayout]:
        """Individual `rows[i]` under `masks[i]`: common survivors keep value and state, new ones start at 0."""
        if len(masks) != len(rows):
            raise InputError(f"{len(masks)} masks for {len(rows)} individuals: give one each")
        if not masks:
            raise InputError("no masks: give at least one")
        common_space(self.masks[0], *masks)
        flat = {}
        for layer, name in enumerate(self.space.names):
            found = [
                _positions(mask.survivors[layer], self.masks[row].survivors[layer], int(self.bounds[name][row]))
                for row, mask in zip(rows, masks, strict=True)
            ]
            flat[name] = np.concatenate(found)
        return self._moved(masks, flat, rows)

    def _moved(self, masks: Sequence[Mask], flat: Mapping[str, Indices], rows: Sequence[int]) -> tuple[Parameters, Relayout]:
        device = next(iter(self.survivors.values())).device
        position = torch.tensor(rows, dtype=torch.int64, device=device)
        sources = {name: torch.from_numpy(source).to(device) for name, source in flat.items()}
        sources |= dict.fromkeys([*self.stacked, *self.buffers], position)

        def relayout(name: str, value: Tensor, new: float = 0.0) -> Tensor:
            source = sources[name]
            if not len(value):  # nothing was there, so everything is new
                return value.new_full((len(source), *value.shape[1:]), new)
            moved = value.detach()[source.clamp(min=0)]
            moved[source < 0] = new
            return moved

        moved = Parameters(
            masks,
            {name: relayout(name, value) for name, value in self.survivors.items()},
            {name: relayout(name, value) for name, value in self.stacked.items()},
            {name: value[position] for name, value in self.buffers.items()},
            {name: relayout(name, value) for name, value in self.initial.items()},
        )
        return moved, relayout


class Relayout(Protocol):
    """Carries a tensor of a leaf's old shape (a value, optimizer state, an accumulator) to the leaf's new shape."""

    def __call__(self, name: str, value: Tensor, new: float = 0.0) -> Tensor:
        """`name`: the leaf. `new`: what a survivor gets that was not there before."""


def _leaf(value: Tensor) -> Tensor:
    leaf = value.detach().requires_grad_()
    leaf.grad = torch.zeros_like(leaf)
    return leaf


def _ranges(bounds: Indices, rows: Sequence[int]) -> Indices:
    pieces = [np.arange(bounds[row], bounds[row + 1]) for row in rows]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def _positions(new: Indices, old: Indices, offset: int) -> Indices:
    """Where each index of `new` stands in `old` (plus `offset`), or -1; both sorted."""
    if not len(old):
        return np.full(len(new), -1, dtype=np.int64)
    found = np.searchsorted(old, new).clip(max=len(old) - 1)
    return np.where(old[found] == new, found + offset, -1)
