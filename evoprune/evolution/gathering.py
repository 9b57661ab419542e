"""Calls of a decorated evaluate, gathered: each waits where it needs a training until all that can be trained together are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Gathering"]

Batch = Callable[[Sequence[Any]], list[tuple[float, ...]]]


class _Call(threading.Thread):
    """One call of the function; it runs only while the others wait, so the order of their side effects is fixed."""

    def __init__(self, function: Callable[[Any], Any], argument: Any, turn: threading.Semaphore) -> None:
        super().__init__(daemon=True)
        self.function, self.argument, self.turn = function, argument, turn
        self.resume = threading.Semaphore(0)
        self.asked: Any = None
        self.answer: tuple[float, ...] = ()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function(self.argument)
        except BaseException as error:
            self.error = error
        finally:
            self.turn.release()

    def ask(self, individual: Any) -> tuple[float, ...]:
        """Called from within the function, in this thread."""
        self.asked = individual
        self.turn.release()
        self.resume.acquire()
        error, self.error = self.error, None  # the function may handle it
        if error is not None:
            raise error
        return self.answer


class Gathering:
    """Runs a function on many individuals at once, and what it asks of the evaluator in one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    @staticmethod
    def current() -> _Call | None:
        """The gathered call that the running code belongs to."""
        thread = threading.current_thread()
        return thread if isinstance(thread, _Call) else None

    def run(self, function: Callable[[Any], Any], individuals: Sequence[Any]) -> list[Any]:
        """`[function(individual) for individual in individuals]`; raises the first error that one of them raised."""
        turn = threading.Semaphore(0)
        calls = [_Call(function, individual, turn) for individual in individuals]
        for call in calls:
            call.start()
            turn.acquire()
        while waiting := [call for call in calls if call.asked is not None]:
            try:
                answers: list[Any] = self.batch([call.asked for call in waiting])
            except BaseException as error:
                answers = [error] * len(waiting)
            for call, answer in zip(waiting, answers, strict=True):
                call.asked = None
                if isinstance(answer, BaseException):
                    call.error = answer
                else:
                    call.answer = answer
                call.resume.release()
                turn.acquire()
        for call in calls:
            if call.error is not None:
                raise call.error
        return [call.result for call in calls]
