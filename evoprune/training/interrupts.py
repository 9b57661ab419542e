"""What an interrupt or an error may leave of a training step: all of it, or nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from torch import Tensor

from evoprune.training.optimizers import zero_gradients
from evoprune.training.parameters import Parameters

__all__ = ["interrupted_between", "undone"]


@contextmanager
def interrupted_between() -> Iterator[Callable[[], None]]:
    """An interrupt from the keyboard waits until the block calls what it is given, or ends; a second one does not.

    It would otherwise come between the update of one layer and that of the next, or between an update and its being counted.
    """
    handler = signal.getsignal(signal.SIGINT)
    came: list[tuple[int, FrameType | None]] = []
    if not callable(handler) or threading.current_thread() is not threading.main_thread():  # nothing comes here
        yield lambda: None
        return

    def wait(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        signal.signal(signal.SIGINT, handler)

    def let_through() -> None:
        if came:
            handler(*came.pop())
            signal.signal(signal.SIGINT, wait)  # of a handler that goes on

    signal.signal(signal.SIGINT, wait)
    try:
        yield let_through
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came.pop())


@contextmanager
def undone(values: Sequence[Tensor], parameters: Parameters) -> Iterator[None]:
    """Where the block fails, for whatever reason, `values` are what they were before it, and all gradients zero."""
    before = [value.clone() for value in values]
    try:
        yield
    except BaseException:
        zero_gradients(parameters)
        for value, saved in zip(values, before, strict=True):
            value.copy_(saved)
        raise
