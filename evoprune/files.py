"""Files that are either whole or not there: atomic writes, and safetensors files that say what they are.

Every writer of the package goes through `atomic_write`; masks, tickets and populations go through `write_tensors`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from evoprune.errors import DamagedFile, EvopruneError, InputError

__all__ = ["Arrays", "atomic_write", "read_tensors", "sync_folder", "write_tensors"]

Arrays = dict[str, npt.NDArray[Any]]
NO_SUCH_PLACE = {
    getattr(errno, name) for name in ("ENOENT", "ENOTDIR", "EISDIR", "EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "ELOOP")
}
HEADER = "evoprune"  # one metadata key: safetensors writes several in random order, and equal content shall be equal bytes
DIGEST = "sha256"  # of the arrays: a flipped bit in a weight breaks no structure


def atomic_write(path: str | os.PathLike[str], content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write `content` (bytes, or a function that writes to the open binary file) to `path`, all or nothing.

    The bytes go to a temporary file in the same folder, are synced, and take the name in one step; after a crash or an
    error in the writer the old file is untouched. Returns the path. Raises `InputError` when there cannot be such a file
    (no folder, no permission), `EvopruneError` when the disk fails or is full.
    """
    target = Path(path)
    final = Path(os.path.realpath(target))  # a link keeps pointing to the file
    temporary = final.with_name(f".{final.name[:50]}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
    except OSError as error:
        _discard(temporary)
        reason = f"cannot write {target}: {error.strerror or error}"
        if error.errno in NO_SUCH_PLACE:
            raise InputError(f"{reason}; give a file name in a folder that exists and is writable") from None
        raise EvopruneError(f"{reason}; nothing was changed") from error
    except BaseException:
        _discard(temporary)
        raise
    sync_folder(final.parent)
    return target


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a new name in the folder durable too, where the platform and the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, npt.NDArray[Any]], header: Mapping[str, Any]) -> Path:
    """Write arrays and a JSON-able `header` as one safetensors file, atomically; equal content gives equal bytes.

    `header` should hold "format" (what the file is) and "version", which `read_tensors` checks; a digest of the arrays is added.
    """
    plain = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    return atomic_write(path, save(plain, {HEADER: json.dumps({**header, DIGEST: _digest(plain)}, sort_keys=True)}))


def read_tensors(path: str | os.PathLike[str], *, format: str, version: int, lost: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the header of a file of `write_tensors`.

    format, version: what the header must say; a newer version is refused. lost: what a damaged file loses ("the mask").
    Raises `InputError` when no file can be opened, `DamagedFile` when it is cut, altered, or not of this format.
    """
    tensors, header = _read(path, lost)
    found = header.get("format") if isinstance(header, dict) else None
    if found != format:
        raise DamagedFile(f"{path} is no {format} file ({found or 'unknown content'}): {lost} cannot be read, give another file")
    if not isinstance(header.get("version"), int) or header["version"] > version:
        written = header.get("version")
        raise DamagedFile(f"{path} has format version {written}, this evoprune reads up to {version}: upgrade evoprune")
    if header.pop(DIGEST, None) not in (None, _digest(tensors)):  # files from before it have none
        raise DamagedFile(
            f"{path} was altered after it was written (its values have another digest): {lost} cannot be read, make it again"
        )
    return tensors, header


def _digest(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 of the arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()


def _read(path: str | os.PathLike[str], lost: str) -> tuple[Arrays, Any]:
    try:
        open(path, "rb").close()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give the path of a file") from None
    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            return tensors, json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        message = f"{path} is damaged or not a safetensors file ({reason}): {lost} cannot be read, make it again"
        raise DamagedFile(message) from None
