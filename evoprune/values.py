"""Values that a user gives: taken as Python's numbers, or refused in one line that says what to give."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np

from evoprune.errors import InputError

__all__ = ["is_number", "is_whole", "native", "positive", "probability", "share", "whole"]


def native(value: Any) -> Any:
    """A scalar of numpy's as Python's, which JSON knows; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def is_whole(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether it is a whole number of at least `least`; a boolean is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= least)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number; a boolean is none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool) and math.isfinite(value)


def whole(name: str, value: object, least: int = 0, *, give: str = "a whole number") -> int:
    """`value` as an int of at least `least`, or `InputError`, which says what to `give`."""
    if not is_whole(value, least):
        raise InputError(f"{name}={value!r} is not usable: give {give} >= {least}")
    return int(value)


def positive(name: str, value: object, *, zero: bool = False) -> float:
    """`value` as a finite float above 0, or at least 0 where `zero` is allowed; else `InputError`."""
    if not is_number(value) or value < 0 or (value == 0 and not zero):
        raise InputError(f"{name}={value!r} is not usable: give a finite number {'>=' if zero else '>'} 0")
    return float(value)


def probability(name: str, value: object) -> float:
    """`value` as a float in [0, 1], or `InputError`."""
    if not is_number(value) or not 0 <= value <= 1:
        raise InputError(f"{name}={value!r} is not usable: give a number in [0, 1]")
    return float(value)


def share(name: str, value: object) -> float:
    """`value` as a float in (0, 1], or `InputError`."""
    if not is_number(value) or not 0 < value <= 1:
        raise InputError(f"{name}={value!r} is not usable: give a number in (0, 1]")
    return float(value)
