"""What worker processes share: the cores of this machine, and the way to them."""

from __future__ import annotations

import os
import pickle
from typing import Any

from evoprune.errors import InputError

__all__ = ["VARIABLES", "check_numbers", "cores", "packed"]

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""How libraries are told their number of threads before they are loaded."""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_numbers(**numbers: object) -> None:
    """Raises `InputError` unless all are whole numbers >= 1."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r} is not usable: give a whole number >= 1")


def packed(content: Any, what: str) -> bytes:
    """`content` pickled for another process; raises `InputError` about `what` cannot go there.

    Whole, since torch's own way between processes keeps a file open for every tensor.
    """
    try:
        return pickle.dumps(content)
    except Exception as error:
        raise InputError(
            f"{what} cannot be sent to worker processes ({' '.join(str(error).split())}): define its model builder, loss and "
            "criteria at the top level of a module, or work with workers=1 and no executor"
        ) from error
