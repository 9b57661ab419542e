"""From whatever a user calls data to three splits, ready to train on."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evoprune import seeds
from evoprune.errors import InputError, UnknownName
from evoprune.problems.arrays import Array, Arrays, from_mapping
from evoprune.problems.datasets import DATASETS
from evoprune.problems.files import read_npz
from evoprune.problems.gradients import trainable
from evoprune.problems.materialise import from_datasets, is_datasets
from evoprune.problems.splits import Rows, Split, Standardiser, grey, holdout
from evoprune.values import is_number

__all__ = ["Data", "load_data", "prepare"]

VALIDATION = 0.1
"""Share of the training data that becomes the validation split, unless one is given."""

Source = tuple[str, str, int, bool, float]


@dataclass(frozen=True, eq=False)
class Data:
    """Three splits, scaled alike.

    name: for people and files. digest: hex hash of the raw arrays and of how they are split and scaled. classes: number of
    classes in the training labels, None without class labels. source: how another process loads the same, None for arrays.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    digest: str
    classes: int | None
    source: Source | None = None

    def without_labels(self) -> Data:
        """The same inputs, to be reconstructed."""
        train, validation, test = (Split(split.inputs, None) for split in self.splits.values())
        return replace(self, train=train, validation=validation, test=test, classes=None)

    def with_shuffled_labels(self, seed: int) -> Data:
        """Labels of the training and of the validation samples change places, each among themselves."""

        def shuffled(name: str) -> Split:
            split = self.splits[name]
            assert split.targets is not None
            order = seeds.generator(seed, "shuffled labels", name).permutation(len(split))
            return Split(split.inputs, split.targets[torch.from_numpy(order)])

        return replace(
            self,
            name=f"{self.name}, shuffled labels",
            train=shuffled("train"),
            validation=shuffled("validation"),
            digest=f"{self.digest} shuffled {seed}",
            source=None,
        )

    @property
    def labels(self) -> str:
        """`classes`, `values` or `none`."""
        if self.train.targets is None:
            return "none"
        return "values" if self.train.targets.is_floating_point() else "classes"

    @property
    def splits(self) -> dict[str, Split]:
        """The three by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def __reduce__(self) -> tuple[Callable[..., Data], tuple[Any, ...]]:
        if self.source is not None:  # a worker loads a named data set once, not once a message
            return _reload, (self.source, self.digest, self.labels == "none")
        parts = [(split.inputs, split.targets) for split in self.splits.values()]
        return _rebuild, (self.name, parts, self.digest, self.classes)

    def __deepcopy__(self, memo: dict[int, Any]) -> Data:
        return self  # nobody writes to it


@trainable()  # named data stay for whoever asks next
def load_data(
    data: object, *, root: str | os.PathLike[str] | None = None, standardize: bool = True, validation: float = VALIDATION
) -> Data:
    """Data from a name, the path of an `.npz`, a mapping of arrays or tensors, or `torch.utils.data.Dataset`s.

    root: folder of the named data sets, else the environment variable EVOPRUNE_DATA. standardize: scale by the statistics
    of the training part; otherwise floats stay as they are and uint8 becomes [0, 1]. validation: share of the training data
    that becomes the validation split where none is given, stratified, always the same.
    Raises `InputError`, `UnknownName` or `DamagedFile` with one line that says what to do.
    """
    _check_options(standardize, validation)
    if isinstance(data, (str, os.PathLike)):
        return _cached(_source(os.fspath(data), root, standardize, validation))
    if isinstance(data, Data):
        return data
    if isinstance(data, Arrays):
        return prepare(data, standardize=standardize, validation=validation)
    if is_datasets(data):
        return prepare(from_datasets(data), standardize=standardize, validation=validation)
    if isinstance(data, Mapping):
        return prepare(from_mapping(data, "arrays"), standardize=standardize, validation=validation)
    raise InputError(f"data of type {type(data).__name__} is not usable: give a name, an .npz, a dict of arrays, or Datasets")


def prepare(arrays: Arrays, *, standardize: bool = True, validation: float = VALIDATION, source: Source | None = None) -> Data:
    """Split and scale `arrays`; they are not changed. See `load_data`."""
    _check_options(standardize, validation)
    classes = _classes(arrays)
    x, y = arrays.x_train, arrays.y_train
    kept, held = None, None
    if arrays.x_validation is not None and validation != VALIDATION:
        raise InputError(f"validation={validation!r} does nothing beside x_validation, which is the split: leave one of them out")
    if arrays.x_validation is None:
        kept, held = holdout(len(x), None if classes is None else y, validation, "validation")
    scale = Standardiser.of(x, kept) if standardize else Standardiser()
    return Data(
        name=arrays.name,
        train=_split(scale, x, y, kept),
        validation=_split(scale, x, y, held) if held is not None else _split(scale, arrays.x_validation, arrays.y_validation),
        test=_split(scale, arrays.x_test, arrays.y_test),
        digest=_digest(arrays, standardize, validation),
        classes=classes,
        source=source,
    )


def _check_options(standardize: object, validation: object) -> None:
    if not (is_number(validation) and 0 < validation < 1):
        raise InputError(f"validation {validation!r} is not usable: give a share between 0 and 1, such as 0.1")
    if not isinstance(standardize, bool):
        raise InputError(f"standardize {standardize!r} is not usable: give True or False")


def _split(scale: Standardiser, x: Any, y: Array | None, rows: Rows | None = None) -> Split:
    targets = None if y is None else torch.from_numpy(y.copy() if rows is None else y[rows])
    return Split(scale(x, rows), targets)


def _classes(arrays: Arrays) -> int | None:
    """Number of classes of the training labels; every label of the other splits must be below it."""
    if arrays.y_train is None or arrays.y_train.dtype.kind == "f":
        return None
    return int(arrays.y_train.max()) + 1


def _digest(arrays: Arrays, standardize: bool, validation: float) -> str:
    """Of the raw arrays, since the last bits of a mean may differ between machines."""
    own_validation = None if "validation" in arrays.splits else float(validation)
    scaled = (bool(standardize), own_validation, *(("one channel",) if standardize and grey(arrays.x_train) else ()))
    digest = hashlib.blake2b(repr(scaled).encode(), digest_size=16)
    for split in arrays.splits:
        for key in (f"x_{split}", f"y_{split}"):
            array = getattr(arrays, key)
            digest.update(repr((key, None if array is None else (array.dtype.str, array.shape))).encode())
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# ---- named data and files: loaded once a process ----------------------------------------------------------------------------


def _source(name: str, root: str | os.PathLike[str] | None, standardize: bool, validation: float) -> Source:
    if name in DATASETS:
        folder = root or os.environ.get("EVOPRUNE_DATA")
        return name, str(Path(folder).expanduser().absolute()) if folder else "", 0, bool(standardize), validation
    if not name.endswith(".npz"):
        raise UnknownName("data set", name, [*DATASETS, "FILE.npz"])
    path = Path(name).expanduser().absolute()
    # the time of the last change is part of the key: a file written again is read again
    return str(path), "", path.stat().st_mtime_ns if path.is_file() else 0, bool(standardize), validation


@lru_cache(maxsize=2)
def _cached(source: Source) -> Data:
    name, root, _, standardize, validation = source
    if name in DATASETS:
        arrays = DATASETS[name](Path(root) if root else None)
    else:
        arrays = from_mapping(read_npz(Path(name)), Path(name).name)
    return prepare(arrays, standardize=standardize, validation=validation, source=source)


def _reload(source: Source, digest: str, bare: bool) -> Data:
    """The same data in another process."""
    name, root, _, standardize, validation = source
    if root and not Path(root).is_dir():  # another machine keeps its data elsewhere; the digest tells whether they are the same
        source = _source(name, None, standardize, validation)
    data = _cached(source)
    if data.digest != digest:
        raise InputError(f"the data of {source[0]} are not what they were when the problem was made: make the problem again")
    return data.without_labels() if bare else data


_SHARED: weakref.WeakValueDictionary[str, Data] = weakref.WeakValueDictionary()


def _rebuild(name: str, parts: list[tuple[Any, Any]], digest: str, classes: int | None) -> Data:
    """Unpickled arrays: the copies of one process share their memory."""
    key = f"{digest} {'bare' if parts[0][1] is None else 'labelled'}"
    data = _SHARED.get(key)
    if data is None:
        train, validation, test = (Split(*part) for part in parts)
        _SHARED[key] = data = Data(name, train, validation, test, digest, classes)
    return data
