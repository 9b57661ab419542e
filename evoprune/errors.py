"""One family of exceptions. Each message is one line that says the value, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DamagedFile",
    "EvopruneError",
    "InputError",
    "MaskMismatch",
    "NotEnoughMemory",
    "TestSplitLocked",
    "TrainingFailed",
    "UnknownName",
    "UnsupportedLayer",
]


class EvopruneError(Exception):
    """Base of everything that evoprune raises on purpose. The command line exits with 1 on it."""


class InputError(EvopruneError, ValueError):
    """A value that the user gave cannot be used. The command line exits with 2 on it."""


class UnknownName(InputError):
    """A name that no registry knows; the message suggests the nearest one."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(str(name), self.known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}choose from {', '.join(self.known)}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, object, list[str]]]:
        return type(self), (self.kind, self.name, self.known)


class MaskMismatch(InputError):
    """A mask, individual or ticket belongs to another model than the one it was given to."""


class UnsupportedLayer(InputError):
    """An engine or a transformation cannot handle a layer; the message names it and what to use instead."""


class NotEnoughMemory(EvopruneError, MemoryError):
    """What was asked for does not fit into the memory that is free; nothing was begun."""


class TestSplitLocked(EvopruneError):
    """The test split was asked for outside of `Ticket.test`."""

    __test__ = False  # pytest must not collect it


class DamagedFile(InputError):
    """A file cannot be read; the message names it and what is lost."""


class TrainingFailed(EvopruneError):
    """Training gave no usable network (every individual turned NaN, say)."""
