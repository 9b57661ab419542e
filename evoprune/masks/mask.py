"""The mask: an immutable set of survivor indices a layer, the genome of the search."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from evoprune.errors import InputError, MaskMismatch
from evoprune.masks.space import MaskSpace

__all__ = ["Indices", "Mask", "common_space"]

Indices = npt.NDArray[np.int64]


class Mask:
    """Survivors of one sparse network: per layer the sorted flat indices (C order, int64) of the weights that are kept.

    Immutable and hashable by content; copies share the buffers; pickles as raw index bytes.
    """

    __slots__ = ("_digest", "space", "survivors")
    space: MaskSpace
    survivors: tuple[Indices, ...]
    _digest: str | None

    def __init__(self, space: MaskSpace, survivors: Sequence[npt.ArrayLike]) -> None:
        """`survivors`: one array of indices a layer, strictly increasing, within [0, size).

        Raises `InputError` when there is another number of layers, or indices that are unsorted, doubled or out of range.
        """
        if len(survivors) != len(space):
            raise MaskMismatch(f"{len(survivors)} layers of survivors for a space of {len(space)}: give one array a layer")
        arrays = tuple(_frozen(array) for array in survivors)
        for name, size, array in zip(space.names, space.sizes, arrays, strict=True):
            if array.ndim != 1 or (array.size and (array[0] < 0 or array[-1] >= size or not (array[1:] > array[:-1]).all())):
                raise InputError(f"survivors of {name!r} must be strictly increasing indices within [0, {size})")
        self._set(space, arrays)

    def _set(self, space: MaskSpace, survivors: tuple[Indices, ...]) -> None:
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "survivors", survivors)
        object.__setattr__(self, "_digest", None)

    @classmethod
    def _trusted(cls, space: MaskSpace, survivors: Iterable[Indices]) -> Mask:
        """A mask from arrays that are known to be well formed; they are frozen in place, not checked."""
        mask, arrays = object.__new__(cls), tuple(survivors)
        for array in arrays:
            array.flags.writeable = False
        mask._set(space, arrays)
        return mask

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Mask is immutable: {name!r} cannot be set, make a new mask with replace()")

    # ---- making -------------------------------------------------------------------------------------------------

    @classmethod
    def full(cls, space: MaskSpace) -> Mask:
        """The mask that keeps every weight."""
        return cls._trusted(space, (np.arange(size, dtype=np.int64) for size in space.sizes))

    @classmethod
    def of_dense(cls, space: MaskSpace, dense: Mapping[str, npt.ArrayLike | torch.Tensor]) -> Mask:
        """The mask of the non-zero entries of one dense array (or tensor) a layer, by name."""
        missing = [name for name in space.names if name not in dense]
        if missing:
            raise MaskMismatch(f"no array for {missing[0]!r}: give one for each of {', '.join(space.names)}")
        arrays = []
        for name, shape in zip(space.names, space.shapes, strict=True):
            value = dense[name]
            array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            if array.shape != shape:
                raise MaskMismatch(f"{name!r} has shape {array.shape}, the space has {shape}: use the mask's own model")
            arrays.append(np.flatnonzero(array).astype(np.int64, copy=False))
        return cls._trusted(space, arrays)

    @classmethod
    def of_module(cls, module: nn.Module) -> Mask:
        """The mask of the non-zero weights of `module`."""
        space = MaskSpace.of(module)
        return cls.of_dense(space, {name: module.get_parameter(name) for name in space.names})

    def replace(self, layer: int | str, survivors: npt.ArrayLike) -> Mask:
        """A copy with other survivors in one layer."""
        position = self.space.index[layer] if isinstance(layer, str) else layer
        arrays: list[npt.ArrayLike] = list(self.survivors)
        arrays[position] = survivors
        return Mask(self.space, arrays)

    # ---- asking -------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> tuple[int, ...]:
        """Survivors of each layer."""
        return tuple(len(array) for array in self.survivors)

    @property
    def count(self) -> int:
        """Survivors in all."""
        return sum(self.counts)

    @property
    def sparsity(self) -> float:
        """1 - survivors / prunable weights."""
        return 1 - self.count / self.space.prunable

    @property
    def hash(self) -> str:
        """Hex digest of space and survivors."""
        if self._digest is None:
            digest = hashlib.blake2b(self.space.fingerprint.encode(), digest_size=16)
            for array in self.survivors:
                digest.update(len(array).to_bytes(8))
                digest.update(array.data)
            object.__setattr__(self, "_digest", digest.hexdigest())
        return str(self._digest)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Mask):
            return NotImplemented
        if self.space != other.space or self.counts != other.counts:
            return False
        return all(a is b or np.array_equal(a, b) for a, b in zip(self.survivors, other.survivors, strict=True))

    def __hash__(self) -> int:
        return int(self.hash[:15], 16)

    def __repr__(self) -> str:
        return f"Mask({self.count:,} of {self.space.prunable:,} weights, sparsity {self.sparsity:.4f}, hash {self.hash[:8]})"

    def dense(self, *, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """One bool tensor a layer, in the shape of its weight, by name."""
        result = {}
        for name, shape, size, array in zip(self.space.names, self.space.shapes, self.space.sizes, self.survivors, strict=True):
            flat = torch.zeros(size, dtype=torch.bool)
            flat[torch.from_numpy(array.copy())] = True
            result[name] = flat.view(shape).to(device)
        return result

    # ---- set operations -----------------------------------------------------------------------------------------

    def _combine(self, other: Mask, operation: Callable[..., Any]) -> Mask:
        common_space(self, other)
        return Mask._trusted(self.space, (operation(a, b) for a, b in zip(self.survivors, other.survivors, strict=True)))

    def __and__(self, other: Mask) -> Mask:
        """Survivors of both."""
        return self._combine(other, lambda a, b: np.intersect1d(a, b, assume_unique=True))

    def __or__(self, other: Mask) -> Mask:
        """Survivors of either."""
        return self._combine(other, np.union1d)

    def __sub__(self, other: Mask) -> Mask:
        """Survivors of this mask only."""
        return self._combine(other, lambda a, b: np.setdiff1d(a, b, assume_unique=True))

    def __xor__(self, other: Mask) -> Mask:
        """Survivors of exactly one of the two."""
        return self._combine(other, lambda a, b: np.setxor1d(a, b, assume_unique=True))

    def __le__(self, other: Mask) -> bool:
        """Whether every survivor is a survivor of `other` too."""
        return (self - other).count == 0

    def jaccard(self, other: Mask) -> float:
        """Common survivors over survivors of either, in [0, 1]; 1 for two empty masks."""
        common = (self & other).count
        either = self.count + other.count - common
        return common / either if either else 1.0

    # ---- pickling -----------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Callable[..., Mask], tuple[MaskSpace, tuple[bytes, ...]]]:
        raw = (array.astype(_width(size)).tobytes() for array, size in zip(self.survivors, self.space.sizes, strict=True))
        return _unpickle, (self.space, tuple(raw))

    def __copy__(self) -> Mask:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Mask:
        return self


def common_space(*masks: Mask) -> MaskSpace:
    """The space that all `masks` share, or `MaskMismatch`."""
    space = masks[0].space
    for mask in masks[1:]:
        if mask.space is not space and mask.space != space:
            raise MaskMismatch("the masks belong to different models: combine masks of one MaskSpace only")
    return space


def _frozen(array: npt.ArrayLike) -> Indices:
    """A read-only int64 array that no caller can write through: shared when it is frozen already, else copied."""
    given = np.asarray(array)
    if given.size and given.dtype.kind not in "iu":
        raise InputError(f"survivors are {given.dtype}: give whole-number indices")
    if given.dtype == np.int64 and given.flags.c_contiguous and not given.flags.writeable and _immutable_base(given):
        return given
    own = given.astype(np.int64)
    own.flags.writeable = False
    return own


def _immutable_base(array: npt.NDArray[Any]) -> bool:
    base = array.base
    return base is None or isinstance(base, bytes) or (isinstance(base, np.ndarray) and not base.flags.writeable)


def _unpickle(space: MaskSpace, survivors: tuple[bytes, ...]) -> Mask:
    pairs = zip(survivors, space.sizes, strict=True)
    return Mask._trusted(space, (np.frombuffer(raw, dtype=_width(size)).astype(np.int64) for raw, size in pairs))


def _width(size: int) -> str:
    """The type of a layer's indices in a pickle: half of the bytes where they suffice."""
    return "<u4" if size <= 2**32 else "<i8"
