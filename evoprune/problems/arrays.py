"""What a data set is before anything is split or scaled: checked numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evoprune.errors import InputError, UnknownName

__all__ = ["KEYS", "Array", "Arrays", "from_mapping"]

Array = npt.NDArray[Any]
KEYS = ("x_train", "y_train", "x_test", "y_test", "x_validation", "y_validation")


@dataclass(frozen=True, eq=False)
class Arrays:
    """Samples and labels of one data set, checked when they come in; nobody's array is ever written to.

    name: for people. x_*: images `(N, C, H, W)`, vectors `(N, F)`, or anything else `(N, …)`; uint8, other integers (token
    ids) or floats. y_*: int64 class numbers `(N,)`, float32 values to regress `(N, …)`, or None for reconstruction.
    x_validation, y_validation: None when the validation split is to be taken from the training data.

    Raises `InputError` on text, objects, NaN, unequal lengths or shapes, and labels that are no class numbers.
    """

    name: str
    x_train: Array
    y_train: Array | None
    x_test: Array
    y_test: Array | None
    x_validation: Array | None = None
    y_validation: Array | None = None

    def __post_init__(self) -> None:
        for split in self.splits:
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            object.__setattr__(self, f"x_{split}", _inputs(x, f"x_{split}", self.name))
            if y is not None:
                object.__setattr__(self, f"y_{split}", _labels(y, f"y_{split}", len(x), self.name))
        self._check_agreement()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there: train, test and perhaps validation."""
        return ("train", "test") if self.x_validation is None else ("train", "test", "validation")

    def _check_agreement(self) -> None:
        if self.x_validation is None and self.y_validation is not None:
            raise InputError(f"data {self.name!r} has y_validation but no x_validation: give both or neither")
        for split in self.splits[1:]:
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            if x.shape[1:] != self.x_train.shape[1:] or x.dtype != self.x_train.dtype:
                raise InputError(
                    f"data {self.name!r}: x_{split} has samples {x.shape[1:]} of {x.dtype}, x_train {self.x_train.shape[1:]} "
                    f"of {self.x_train.dtype}: give all splits in one form"
                )
            if (y is None) != (self.y_train is None):
                raise InputError(f"data {self.name!r}: labels for train and {split} must both be there, or both be left out")
            if y is not None and self.y_train is not None and _form(y) != _form(self.y_train):
                raise InputError(
                    f"data {self.name!r}: y_{split} has {_form(y)}, y_train {_form(self.y_train)}: "
                    "give class numbers in all splits, or values of one shape"
                )


def from_mapping(data: Mapping[str, Any], name: str) -> Arrays:
    """Arrays from a mapping with the keys x_train, y_train, x_test, y_test and optionally x_validation, y_validation.

    Values: numpy arrays, tensors, or what `numpy.asarray` takes. Labels are left out for reconstruction; other keys are
    ignored unless they begin with `x_` or `y_` (a misspelt one must not be lost in silence). Raises `InputError`.
    """
    for key in data:
        if key not in KEYS and str(key).startswith(("x_", "y_")):
            raise UnknownName(f"array of data {name!r}:", key, KEYS)
    for key in ("x_train", "x_test"):
        if data.get(key) is None:
            raise InputError(f"data {name!r} has no {key}: give {', '.join(KEYS[:4])} (to reconstruct, no labels)")
    values: dict[str, Any] = {key: None if data.get(key) is None else as_array(data[key], key, name) for key in KEYS}
    return Arrays(name, **values)


def as_array(value: Any, key: str, name: str) -> Array:
    """`value` as a numpy array, tensors of any device and layout included."""
    if isinstance(value, torch.Tensor):
        own = value.detach().cpu()
        own = own if own.layout == torch.strided else own.to_dense()
        return own.float().numpy() if own.dtype == torch.bfloat16 else own.resolve_conj().resolve_neg().numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"data {name!r}: {key} is no array ({error}): give samples of one shape") from None


def _inputs(x: Array, key: str, name: str) -> Array:
    if x.dtype.kind not in "fiub":
        raise InputError(f"data {name!r}: {key} holds {_kind(x)}: give numbers")
    if x.ndim < 2 or 0 in x.shape:
        raise InputError(f"data {name!r}: {key} has shape {x.shape}: give (samples, features) or (samples, channels, y, x)")
    _check_finite(x, key, name)
    return x.astype(np.float32) if x.dtype.kind == "b" else x


def _labels(y: Array, key: str, samples: int, name: str) -> Array:
    if y.dtype.kind not in "fiub":
        raise InputError(f"data {name!r}: {key} holds {_kind(y)}: give class numbers 0, 1, 2, … (or floats to regress)")
    if y.ndim == 0 or len(y) != samples:
        raise InputError(f"data {name!r}: {key} has shape {y.shape} for {samples} samples: give one label a sample")
    if y.dtype.kind == "f":
        _check_finite(y, key, name)
        return y.astype(np.float32)
    if y.size != samples:
        raise InputError(f"data {name!r}: {key} has shape {y.shape}: give one class number a sample, not one-hot rows")
    numbers = y.reshape(-1).astype(np.int64)
    if numbers.min() < 0:
        raise InputError(f"data {name!r}: {key} holds the label {numbers.min()}: class numbers start at 0")
    return numbers


def _check_finite(array: Array, key: str, name: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise InputError(f"data {name!r}: {key} holds NaN or infinity (first in sample {bad}): clean the data")


def _form(y: Array) -> str:
    return f"{'class numbers' if y.dtype.kind == 'i' else 'values'} of shape {y.shape[1:]}"


def _kind(array: Array) -> str:
    return {"U": "text", "S": "text", "O": "objects", "c": "complex numbers", "M": "dates", "m": "durations"}.get(
        array.dtype.kind, str(array.dtype)
    )
