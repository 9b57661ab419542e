"""Several machines through Ray: actors hold the problem, sub-batches go to whoever is free, a lost node costs what it held.

`pip install '.[ray]'`. Ray is imported when an executor is made.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import fields
from typing import Any

from evoprune import seeds
from evoprune.criteria import CRITERIA, Criterion
from evoprune.errors import EvopruneError, InputError
from evoprune.evolution.executors.chunks import Chunk, Chunks, WorkerDied, travelling
from evoprune.evolution.jobs import Finished, Job
from evoprune.evolution.trainer import Trainer
from evoprune.values import positive, whole

__all__ = ["RayExecutor"]

log = logging.getLogger("evoprune")

PATIENCE = 10.0
"""Seconds between two words about waiting for a free place in the cluster."""
LOSSES = 5
"""Workers that a sub-batch may lose before it is suspected to kill them."""


class _Worker:
    """The actor: a trainer, and the threads it may use."""

    def __init__(self, trainer: Trainer, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.trainer = trainer

    def ready(self) -> bool:
        return True

    def gpus(self) -> str:
        """The GPUs that this process sees, as CUDA reads them."""
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def plan(self) -> tuple[str, int]:
        return self.trainer.plan()

    def train(self, jobs: Sequence[Job]) -> list[Finished]:
        try:
            return self.trainer.train(jobs)
        except Exception as error:
            if (plain := travelling(error)) is error:
                raise
            raise plain from error


class RayExecutor:
    """`workers` actors of `threads` threads and `gpus` GPUs (a share, as 0.5, lets two have one) on a Ray cluster.

    workers: None takes as many as the cluster's GPUs have room for, one a GPU with `gpus=1`, and 2 without GPUs. An actor sees no
    GPU but its own, so `device="cuda"` or "auto" means that one.
    address: of a running cluster ("auto" finds it; "ray://host:10001" from outside). None uses the one this process is
    connected to, and else starts one on this machine. The problem is sent once to every node; a sub-batch is masks (4 bytes a
    survivor) and, where weights are inherited, the parents' values. resources: of Ray, for every actor.
    patience: seconds without any worker before it is an error.

    A sub-batch whose actor or node died is trained elsewhere, and the actor is started again. Raises `InputError` when Ray is
    not installed, no cluster answers at `address`, or it has no room for one actor.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        threads: int = 1,
        gpus: float = 0,
        address: str | None = None,
        resources: dict[str, float] | None = None,
        patience: float = 300,
    ) -> None:
        for name, value in {"workers": 2 if workers is None else workers, "threads": threads}.items():
            whole(name, value, 1)
        positive("gpus", gpus, zero=True)
        self.threads, self.gpus, self.patience = threads, gpus, patience
        self.resources = dict(resources or {})
        with seeds.isolated():  # Ray draws numbers when it starts
            self._ray = _connect(address)
        self._ray.util.register_serializer(Criterion, serializer=_apart, deserializer=_together)
        self._check_room()
        self.workers = self._room() if workers is None else workers
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._trainer: Trainer | None = None
        self._sent: Any = None

    def _check_room(self) -> None:
        """Raises `InputError` when no node can ever hold an actor."""
        wanted = {"CPU": float(self.threads), "GPU": float(self.gpus), **self.resources}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
            raise InputError(f"no node of the Ray cluster has {asked}: lower threads= or gpus=, or add a node")

    def _room(self) -> int:
        """Actors that the GPUs of the cluster have room for."""
        if not self.gpus:
            return 2
        nodes = [node["Resources"].get("GPU", 0) for node in self._ray.nodes() if node["Alive"]]
        return max(1, sum(int(gpus / self.gpus + 1e-9) for gpus in nodes))

    def plan(self, trainer: Trainer) -> tuple[str, int]:
        actor = self._actor(trainer)
        try:
            name, rows = self._ray.get(actor.plan.remote(), timeout=self.patience)
        except self._ray.exceptions.GetTimeoutError:
            raise EvopruneError(f"no Ray actor could start within {self.patience:g} s: see `ray status`") from None
        finally:
            self._ray.kill(actor)
        return str(name), int(rows)

    def run(self, trainer: Trainer, chunks: Chunks) -> Generator[list[Finished], None, None]:
        """Keep every actor busy with one sub-batch; see `Executor`.

        Only an actor that has started is given work: one that finds no room in the cluster keeps nobody waiting.
        """
        if trainer is not self._trainer:
            self.close()
            self._trainer, self._sent = trainer, self._ray.put(trainer)
        flying: dict[Any, tuple[Chunk, Any]] = {}
        lost: deque[Chunk] = deque()
        heard = time.monotonic()
        try:
            while chunks or flying or lost:
                while self._idle and (lost or chunks):
                    chunk, actor = lost.popleft() if lost else chunks.take(), self._idle.pop()
                    flying[actor.train.remote(chunk.jobs)] = (chunk, actor)
                self._start(self.workers - len(flying) - len(self._starting))
                done, _ = self._ray.wait([*flying, *self._starting], num_returns=1, timeout=PATIENCE)
                if done or flying:
                    heard = time.monotonic()
                self._complain(time.monotonic() - heard)
                for reference in done:
                    if reference in flying:
                        yield from self._collect(reference, *flying.pop(reference), chunks, lost)
                    else:
                        self._greet(reference)
        finally:
            for _, actor in flying.values():  # the caller has stopped: nobody waits for these
                self._ray.kill(actor)

    def _start(self, missing: int) -> None:
        """Ask for actors."""
        for _ in range(missing - len(self._idle)):
            actor = self._actor(self._sent)
            self._starting[actor.ready.remote()] = actor

    def _greet(self, reference: Any) -> None:
        """An actor has started, or could not."""
        actor = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._lost as error:
            log.warning("a Ray worker did not start (%s): another is asked for", type(error).__name__)
        except self._ray.exceptions.RayTaskError as error:
            raise InputError(f"Ray workers cannot run this problem: {' '.join(str(error.cause).split())[:300]}") from error
        else:
            self._idle.append(actor)

    def _collect(self, reference: Any, chunk: Chunk, actor: Any, chunks: Chunks, lost: deque[Chunk]) -> Iterator[list[Finished]]:
        try:
            results: list[Finished] = self._ray.get(reference)
        except self._lost as error:
            if chunk.attempts < LOSSES:
                log.warning("a Ray worker was lost with %d networks: they are trained elsewhere", len(chunk.jobs))
                lost.append(Chunk(chunk.jobs, chunk.attempts + 1))
            else:  # so many in a row: it may be the masks
                yield from chunks.failed(chunk, WorkerDied(f"a Ray worker died ({type(error).__name__})"))
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(actor)
            yield from chunks.failed(chunk, error.cause if isinstance(error.cause, Exception) else error)
        else:
            self._idle.append(actor)
            yield results

    def _complain(self, silent: float) -> None:
        """Nothing trains: say so, and give up when patience is at an end."""
        if silent > self.patience:
            raise EvopruneError(
                f"no Ray worker could start for {silent:.0f} s: what is finished is kept, add a node and run again (`ray status`)"
            )
        if silent > PATIENCE / 2:
            log.warning("no Ray worker has room for %.0f s: waiting for a node", silent)

    @property
    def _lost(self) -> tuple[type[Exception], ...]:
        known = self._ray.exceptions
        return known.RayActorError, known.ObjectLostError, known.NodeDiedError

    def _actor(self, trainer: Any) -> Any:
        options: dict[str, Any] = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_restarts": 0}
        if self.resources:
            options["resources"] = self.resources
        variables = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
        remote = self._ray.remote(**options, runtime_env={"env_vars": variables})(_Worker)
        return remote.remote(trainer, self.threads)

    def close(self) -> None:
        """Let the actors go."""
        for actor in (*self._idle, *self._starting.values()):
            self._ray.kill(actor)
        self._idle, self._starting, self._trainer, self._sent = [], {}, None, None

    def __repr__(self) -> str:
        return f"RayExecutor(workers={self.workers}, threads={self.threads}, gpus={self.gpus})"


def _apart(rule: Criterion) -> tuple[Any, tuple[Any, ...]]:
    """A criterion as it travels: what a script or a notebook defines goes along, as its models and losses do; others by name."""
    if rule.function.__module__ != "__main__":
        return rule.__reduce__()
    return _registered_here, tuple(getattr(rule, one.name) for one in fields(rule))


def _together(parts: tuple[Any, tuple[Any, ...]]) -> Criterion:
    make, arguments = parts
    found: Criterion = make(*arguments)
    return found


def _registered_here(*parts: Any) -> Criterion:
    rule = Criterion(*parts)
    return CRITERIA.add(rule.name, rule)


def _connect(address: str | None) -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("RayExecutor needs Ray, which is not installed: pip install ray") from None
    if ray.is_initialized():
        return ray
    try:
        if address is not None and ":" in address:  # Ray itself would try for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address is None else None,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"no Ray cluster answers at address={address!r} ({reason}): start one with `ray start --head`, or leave address= out"
        ) from None
    return ray
