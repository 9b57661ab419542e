"""CIFAR-10 from any of its three forms: the binary archive, its unpacked folder, and torchvision's folder of pickles."""

from __future__ import annotations

import io
import pickle
import tarfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from evoprune.errors import DamagedFile
from evoprune.problems.arrays import Array, Arrays
from evoprune.problems.fetch import Source, locate
from evoprune.problems.files import AGAIN, check_hash, first_line, read_bytes

__all__ = ["CIFAR10", "PICKLES", "read_archive", "read_binary_folder", "read_pickle_folder", "read_pickled_batch"]

CLASSES, PIXELS, RECORDS = 10, 3 * 32 * 32, 10_000
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
ARCHIVE, BINARY_FOLDER, PICKLE_FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin", "cifar-10-batches-py"

CIFAR10 = Source("", "https://www.cs.toronto.edu/~kriz/", {ARCHIVE: "md5:c32a1d4ab5d03f1284b67883e8d87530"})
PICKLES = {
    "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
    "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
    "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "md5:40351d587109b95175f43aff81a1287e",
}

Batch = tuple[Array, Array]


def load(root: Path | None) -> Arrays:
    """CIFAR-10 from `root` in whichever form is there, else fetched as the binary archive."""
    if root is not None and (root / BINARY_FOLDER).is_dir():
        return read_binary_folder(root / BINARY_FOLDER)
    if root is not None and (root / PICKLE_FOLDER).is_dir():
        return read_pickle_folder(root / PICKLE_FOLDER)
    return read_archive(locate(CIFAR10, ARCHIVE, root))


def read_binary_folder(folder: Path, *, records: int = RECORDS) -> Arrays:
    """The unpacked binary archive. Raises `DamagedFile`, or `InputError` when a batch is missing."""
    return _arrays([read_binary_batch(read_bytes(folder / f"{name}.bin"), folder / f"{name}.bin", records) for name in BATCHES])


def read_archive(path: Path, *, records: int = RECORDS) -> Arrays:
    """The binary archive as it is published, read in place: nothing is unpacked to disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None and member.name.endswith(".bin"):
                    found[Path(member.name).stem] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DamagedFile(f"{path} is no readable archive ({error}): {AGAIN}") from None
    missing = [name for name in BATCHES if name not in found]
    if missing:
        raise DamagedFile(f"{path} holds no {missing[0]}.bin: {AGAIN}")
    return _arrays([read_binary_batch(found[name], path / f"{name}.bin", records) for name in BATCHES])


def read_binary_batch(raw: bytes, path: Path, records: int) -> Batch:
    """Records of one label byte and 3,072 pixel bytes, channel by channel."""
    if len(raw) != records * (1 + PIXELS):
        raise DamagedFile(f"{path} has {len(raw):,} bytes, {records * (1 + PIXELS):,} are expected: {AGAIN}")
    table = np.frombuffer(raw, dtype=np.uint8).reshape(records, 1 + PIXELS)
    return table[:, 1:].reshape(-1, 3, 32, 32), _checked(table[:, 0], path)


def read_pickle_folder(folder: Path, *, hashes: dict[str, str] = PICKLES, records: int = RECORDS) -> Arrays:
    """torchvision's folder of batches, each with a checked hash."""
    return _arrays([read_pickled_batch(folder / name, hashes[name], records) for name in BATCHES])


def read_pickled_batch(path: Path, known_hash: str, records: int) -> Batch:
    """One batch of torchvision's layout, of which only the published content is accepted."""
    check_hash(path, known_hash)
    try:
        batch = _NumbersOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels, labels = batch[b"data"], np.asarray(batch[b"labels"], dtype=np.int64)
        raw, shape = bytes(pixels.raw), tuple(pixels.shape)
    except Exception as error:  # a pickle can fail in any way
        raise DamagedFile(f"{path} is no batch of CIFAR-10 ({first_line(error)}): {AGAIN}") from None
    if shape != (records, PIXELS) or len(raw) != prod(shape) or labels.shape != (records,):
        raise DamagedFile(f"{path} holds pixels {shape} and labels {labels.shape}, {records} of each are expected: {AGAIN}")
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3, 32, 32), _checked(labels, path)


class _Pixels:
    """Stands for a numpy array while a batch is read: keeps shape and bytes, runs nothing."""

    def __init__(self, *_: Any) -> None:
        self.shape: Any = ()
        self.raw: Any = b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, _, _, self.raw = state


class _NumbersOnly(pickle.Unpickler):
    """Reads dicts, lists, numbers, strings and arrays, and nothing else.

    A pickle may name any function for its reader to call, which is why this project stores none. torchvision's layout is
    pickles, though, and people have it on disk. So the three names that an array in these files needs stand for a class of
    ours that only keeps bytes, every other name is refused, and files with another hash are not even opened.
    """

    ARRAYS = ("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _Dtype if name == "dtype" else _Pixels


class _Dtype:
    """Stands for a numpy dtype while a batch is read."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _checked(labels: Array, path: Path) -> Array:
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= CLASSES:
        raise DamagedFile(f"{path} holds the label {labels.max()}, CIFAR-10 has 0 to {CLASSES - 1}: {AGAIN}")
    return labels


def _arrays(batches: list[Batch]) -> Arrays:
    images, labels = (np.concatenate([batch[part] for batch in batches[:-1]]) for part in (0, 1))
    return Arrays("cifar10", images, labels, *batches[-1])
