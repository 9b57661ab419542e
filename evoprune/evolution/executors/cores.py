"""What worker processes share: the cores of this machine, and the way to them."""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

from evoprune.errors import InputError
from evoprune.values import whole

__all__ = ["VARIABLES", "check_numbers", "cores", "packed", "tied_to_session"]

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""How libraries are told their number of threads before they are loaded."""
MAIN = b"__main__"
"""How a pickle refers to what the main module defines."""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_numbers(**numbers: object) -> None:
    """Raises `InputError` unless all are whole numbers >= 1."""
    for name, value in numbers.items():
        whole(name, value, 1)


def packed(content: Any, what: str) -> bytes:
    """`content` pickled for another process; raises `InputError` about `what` cannot go there.

    Whole, since torch's own way between processes keeps a file open for every tensor.
    """
    try:
        data = pickle.dumps(content)
    except Exception as error:
        raise _stays(what, " ".join(str(error).split())) from error
    if not _main_has_file() and MAIN in data:
        raise _stays(what, "it refers to what a notebook or a prompt defines")
    return data


def tied_to_session(content: Any) -> bool:
    """Whether `content` refers to what a notebook or a prompt defines: other processes have no file to import that from."""
    try:
        return not _main_has_file() and MAIN in pickle.dumps(content)  # a script need not pickle its data for this
    except Exception:  # `packed` says what is wrong
        return False


def _main_has_file() -> bool:
    return getattr(sys.modules["__main__"], "__file__", None) is not None


def _stays(what: str, reason: str) -> InputError:
    return InputError(
        f"{what} cannot be sent to worker processes ({reason}): define its model builder, loss and criteria at the top level of "
        "a module, or work with workers=1 and no executor"
    )
