"""One evaluation: what is asked (a job), and what is known when it is finished (a record, one line of a journal)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evoprune.evolution.store import Trained
from evoprune.masks.mask import Mask

__all__ = ["Finished", "Job", "Key", "Record"]


@dataclass(frozen=True)
class Key:
    """What decides an evaluation, next to what the journal's header holds.

    mask: hash. repetition: 0 for the first; it decides the training's seed. inherits: id of the evaluation whose trained
    weights it starts from. cohort: hash of all that compete, where the value depends on them.
    """

    mask: str
    repetition: int = 0
    inherits: str | None = None
    cohort: str | None = None

    @property
    def id(self) -> str:
        """Hex digest."""
        text = repr((self.mask, self.repetition, self.inherits, self.cohort))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, eq=False)
class Job:
    """One evaluation to be done; `start` holds the parent's trained weights where they are inherited."""

    key: Key
    mask: Mask
    start: Trained | None = None


@dataclass
class Record:
    """A finished evaluation, JSON-able.

    values: by objective; None where it is not finite. epochs: train_loss, val_loss, val_accuracy, one value an epoch.
    cost: entries of `Ledger`. rung: epochs trained in a tournament. error: why it failed. lineage: of the first who asked.
    """

    key: Key
    values: dict[str, float | None]
    survivors: int
    failed: bool = False
    error: str | None = None
    epochs: dict[str, list[float | None]] = field(default_factory=dict)
    rung: int | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """A line of the journal."""
        line = {**asdict(self.key), "id": self.key.id}
        return line | {name: value for name, value in vars(self).items() if name != "key"}

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Record:
        """From a line of the journal. Raises `KeyError`, `TypeError` for another mapping."""
        key = Key(line["mask"], line["repetition"], line["inherits"], line["cohort"])
        if key.id != line["id"]:
            raise KeyError("id")
        names = ("values", "survivors", "failed", "error", "epochs", "rung", "cost", "lineage")
        return cls(key, **{name: line[name] for name in names})


@dataclass(eq=False)
class Finished:
    """What a worker sends back for one job: the record, and the trained network where it is kept."""

    record: Record
    trained: Trained | None = None

    @property
    def given_up(self) -> bool:
        """Whether training raised until its retries were over."""
        return self.record.failed and not self.record.cost

    @classmethod
    def failure(cls, job: Job, objectives: Sequence[str], error: BaseException) -> Finished:
        """A job that was given up after its retries."""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        return cls(Record(job.key, dict.fromkeys(objectives), job.mask.count, failed=True, error=reason))
