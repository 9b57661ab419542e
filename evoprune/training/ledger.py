"""What a result cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Ledger"]


@dataclass
class Ledger:
    """Cost of a run, losers included; ledgers add up with `+`.

    samples: sum over individuals of training samples seen.
    survivor_updates: sum of samples × survivors × 3 (forward, and both products of backward); a dense scoring gradient
        counts 3 × prunable × samples.
    dense_equivalent_epochs: survivor_updates over those of one epoch of the dense network.
    evaluation_samples: samples seen in evaluation, reported apart.
    wall_s: seconds. device, engine: where and how it trained. configurations: networks that were tried to get here: those
        whose training was begun, and those that branched off from one in training.
    """

    samples: int = 0
    survivor_updates: int = 0
    dense_equivalent_epochs: float = 0.0
    evaluation_samples: int = 0
    wall_s: float = 0.0
    device: str = ""
    engine: str = ""
    configurations: int = 0

    def train(self, samples: int, survivors: Sequence[int], dense_epoch: int) -> None:
        """Count `samples` through each of the networks of `survivors`; dense_epoch: 3 · prunable · training samples."""
        updates = 3 * samples * sum(survivors)
        self.samples += samples * len(survivors)
        self.survivor_updates += updates
        self.dense_equivalent_epochs += updates / dense_epoch

    def score(self, samples: int, prunable: int, training_samples: int, *, seen: bool = True) -> None:
        """Count one gradient of the dense network on `samples`. seen: whether these are training samples not counted yet."""
        self.samples += samples if seen else 0
        self.survivor_updates += 3 * samples * prunable
        self.dense_equivalent_epochs += samples / training_samples

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.samples + other.samples,
            self.survivor_updates + other.survivor_updates,
            self.dense_equivalent_epochs + other.dense_equivalent_epochs,
            self.evaluation_samples + other.evaluation_samples,
            self.wall_s + other.wall_s,
            _join(self.device, other.device),
            _join(self.engine, other.engine),
            self.configurations + other.configurations,
        )

    def as_dict(self) -> dict[str, Any]:
        """Every entry by name."""
        return asdict(self)


def _join(a: str, b: str) -> str:
    return "+".join(part for part in dict.fromkeys([*a.split("+"), *b.split("+")]) if part)
