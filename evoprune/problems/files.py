"""Reading data files, without ever unpickling one; whatever is wrong with a file ends in one line that names it."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from math import prod
from pathlib import Path

import numpy as np

from evoprune.errors import DamagedFile, InputError
from evoprune.problems.arrays import Array

__all__ = ["check_hash", "first_line", "read_bytes", "read_idx", "read_npz"]

AGAIN = "delete it and fetch it again"


def read_bytes(path: Path) -> bytes:
    """The content of `path`, unzipped when its name ends in `.gz`. Raises `DamagedFile` or `InputError`."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedFile(f"{path} is cut short or no gzip file ({error}): {AGAIN}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check the path and its permissions") from None


def check_hash(path: Path, known: str) -> None:
    """Raises `DamagedFile` unless the content of `path` has the hash `known`, written `md5:…` or `sha256:…`."""
    kind, _, expected = known.partition(":")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check the path and its permissions") from None
    if found != expected:
        raise DamagedFile(f"{path} is damaged or another file ({kind} {found}, expected {expected}): {AGAIN}")


def read_idx(path: Path, ndim: int) -> Array:
    """An IDX file of unsigned bytes, gzipped or plain, as a uint8 array of `ndim` dimensions.

    Layout: two zero bytes, 0x08 for uint8, the number of dimensions, each dimension as a big-endian 32-bit number, values.
    Raises `DamagedFile` when the file is something else or cut short.
    """
    raw = read_bytes(path)
    if raw[:4] != bytes((0, 0, 8, ndim)) or len(raw) < 4 + 4 * ndim:
        raise DamagedFile(f"{path} is no IDX file of {ndim} dimensions (it begins with {raw[:4].hex() or 'nothing'}): {AGAIN}")
    shape = tuple(int(size) for size in np.frombuffer(raw, dtype=">u4", count=ndim, offset=4))
    if len(raw) != 4 + 4 * ndim + prod(shape):
        raise DamagedFile(f"{path} has {len(raw) - 4 - 4 * ndim} values, its header promises {prod(shape)}: {AGAIN}")
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * ndim).reshape(shape)


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an `.npz` archive. Raises `InputError` when it is missing or holds objects, `DamagedFile` when damaged."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: give the path of an .npz archive")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array")
            return {key: archive[key] for key in archive.files}
    except PermissionError:
        raise InputError(f"{path} cannot be read: check its permissions") from None
    except Exception as error:  # flipped bits in zip or header can end in any kind of error
        if "Object arrays" in str(error):
            raise InputError(f"{path} holds an array of objects, which is never unpickled: save plain numbers") from None
        reason = first_line(error).partition(" If you trust")[0]  # numpy goes on to advise what is never done here
        raise DamagedFile(f"{path} is no readable .npz archive ({reason}): write it with numpy.savez") from None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
