"""Mask files: safetensors with, a layer, the indices of survivors, those of pruned weights, or packed bits; the smallest wins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evoprune.errors import DamagedFile, InputError, MaskMismatch
from evoprune.files import Arrays, read_tensors, write_tensors
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.space import MaskSpace

__all__ = ["decode", "describe", "encode", "load_mask", "save_mask", "space_of"]

Array = npt.NDArray[Any]
FORMAT, VERSION = "evoprune.mask", 1
KEPT, PRUNED, BITS = "kept/", "pruned/", "bits/"  # prefixes of the tensor names, before the name of the layer


def save_mask(mask: Mask, path: str | os.PathLike[str]) -> Path:
    """Write `mask` to `path`, atomically; equal masks give equal bytes. Returns the path."""
    return write_tensors(path, encode(mask), {"format": FORMAT, "version": VERSION, **describe(mask)})


def load_mask(path: str | os.PathLike[str], space: MaskSpace | None = None) -> Mask:
    """The mask in the file `path`, checked against its stored hash.

    space: the space that the mask must belong to. Raises `DamagedFile` for a damaged or foreign file, `MaskMismatch` for
    a mask of another model, `InputError` when there is no file.
    """
    tensors, header = read_tensors(path, format=FORMAT, version=VERSION, lost="the mask")
    own = space_of(header, source=path)
    if space is not None and own != space:
        raise MaskMismatch(f"{path} holds a mask for another model: {difference(own, space)}; use it with its own model")
    return decode(space or own, tensors, source=path, hash=header.get("hash"))


# ---- the encoding, for files that hold a mask among other things -------------------------------------------------------------


def encode(mask: Mask) -> Arrays:
    """One array a layer, named "kept/<layer>", "pruned/<layer>" (indices, uint32 or uint64) or "bits/<layer>" (uint8).

    Whichever takes the fewest bytes: a full layer costs none.
    """
    arrays: Arrays = {}
    for name, size, survivors in zip(mask.space.names, mask.space.sizes, mask.survivors, strict=True):
        prefix, array = _smallest(size, survivors)
        arrays[prefix + name] = array
    return arrays


def decode(space: MaskSpace, tensors: Mapping[str, Array], *, source: object = "the file", hash: str | None = None) -> Mask:
    """The mask that `encode` gave `tensors` for; other tensors among them are ignored.

    source: the file's path, for messages. hash: the stored `Mask.hash`, checked unless None. Raises `DamagedFile`.
    """
    try:
        mask = Mask(space, [_layer(name, size, tensors) for name, size in zip(space.names, space.sizes, strict=True)])
    except InputError as error:
        raise DamagedFile(f"{source} is damaged ({error}): the mask is lost, make it again") from None
    if hash is not None and hash != mask.hash:
        raise DamagedFile(f"{source} is damaged (its content does not have the stored hash): the mask is lost, make it again")
    return mask


def describe(mask: Mask) -> dict[str, Any]:
    """What a header must hold of a mask: names, shapes and fingerprint of its space, and its hash."""
    space = mask.space
    return {"names": space.names, "shapes": space.shapes, "space": space.fingerprint, "hash": mask.hash}


def space_of(header: Mapping[str, Any], *, source: object = "the file") -> MaskSpace:
    """The space that `describe` put into a header. Raises `DamagedFile`."""
    try:
        space = MaskSpace(tuple(header["names"]), tuple(tuple(shape) for shape in header["shapes"]))
    except (KeyError, TypeError, InputError):
        space = None
    if space is None or space.fingerprint != header.get("space"):
        raise DamagedFile(f"{source} is damaged (names or shapes of the layers): the mask is lost, make it again")
    return space


def difference(found: MaskSpace, wanted: MaskSpace) -> str:
    """The first thing in which two different spaces differ, in words."""
    theirs, ours = dict(zip(found.names, found.shapes, strict=True)), dict(zip(wanted.names, wanted.shapes, strict=True))
    for name, shape in ours.items():
        if name not in theirs:
            return f"it has no layer {name!r}"
        if theirs[name] != shape:
            return f"its {name!r} has shape {theirs[name]}, the model's {shape}"
    extra = [name for name in theirs if name not in ours]
    return f"it has a layer {extra[0]!r} that the model has not" if extra else "its layers come in another order"


def _smallest(size: int, survivors: Indices) -> tuple[str, Array]:
    """Prefix and array of the form with the fewest bytes."""
    kind = np.dtype(np.uint32 if size <= 2**32 else np.uint64)
    costs = {KEPT: len(survivors) * kind.itemsize, PRUNED: (size - len(survivors)) * kind.itemsize, BITS: -(-size // 8)}
    best = min(costs, key=lambda form: costs[form])
    if best == KEPT:
        return best, survivors.astype(kind)
    kept = np.zeros(size, dtype=bool)
    kept[survivors] = True
    return best, np.packbits(kept) if best == BITS else np.flatnonzero(~kept).astype(kind)


def _layer(name: str, size: int, tensors: Mapping[str, Array]) -> Indices:
    """The survivors of one layer. Raises `InputError` unless the arrays are such as `encode` gives."""
    if KEPT + name in tensors:
        return _indices(name, size, tensors[KEPT + name])
    if PRUNED + name in tensors:
        kept = np.ones(size, dtype=bool)
        kept[_indices(name, size, tensors[PRUNED + name])] = False
        return np.flatnonzero(kept)
    if BITS + name not in tensors:
        raise InputError(f"layer {name!r} is missing")
    packed = tensors[BITS + name]
    if packed.dtype != np.uint8 or packed.shape != (-(-size // 8),):
        raise InputError(f"layer {name!r} has {packed.dtype} bits of shape {packed.shape}")
    return np.flatnonzero(np.unpackbits(packed, count=size))


def _indices(name: str, size: int, array: Array) -> Indices:
    """`array` as int64, or `InputError` unless it holds increasing indices below `size`."""
    if array.ndim != 1 or array.dtype.kind != "u" or (array.size and (array[-1] >= size or not (array[1:] > array[:-1]).all())):
        raise InputError(f"layer {name!r} has no increasing indices below {size}")
    return array.astype(np.int64)
