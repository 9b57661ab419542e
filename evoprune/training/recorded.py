"""A training step recorded once and replayed: no kernel is launched from Python, nothing is copied, and nobody waits.

On a GPU a step of small networks is hundreds of short kernels, and launching them takes longer than running them. Two CUDA
graphs hold them: the gradients of a batch, and the optimizer's step. What changes from step to step are numbers on the
device: the order of the epoch, the position in it, and the schedule.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evoprune import seeds

if TYPE_CHECKING:
    from evoprune.training.population import Population

__all__ = ["RECORDERS", "WATCHERS", "Recorded"]

log = logging.getLogger("evoprune")

WARM = 3
"""Steps of a layout that run singly before it is recorded: libraries and the optimizer's state set themselves up in them."""

Replay = Callable[[], Any]
Recorder = Callable[[Callable[[], None], Any, torch.device], tuple[Replay, Any]]
Watcher = Callable[[torch.device], AbstractContextManager[list[str]]]


class Recorded:
    """The steps of one layout of a population: a few singly, then from the recording.

    It keeps no reference to the population, whose memory is then free as soon as nobody uses it.
    """

    def __init__(self, population: Population, record: Recorder) -> None:
        batches, device = population.batches, population.device
        self.record = record
        self.order = torch.zeros((batches.per_epoch, batches.size), dtype=torch.int64, device=device)
        self.rates = torch.zeros(batches.per_epoch, dtype=torch.float32, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.taken = 0
        self.refused = False
        self._replays: tuple[Replay, Replay | None] | None = None
        self._places: tuple[Any, int] = (None, -1)

    @classmethod
    def of(cls, population: Population) -> Recorded | None:
        """Where steps can be recorded: on a GPU, by an engine that allows it, unless weights are dropped on the host."""
        training, record = population.training, RECORDERS.get(population.device.type)
        if record is None or not training.cuda_graphs or not population.engine.recordable or training.drop_rate:
            return None
        return cls(population, record)

    def step(self, population: Population, order: Tensor) -> None:
        """One step of all networks, the trace and the optimizer. order: of the epoch, `(per_epoch, size)`."""
        if self._replays is None and self.taken >= WARM and not self.refused:
            self._try(population)
        if self._replays is None:
            self._singly(population, order)
        else:
            self._replay(population, order)
        self.taken += 1

    def _singly(self, population: Population, order: Tensor) -> None:
        with _aside(population.device), self._watch(population.device) as waits:
            population._take(order[population.steps % len(order)])
        if self.taken < WARM and not self.refused:
            if _drew(population):
                self._refuse("this step", "it draws random numbers, each step others")
            elif waits:
                self._refuse("this step", f"the host waits for the device in it: {waits[0]}")

    def _watch(self, device: torch.device) -> AbstractContextManager[list[str]]:
        """Of the last step before the recording: where the host waits in it."""
        watcher = WATCHERS.get(device.type) if self.taken == WARM - 1 and not self.refused else None
        return nullcontext([]) if watcher is None else watcher(device)

    def _try(self, population: Population) -> None:
        """Record; what cannot be recorded has changed nothing, and goes on singly."""
        gradients = self._record("this step", lambda: self._gradients(population), None, population.device)
        if gradients is None:
            return
        lr, update = population.optimizer.param_groups[0]["lr"], None
        if isinstance(lr, Tensor):
            update = self._record("the optimizer's step", lambda: self._update(population, lr), gradients[1], population.device)
        self._replays = gradients[0], None if update is None else update[0]

    def _record(self, what: str, call: Callable[[], None], pool: Any, device: torch.device) -> tuple[Replay, Any] | None:
        try:
            return self.record(call, pool, device)
        except RuntimeError as error:
            self._refuse(what, str(error).splitlines()[0] if str(error) else type(error).__name__)
            return None

    def _refuse(self, what: str, why: str) -> None:
        self.refused = True
        log.warning("%s cannot be recorded as a CUDA graph (%s): its kernels are launched one by one", what, why)

    def _gradients(self, population: Population) -> None:
        indices = self.order.index_select(0, self.position)[0]
        inputs, targets = population.batches.rows(indices)
        population._gradients(inputs, targets, seeded=False)

    def _update(self, population: Population, lr: Tensor) -> None:
        lr.copy_(self.rates.index_select(0, self.position)[0])
        population._update()
        self.position.add_(1)

    def _replay(self, population: Population, order: Tensor) -> None:
        assert self._replays is not None
        gradients, update = self._replays
        if self._places[0] is not order or self._places[1] != population.steps:  # a new epoch, or steps were taken elsewhere
            self._place(population.steps % len(order), order, [population.rate(step) for step in self._epoch(population)])
        gradients()
        if population.trace.sums:
            population.trace.accumulate()
        if update is not None:
            update()
        else:
            population.set_rate()
            population._update()
            self.position.add_(1)
        self._places = order, population.steps + 1

    def _epoch(self, population: Population) -> range:
        """Global steps of the running epoch."""
        first = population.steps - population.steps % len(self.order)
        return range(first, first + len(self.order))

    def _place(self, position: int, order: Tensor, rates: Sequence[float]) -> None:
        """Put what the steps of an epoch read onto the device."""
        self.order.copy_(order)
        self.rates.copy_(torch.tensor(rates, dtype=torch.float32))
        self.position.fill_(position)


def _drew(population: Population) -> bool:
    """Whether the step just taken used random numbers: then the generators are not as seeding leaves them."""
    if not population.engine.random:
        return False
    after = seeds.states()
    population.seed_dropout()
    return after != seeds.states()


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """The block's kernels on a stream of their own, as recording will have them; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    main, own = torch.cuda.current_stream(device), _stream(device)
    own.wait_stream(main)
    with torch.cuda.stream(own):
        yield
    main.wait_stream(own)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings of a device: libraries keep memory for every stream that they ever met."""
    return torch.cuda.Stream(device)


_FAILED: list[Any] = []
"""Graphs whose capture has no end: torch's allocator goes on asking each which allocations are its own, so they must stay."""


def _cuda_graph(call: Callable[[], None], pool: Any, device: torch.device) -> tuple[Replay, Any]:
    """`call` as a CUDA graph, and the memory that a later graph may share; `call` itself computes nothing."""
    with torch.cuda.device(device):
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=_stream(device)):
                call()
        except BaseException:
            if _ended(graph):
                graph.reset()  # of what was captured until memory ran out, for one, which is free again
            else:
                _FAILED.append(graph)
            raise
        finally:
            torch.cuda.set_stream(before)  # torch leaves its own where the end of a capture fails
    return graph.replay, graph.pool()


def _ended(graph: torch.cuda.CUDAGraph) -> bool:
    """Whether the capture of `graph` has come to an orderly end; its pool can be named only then."""
    try:
        graph.pool()
    except RuntimeError:
        return False
    return True


RECORDERS: dict[str, Recorder] = {"cuda": _cuda_graph}
"""By device type: (call, memory to share, device) -> (replay, memory it holds)."""


@contextmanager
def _cuda_waits(device: torch.device) -> Iterator[list[str]]:
    """Where the host waits for the device in the block; the list is filled at the end of it.

    Such a step cannot be captured, and the attempt would leave torch's generators and allocator in the middle of a capture.
    """
    waits: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for one in caught:
        if "called a synchronizing" in str(one.message):
            waits.append(f"{Path(one.filename).name}, line {one.lineno}")
        elif "Synchronization debug mode" not in str(one.message):  # that it is a prototype
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


WATCHERS: dict[str, Watcher] = {"cuda": _cuda_waits}
"""By device type: a context whose list holds, after it, where the host waited for the device in it."""
