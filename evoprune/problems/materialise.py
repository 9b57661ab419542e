"""`torch.utils.data.Dataset`s as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problems.arrays import Array, Arrays, as_array

__all__ = ["from_datasets", "is_datasets"]

SPLITS = ("train", "test", "validation")


def is_datasets(data: object) -> TypeGuard[Mapping[str, Any] | tuple[Any, ...] | list[Any]]:
    """Whether `data` holds Datasets: a mapping with the key `train`, or a tuple (train, test) or (train, validation, test)."""
    if isinstance(data, Mapping):
        return "train" in data
    return isinstance(data, (tuple, list))


def from_datasets(data: Mapping[str, Any] | tuple[Any, ...] | list[Any]) -> Arrays:
    """Every sample read once, in order; items are `(input, label)` pairs, or inputs alone for reconstruction.

    data: a mapping with the keys train, test and optionally validation; or (train, test); or (train, validation, test).
    Random transforms act once and in the same way every time, so augmentation is not renewed each epoch.
    Raises `InputError` on anything else.
    """
    named = _named(data)
    arrays: dict[str, Any] = {}
    for split, dataset in named.items():
        arrays[f"x_{split}"], arrays[f"y_{split}"] = _read(dataset, split)
    return Arrays("datasets", **arrays)


def _named(data: Mapping[str, Any] | tuple[Any, ...] | list[Any]) -> dict[str, Dataset[Any]]:
    if not isinstance(data, Mapping):
        keys = {2: ("train", "test"), 3: ("train", "validation", "test")}.get(len(data))
        if keys is None:
            raise InputError(f"{len(data)} data sets: give (train, test) or (train, validation, test)")
        data = dict(zip(keys, data, strict=True))
    wrong = [key for key in data if key not in SPLITS] or [key for key in SPLITS[:2] if key not in data]
    if wrong:
        raise InputError(
            f"Datasets are given as train, test and perhaps validation, not with {', '.join(map(repr, data))}: check {wrong[0]!r}"
        )
    for key, value in data.items():
        if not isinstance(value, Dataset):
            raise InputError(f"the {key} data are a {type(value).__name__}: give a torch.utils.data.Dataset, or a dict of arrays")
    return dict(data)


def _read(dataset: Dataset[Any], split: str) -> tuple[Array, Array | None]:
    columns: list[Any]
    if type(dataset) is TensorDataset:  # a class of one's own may give other items than its tensors
        columns = list(dataset.tensors)
    else:
        with seeds.isolated(0, "dataset", split):
            items = [item if isinstance(item, (tuple, list)) else (item,) for item in _items(dataset)]
        if not items:
            raise InputError(f"the {split} data are empty: give at least one sample")
        columns = [[item[column] for item in items] for column in range(len(items[0]))]
    if not 1 <= len(columns) <= 2:
        raise InputError(f"the {split} data have items of {len(columns)} parts: give (input, label) pairs, or inputs alone")
    stacked = [_stack(column, split) for column in columns]
    return stacked[0], stacked[1] if len(stacked) > 1 else None


def _items(dataset: Dataset[Any]) -> Iterable[Any]:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return iter(dataset)
    return (dataset[index] for index in range(len(dataset)))


def _stack(column: Any, split: str) -> Array:
    if isinstance(column, torch.Tensor):
        stacked = as_array(column, split, "datasets")
    else:
        parts = [_channels_first(value) if hasattr(value, "getbands") else as_array(value, split, "datasets") for value in column]
        try:
            stacked = np.stack(parts)
        except ValueError:
            raise InputError(f"the {split} data have samples of different shapes: give one shape") from None
    # python floats are float64, yet nobody means a regression in double precision
    return stacked.astype(np.float32) if stacked.dtype == np.float64 else stacked


def _channels_first(picture: Any) -> Array:
    """A PIL image as (C, H, W)."""
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
