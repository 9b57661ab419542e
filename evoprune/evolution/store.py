"""What training left behind: the trained values of every evaluation, for inheritance and guided operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evoprune.errors import DamagedFile, InputError
from evoprune.evolution.operators import Told
from evoprune.files import read_tensors, write_tensors
from evoprune.masks.files import decode, describe, encode, space_of
from evoprune.masks.mask import Mask
from evoprune.training.parameters import Parameters

__all__ = ["Start", "Store", "Trained"]

FORMAT, VERSION = "evoprune.trained", 1
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained sparse network.

    values: per prunable layer the survivors' values, aligned with `mask.survivors`. movement: how far each moved in this
    training. others: every other parameter and buffer in its own shape. grown: per prunable layer pruned weights of large
    gradients and how large, when they were asked for.
    """

    mask: Mask
    values: dict[str, Array]
    movement: dict[str, Array]
    others: dict[str, Array]
    grown: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    @classmethod
    def of(cls, parameters: Parameters, row: int) -> Trained:
        """A copy of one row of a population."""
        values, movement = {}, {}
        for name, value in parameters.survivors.items():
            span = parameters.span(name, row, row + 1)
            values[name] = value.detach()[span].cpu().numpy().copy()
            movement[name] = np.abs(values[name] - parameters.initial[name][span].cpu().numpy())
        rest = {**parameters.stacked, **parameters.buffers}
        others = {name: value.detach()[row].cpu().numpy().copy() for name, value in rest.items()}
        return cls(parameters.masks[row], values, movement, others)

    def __copy__(self) -> Trained:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Trained:
        return self

    def told(self) -> Told:
        """What guided operators read."""
        names = self.mask.space.names
        grown = tuple((at.astype(np.int64), by) for at, by in (self.grown[name] for name in names)) if self.grown else None
        return Told(self.mask, tuple(self.movement[name] for name in names), grown)


class Start(Mapping[str, Tensor]):
    """Dense starting values of a child, made layer by layer as they are read: what the parent has, else the initial weights.

    A survivor that the parent has not gets its initial weight, divided by sqrt(layer density) when `rescale`.
    """

    def __init__(self, mask: Mask, initial: Mapping[str, Tensor], parent: Trained | None, *, rescale: bool) -> None:
        self.mask, self.initial, self.parent, self.rescale = mask, initial, parent, rescale

    def __getitem__(self, name: str) -> Tensor:
        layer = self.mask.space.index.get(name)
        if layer is None:
            known = self.parent is not None and name in self.parent.others
            return torch.from_numpy(self.parent.others[name].copy()) if known and self.parent else self.initial[name]
        dense = self.initial[name].detach().clone().reshape(-1)
        count, size = self.mask.counts[layer], self.mask.space.sizes[layer]
        if self.rescale and count:
            dense /= (count / size) ** 0.5
        if self.parent is not None:
            dense[torch.from_numpy(self.parent.mask.survivors[layer].copy())] = torch.from_numpy(self.parent.values[name]).to(
                dense.dtype
            )
        return dense

    def __iter__(self) -> Iterator[str]:
        return iter(self.initial)

    def __len__(self) -> int:
        return len(self.initial)


class Store:
    """Trained networks by the id of their evaluation: one safetensors file each in `folder`.

    Without a folder they are found for as long as an individual, or a copy of one, holds them as `trained`.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: WeakValueDictionary[str, Trained] = WeakValueDictionary()

    def put(self, key: str, trained: Trained) -> None:
        """Keep `trained`; on disk when there is a folder, whole or not at all."""
        if self.folder is None:
            self._memory[key] = trained
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        groups = {"values": trained.values, "movement": trained.movement, "others": trained.others}
        groups |= {"at": {name: at for name, (at, _) in trained.grown.items()}}
        groups |= {"by": {name: by for name, (_, by) in trained.grown.items()}}
        tensors = {f"{kind}/{name}": np.asarray(value) for kind, group in groups.items() for name, value in group.items()}
        header = {"format": FORMAT, "version": VERSION, "evaluation": key, **describe(trained.mask)}
        write_tensors(path, {**encode(trained.mask), **tensors}, header)

    def get(self, key: str) -> Trained:
        """The network of evaluation `key`. Raises `InputError` when there is none, `DamagedFile` for a damaged file."""
        if self.folder is None:
            if key not in self._memory:
                raise InputError(f"nobody holds the trained weights of evaluation {key} any more: give make_toolbox a journal")
            return self._memory[key]
        path = self._path(key)
        lost = f"the trained weights of evaluation {key} (delete its line in the journal, and it is trained again)"
        tensors, header = read_tensors(path, format=FORMAT, version=VERSION, lost=lost)
        mask = decode(space_of(header, source=path), tensors, source=path, hash=header.get("hash"))
        groups: dict[str, dict[str, Array]] = {kind: {} for kind in ("values", "movement", "others", "at", "by")}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            if kind in groups:
                groups[kind][rest] = value
        for name, count in zip(mask.space.names, mask.counts, strict=True):
            if any(groups[kind].get(name, np.empty((0, 0))).shape != (count,) for kind in ("values", "movement")):
                raise DamagedFile(f"{path} is damaged (layer {name!r}): {lost}")
        grown = {name: (at, groups["by"][name]) for name, at in groups["at"].items() if name in groups["by"]}
        return Trained(mask, groups["values"], groups["movement"], groups["others"], grown)

    def __contains__(self, key: str) -> bool:
        return key in self._memory if self.folder is None else self._path(key).exists()

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.safetensors"
