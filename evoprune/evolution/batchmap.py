"""DEAP's `map` for masks: a generation is trained at once, what is finished is journaled, what is known is not trained again."""

from __future__ import annotations

import functools
import json
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, NoReturn, Self

from evoprune import seeds
from evoprune.errors import InputError, TrainingFailed
from evoprune.evolution.executors import Executor, Serial
from evoprune.evolution.executors.chunks import Chunks
from evoprune.evolution.gathering import Gathering
from evoprune.evolution.jobs import Finished, Job, Key, Record
from evoprune.evolution.journal import Journal, store_folder
from evoprune.evolution.lines import digest_of
from evoprune.evolution.operators.lineage import lineage_of
from evoprune.evolution.store import Store, Trained
from evoprune.evolution.trainer import Trainer
from evoprune.formats import as_json, without_nan
from evoprune.masks.mask import Mask
from evoprune.training.ledger import Ledger

__all__ = ["BatchMap", "Evaluator", "core", "parts_of", "wraps"]

log = logging.getLogger("evoprune")

LINEAGE = 4000
"""Characters of a lineage that a line of the journal takes."""


class _Shared:
    """Copies of a toolbox have one map between them: its journal has one writer."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class Evaluator(_Shared):
    """Fitness of one individual as a tuple, as DEAP expects; through its map, so nothing is trained twice."""

    __slots__ = ("__weakref__", "map")  # `toolbox.register` would copy a `__dict__` into its partial, and pickle that
    __name__ = "evaluate"

    def __init__(self, batch_map: BatchMap) -> None:
        self.map = batch_map

    def __call__(self, individual: Any) -> tuple[float, ...]:
        call = Gathering.current()
        return call.ask(individual) if call is not None else self.map.batch([individual])[0]

    def __reduce__(self) -> tuple[Callable[..., Evaluator], tuple[Trainer, str | None]]:
        return _bare, (self.map.trainer, self.map.inherit)  # in another process: without journal and executor


def _bare(trainer: Trainer, inherit: str | None = None) -> Evaluator:
    return BatchMap(trainer, inherit=inherit).evaluator


class _Itself:
    """Left on an individual that was evaluated; a clone goes without, which tells a child from who is evaluated again."""

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None


class BatchMap(_Shared):
    """Given its evaluator it trains all individuals at once; given any other function it is the ordinary map.

    A decorated evaluator is called one by one, and what it asks is trained at once. Identical masks are trained once.

    chunk: networks a sub-batch (at most); None takes what an engine's chunk holds. A kill loses at most the sub-batches in
    flight; the size changes no result. retries: of an evaluation that raised, before it is marked failed.
    inherit: "weights" starts children from the trained survivors of the individual they were cloned from.

    trained: networks trained by this process. ledger: what the evaluations asked for cost, those that the journal answered
    included. earlier_s: seconds that the processes before this one trained what the journal answered, with as many workers.
    journal, store: where finished evaluations and their trained weights are kept.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        executor: Executor | None = None,
        journal: Journal | None = None,
        inherit: str | None = None,
        chunk: int | None = None,
        retries: int = 2,
    ) -> None:
        self.trainer, self.executor, self.journal = trainer, executor or Serial(), journal
        self.store = Store(None if journal is None else store_folder(journal.path))
        self.inherit, self.chunk, self.retries = inherit, chunk, retries
        self.evaluator = Evaluator(self)
        self.trained = 0
        self.ledger, self.earlier_s = Ledger(), 0.0
        self._records: dict[str, Record] = {} if journal is None else journal.records
        self._answered = frozenset(self._records)
        self._counted: set[str] = set()
        self._lineages: dict[str, dict[str, Any]] = {}
        self._holding: dict[str, Trained] = {}
        self._starts: dict[str, Trained] = {}
        self._ready: tuple[Trainer, int] | None = None
        self._told = False
        self._lock = threading.RLock()

    def __call__(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterable[Any]:
        if len(iterables) == 1 and core(function) is self.evaluator:
            individuals = list(iterables[0])
            for individual in individuals:
                _check_direction(individual, self.trainer)
            return self.batch(individuals)
        if len(iterables) == 1 and wraps(function, self.evaluator):
            return Gathering(self.batch).run(function, list(iterables[0]))
        if not self._told and getattr(function, "__name__", "") not in ("clone", "deepcopy"):
            log.warning(
                "map: %r is not the toolbox's own evaluator, so it is called for one individual after the other", function
            )
            self._told = True
        return map(function, *iterables)

    @functools.cached_property
    def configuration(self) -> str:
        """Digest of what decides an evaluation next to its key: equal in every process that evaluates alike."""
        return digest_of(parts_of(self.trainer, self.inherit))

    # ---- a generation -------------------------------------------------------------------------------------------

    def batch(self, individuals: Sequence[Any], repetition: int | Sequence[int] = 0) -> list[tuple[float, ...]]:
        """One fitness tuple an individual, in their order.

        repetition: which repetition of the evaluation, for all or for each; it decides the seed of the training. Each
        individual learns `evaluation` (the id of repetition 0), `configuration` (what else decided it), `inherited` (the
        evaluation it started from), `failed`, and where weights are inherited or operators guided `trained` and `told`.
        Threads that ask at the same time take turns.
        """
        with self._lock:
            return self._batch(individuals, repetition)

    def _batch(self, individuals: Sequence[Any], repetition: int | Sequence[int]) -> list[tuple[float, ...]]:
        repetitions = [repetition] * len(individuals) if isinstance(repetition, int) else list(repetition)
        masks = [_mask(individual, self.trainer) for individual in individuals]
        keys = [
            Key(mask.hash, number, self._parent(individual, number))
            for individual, mask, number in zip(individuals, masks, repetitions, strict=True)
        ]
        if self.trainer.whole:
            keys = _as_cohort(keys)
        asked: dict[Key, tuple[Any, Mask]] = {}
        for key, individual, mask in zip(keys, individuals, masks, strict=True):
            asked.setdefault(key, (individual, mask))
        with seeds.isolated():
            self._train(asked)
        results = []
        for individual, key in zip(individuals, keys, strict=True):
            record = self._records[key.id]
            self._count(record)
            self._tell(individual, record)
            results.append(self.trainer.fitness(record))
        self._holding.clear()
        self._starts.clear()
        return results

    def knows(self, individual: Any) -> bool:
        """Whether the individual's last evaluation is one of this map's configuration, whoever made it and when."""
        return getattr(individual, "configuration", None) == self.configuration

    def competed(self, individuals: Sequence[Any]) -> bool:
        """Whether the last evaluations of all individuals belong to one cohort, so that their values compare."""
        records = [self._records.get(one.evaluation) if self.knows(one) else None for one in individuals]
        return len({record and record.key.cohort for record in records}) <= 1 and None not in records

    def _parent(self, individual: Any, repetition: int) -> str | None:
        """The evaluation whose trained weights an individual starts from: that of the individual it was cloned from.

        One that is evaluated again starts where it started. What the map has not trained itself, or has forgotten, it takes
        from the individual: from a pickle, or from another toolbox.
        """
        last = getattr(individual, "evaluation", None)
        if self.inherit is None or last is None:
            return None
        itself = individual.fitness.valid or getattr(individual, "itself", None) is not None
        again = bool(repetition) or (itself and self._mask_of(last, individual) == individual.mask.hash)
        found, held = (
            getattr(individual, name, None) for name in (("inherited", "start") if again else ("evaluation", "trained"))
        )
        if found is None:
            return None
        if not self.knows(individual):  # another toolbox names its own evaluation of the same mask so
            found = digest_of({"configuration": getattr(individual, "configuration", None), "evaluation": found})
        if found in self._records and self._records[found].failed:
            return None
        if held is not None and found not in self.store:
            self.store.put(found, held)
        if found not in self._records and found not in self.store:
            log.warning("map: nobody holds the weights that an individual inherits: it starts from the initial ones")
            return None
        return str(found)

    def _mask_of(self, evaluation: str, individual: Any) -> str | None:
        """Hash of the mask of an evaluation: the individual's last one."""
        if self.knows(individual) and evaluation in self._records:
            return self._records[evaluation].key.mask
        trained: Trained | None = getattr(individual, "trained", None)
        return None if trained is None else trained.mask.hash

    def _train(self, asked: dict[Key, tuple[Any, Mask]]) -> None:
        """Train what neither memory nor journal knows."""
        missing = {key: value for key, value in asked.items() if not self._known(key)}
        if not missing:
            return
        if self.journal is not None:
            self.journal.check()  # before the training that it would lose
        if self.trainer.whole:
            missing = asked
        jobs = [
            Job(key, mask, None if key.inherits is None else self.store.get(key.inherits)) for key, (_, mask) in missing.items()
        ]
        self._starts = {job.key.inherits: job.start for job in jobs if job.key.inherits is not None and job.start is not None}
        self._lineages = {key.id: _lineage(individual) for key, (individual, _) in missing.items()}
        trainer, size = self._prepare(len(jobs))
        chunks = Chunks(jobs, size, objectives=trainer.names, retries=self.retries, whole=trainer.whole)
        succeeded, given_up = False, []
        with closing(self.executor.run(trainer, chunks)) as running:
            for finished in running:
                given_up += [one for one in finished if one.given_up]
                done = [one for one in finished if not one.given_up]
                succeeded = succeeded or bool(done)
                self._keep(done + given_up if succeeded else [], trainer)
                given_up = [] if succeeded else given_up
        if given_up and (len(jobs) > 1 or all(record.failed for record in self._records.values())):
            raise TrainingFailed(f"all {len(jobs)} evaluations failed, nothing was kept: {given_up[-1].record.error}") from (
                chunks.errors[-1]
            )
        self._keep(given_up, trainer)

    def _known(self, key: Key) -> bool:
        """Whether an evaluation is finished; where its trained weights are needed, they must be there too."""
        record = self._records.get(key.id)
        kept = self.trainer.keep or self.trainer.guided
        return record is not None and (not kept or record.failed or bool(key.repetition) or key.id in self.store)

    def _prepare(self, jobs: int) -> tuple[Trainer, int]:
        """The trainer on its engine, and the size of a sub-batch."""
        if self._ready is None:
            known = None if self.journal is None else self.journal.engine
            engine, rows = self.executor.plan(self.trainer if known is None else self.trainer.on(known))
            self._ready = self.trainer.on(engine), self.chunk or rows
        trainer, size = self._ready
        return trainer, min(size, -(-jobs // self.executor.workers))

    def _keep(self, finished: Sequence[Finished], trainer: Trainer) -> None:
        if not finished:
            return
        for one in finished:
            one.record.lineage = self._lineages.get(one.record.key.id, {})
            if one.trained is not None and not one.record.key.repetition:
                self.store.put(one.record.key.id, one.trained)
                self._holding[one.record.key.id] = one.trained
        records = [one.record for one in finished if one.record.key.id not in self._records]
        if self.journal is not None:
            self.journal.append(records, engine=trainer.training["engine"])
        self._records |= {record.key.id: record for record in records}
        self.trained += len(finished)

    def _count(self, record: Record) -> None:
        """Add the cost of an evaluation the first time it is asked for, in the order of asking."""
        if record.key.id not in self._counted:
            self._counted.add(record.key.id)
            cost = Ledger(**record.cost)
            self.ledger += cost
            self.earlier_s += cost.wall_s / self.executor.workers if record.key.id in self._answered else 0.0

    def _start(self, key: str | None) -> Trained | None:
        if key is None or (key not in self._starts and key not in self.store):
            return None
        return self._starts[key] if key in self._starts else self.store.get(key)

    def _trained(self, key: str) -> Trained:
        return self._holding[key] if key in self._holding else self.store.get(key)

    @property
    def counted(self) -> int:
        """Evaluations whose cost is in the ledger."""
        return len(self._counted)

    def _tell(self, individual: Any, record: Record) -> None:
        """Leave on an individual what became of it."""
        configuration = self.configuration  # what goes wrong with it is no matter of the individual
        with suppress(AttributeError, TypeError):  # a class with slots does without
            individual.failed = record.failed
            if record.key.repetition:
                return
            if getattr(individual, "evaluation", None) != record.key.id or not self.knows(individual):
                vars(individual).pop("scores", None)  # those of the individual that it was cloned from
            individual.evaluation, individual.inherited = record.key.id, record.key.inherits
            individual.configuration = configuration
            individual.itself = _Itself()
            if self.inherit is not None:
                individual.start = self._start(record.key.inherits)  # for its repetitions, here or elsewhere
            if self.trainer.keep or self.trainer.guided:
                individual.trained = None if record.failed else self._trained(record.key.id)
            if self.trainer.guided:
                individual.told = None if individual.trained is None else individual.trained.told()

    def close(self) -> None:
        """Let the workers go and give the journal's lock back."""
        self.executor.close()
        if self.journal is not None:
            self.journal.close()

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a toolbox and its map cannot be pickled, they hold a journal and workers: pickle individuals, populations or "
            "toolbox.evaluate (which trains where it arrives, without a journal), or call make_toolbox there"
        )

    def __repr__(self) -> str:
        return f"BatchMap({len(self._records)} evaluations known, {self.trained} trained here, journal {self.journal})"


def _mask(individual: Any, trainer: Trainer) -> Mask:
    mask = getattr(individual, "mask", None)
    if not isinstance(mask, Mask):
        raise InputError(f"{type(individual).__name__} has no mask: evaluate Individuals, or register your own evaluate")
    if mask.space is not trainer.problem.space and mask.space != trainer.problem.space:
        raise InputError(f"an individual belongs to another model than {trainer.problem.model_name!r}: make it with this toolbox")
    return mask


def _check_direction(individual: Any, trainer: Trainer) -> None:
    """What is returned becomes the individual's fitness as it is, so both must mean the same by better."""
    weights = getattr(getattr(individual, "fitness", None), "weights", None) or ()
    for name, own, meant in zip(trainer.names, weights, trainer.weights, strict=False):  # DEAP refuses another number of values
        if (own > 0) != (meant > 0):
            raise InputError(
                f"the fitness weights {tuple(weights)} of an individual select the worst by {name!r}: make it with the "
                f"toolbox's individual(), population() or from_mask(mask), or give its fitness weights={trainer.weights}"
            )


def parts_of(trainer: Trainer, inherit: str | None) -> dict[str, Any]:
    """What decides an evaluation next to its key, JSON-able: for a journal's header."""
    return {**trainer.parts(), "inherit": inherit}


def _as_cohort(keys: Sequence[Key]) -> list[Key]:
    """The keys of evaluations that compete with each other."""
    cohort = Key("+".join(sorted({key.id for key in keys}))).id
    return [replace(key, cohort=cohort) for key in keys]


def _lineage(individual: Any) -> dict[str, Any]:
    """The lineage as a line of the journal holds it: in short where it is long (a guided operator's holds its changes)."""
    lineage: dict[str, Any] = without_nan(as_json(lineage_of(individual)))
    if len(json.dumps(lineage)) <= LINEAGE:
        return lineage
    return {name: lineage[name] for name in ("operator", "seed", "parents") if name in lineage}


def core(function: Any) -> Any:
    """The function under `toolbox.register`'s partial."""
    while isinstance(function, functools.partial) and not function.args and not function.keywords:
        function = function.func
    return function


def wraps(function: Any, evaluator: Evaluator) -> bool:
    """Whether `function` is a decoration of the evaluator (by way of `functools.wraps`, as DEAP's are)."""
    while function is not None and function is not evaluator:
        function = function.func if isinstance(function, functools.partial) else getattr(function, "__wrapped__", None)
    return function is evaluator
